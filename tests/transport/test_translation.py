"""The one door for foreign errors: what they become, what they say, and whether the request may have arrived."""

from __future__ import annotations

import http.client
import ssl
from types import SimpleNamespace

import pytest
import requests
from urllib3 import exceptions as urllib3_errors

from groq_queue.errors import APIConnectionError, APITimeoutError
from groq_queue.transport import Secret
from groq_queue.transport.answer import BadResponse
from groq_queue.transport.base import broke_off, translate
from groq_queue.transport.deadline import Attempt, WatchedConnection

from .conftest import KEY

ADDRESS = "api.example.test:443"


def attempt_at(stage: str) -> Attempt:
    """Return an attempt that got as far as *stage*, on a connection that reports."""
    attempt = Attempt((1.5, 2.5))
    if stage == "nothing":
        return attempt
    attempt.has_begun = True
    attempt.connection = WatchedConnection("127.0.0.1", 9)
    attempt.is_connected = stage != "connecting"
    attempt.wrote = stage in ("written", "answered")
    attempt.answer = SimpleNamespace(status=200) if stage == "answered" else None
    return attempt


def translated(error: BaseException, stage: str) -> APIConnectionError:
    return translate(error, attempt_at(stage), ADDRESS, Secret(KEY))


def wrapped(error: BaseException) -> requests.ConnectionError:
    """Wrap as requests and urllib3 do: an argument of an argument."""
    return requests.ConnectionError(urllib3_errors.ProtocolError("Connection aborted.", error))


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def new_connection_error(kind: type[urllib3_errors.NewConnectionError]) -> BaseException:
    connection = WatchedConnection("127.0.0.1", 9)
    if kind is urllib3_errors.NameResolutionError:
        return kind("api.example.test", connection, OSError(-2, "Name or service not known"))
    return caused(kind(connection, "failed"), ConnectionRefusedError(111, "Connection refused"))


UNVERIFIED = ssl.SSLCertVerificationError(1, "[SSL] certificate verify failed")
UNVERIFIED.verify_message = "self-signed certificate"


@pytest.mark.parametrize(
    ("error", "stage", "sent", "is_final", "text"),
    [
        (
            new_connection_error(urllib3_errors.NameResolutionError), "connecting", "no", False,
            "host name api.example.test cannot be resolved: check the network, the DNS and the spelling",
        ),
        (
            new_connection_error(urllib3_errors.NewConnectionError), "connecting", "no", False,
            f"no connection to {ADDRESS}: Connection refused",
        ),
        (TimeoutError(), "connecting", "no", False, f"no connection to {ADDRESS} within 1.5 s"),
        (TimeoutError(), "written", "unknown", False, f"{ADDRESS} was silent for 2.5 s"),
        (
            requests.ReadTimeout(urllib3_errors.ReadTimeoutError(None, "/", "late")), "answered", "yes", False,
            f"{ADDRESS} was silent for 2.5 s",
        ),
        (
            requests.exceptions.SSLError(urllib3_errors.SSLError(UNVERIFIED)), "connecting", "no", True,
            f"certificate of {ADDRESS} does not verify (self-signed certificate): if you trust that server, "
            "put the path of its CA bundle into SSL_CERT_FILE, or into `verify` of your own requests.Session",
        ),
        (
            ssl.SSLCertVerificationError(1, "hostname 'a' doesn't match 'b'"), "connecting", "no", True,
            f"certificate of {ADDRESS} does not verify (hostname 'a' doesn't match 'b'): if you trust that server, "
            "put the path of its CA bundle into SSL_CERT_FILE, or into `verify` of your own requests.Session",
        ),
        (ssl.SSLError(1, "wrong version number"), "connecting", "no", True,
         f"TLS with {ADDRESS} failed: wrong version number"),
        (ssl.SSLError(1, "bad record mac"), "written", "unknown", False, f"TLS with {ADDRESS} failed: bad record mac"),
        (ssl.SSLEOFError(8, "EOF occurred"), "connecting", "no", False, f"TLS with {ADDRESS} failed: EOF occurred"),
        (ssl.SSLZeroReturnError(6, "closed"), "connecting", "no", False, f"TLS with {ADDRESS} failed: closed"),
        (
            caused(urllib3_errors.SSLError("handshake"), ConnectionResetError(104, "Connection reset by peer")),
            "connecting", "no", False, f"TLS with {ADDRESS} failed: Connection reset by peer",
        ),
        (BadResponse("answer has two lengths"), "answered", "yes", False, f"{ADDRESS}: answer has two lengths"),
        (http.client.IncompleteRead(b"x"), "answered", "yes", False, f"answer of {ADDRESS} was cut short"),
        (
            urllib3_errors.IncompleteRead(1, 2), "answered", "yes", False, f"answer of {ADDRESS} was cut short",
        ),
        (
            wrapped(ConnectionResetError(104, "Connection reset by peer")), "written", "unknown", False,
            f"connection to {ADDRESS} broke before the answer was complete: Connection reset by peer",
        ),
        (
            http.client.RemoteDisconnected("Remote end closed connection without response"), "written", "unknown",
            False,
            f"connection to {ADDRESS} broke before the answer was complete: "
            "Remote end closed connection without response",
        ),
        (
            http.client.LineTooLong("header line"), "answered", "yes", False,
            f"answer of {ADDRESS} was cut short or malformed: got more than 65536 bytes when reading header line",
        ),
        (
            http.client.BadStatusLine("EHLO"), "written", "unknown", False,
            f"exchange with {ADDRESS} failed: BadStatusLine: EHLO",
        ),
        (OSError(28, "No space left on device"), "written", "unknown", False,
         f"exchange with {ADDRESS} failed: OSError: No space left on device"),
        (ValueError("endpoint 'a b' is not a path"), "nothing", "no", False,
         f"exchange with {ADDRESS} failed: ValueError: endpoint 'a b' is not a path"),
        (OSError(), "written", "unknown", False, f"exchange with {ADDRESS} failed: OSError: OSError"),
    ],
)  # fmt: skip
def test_a_foreign_error_is_told_in_our_words(error: BaseException, stage: str, sent: str, is_final: bool, text: str):
    """
    Where it happened, what went wrong, whether it may have arrived and whether trying again can help.
    """
    told = translated(error, stage)

    assert text == str(told)
    assert (sent, is_final) == (told.sent, told.is_final)
    assert ("silent" in text or "within" in text) is isinstance(told, APITimeoutError)


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(), BadResponse("cut"), ValueError("odd")])
def test_after_the_alarm_whatever_was_raised_is_a_time_out(error: BaseException):
    """
    The shutdown makes the libraries raise anything.
    """
    attempt = attempt_at("answered")
    attempt.has_expired = True

    told = translate(error, attempt, ADDRESS, Secret(KEY))

    assert isinstance(told, APITimeoutError)
    assert f"attempt at {ADDRESS} was not complete after 4 s" == str(told)
    assert "yes" == told.sent


@pytest.mark.parametrize(("stage", "peer"), [("connecting", "proxy 10.0.0.1:3128"), ("written", ADDRESS)])
def test_a_proxy_is_named_until_it_has_let_us_through(stage: str, peer: str):
    """
    After that it is the API that broke off.
    """
    attempt = attempt_at(stage)
    attempt.connection.proxy = SimpleNamespace(host="10.0.0.1", port=3128)

    told = translate(ConnectionResetError(104, "Connection reset by peer"), attempt, ADDRESS, Secret(KEY))

    assert str(told).startswith(f"connection to {peer} broke")


def test_a_proxy_whose_name_does_not_exist_is_the_name_that_is_told():
    """
    Not the API's.
    """
    attempt = attempt_at("connecting")
    attempt.connection.proxy = SimpleNamespace(host="proxy.example.test", port=3128)

    told = translate(new_connection_error(urllib3_errors.NameResolutionError), attempt, ADDRESS, Secret(KEY))

    assert str(told).startswith("host name proxy proxy.example.test cannot be resolved")


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (requests.ConnectTimeout(urllib3_errors.ConnectTimeoutError("slow")), "no"),
        (new_connection_error(urllib3_errors.NewConnectionError), "no"),
        (urllib3_errors.LocationParseError("h"), "no"),
        (requests.exceptions.ProxyError(urllib3_errors.ProxyError("no", OSError())), "no"),
        (UNVERIFIED, "no"),
        (BadResponse("too large"), "yes"),
        (requests.ReadTimeout("late"), "unknown"),
        (ConnectionResetError(), "unknown"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_of_a_connection_that_does_not_report_the_error_itself_must_tell(error: BaseException, sent: str):
    """
    An adapter of the user's own: only what cannot come after sending counts as unsent.
    """
    attempt = Attempt((1.0, 1.0))
    attempt.has_begun = True

    assert sent == translate(error, attempt, ADDRESS, Secret(KEY)).sent


def test_what_failed_before_the_session_was_asked_was_not_sent():
    """
    Whatever the error looks like.
    """
    assert "no" == translated(ConnectionResetError(), "nothing").sent


def test_no_text_shows_the_key():
    """
    Servers and libraries repeat what they were sent.
    """
    told = translated(http.client.BadStatusLine(f"Bearer {KEY}"), "written")

    assert KEY not in str(told)
    assert str(told).endswith("BadStatusLine: Bearer gsk_…WXYZ")


class Unspeakable(OSError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_that_cannot_be_shown_is_told_by_its_name():
    """
    A foreign ``__str__`` may do anything.
    """
    assert f"exchange with {ADDRESS} failed: Unspeakable: Unspeakable" == str(translated(Unspeakable(), "written"))


# Errors inside errors


def reasoned(error: BaseException) -> BaseException:
    outer = ValueError("outer")
    outer.reason = error
    return outer


def original(error: BaseException) -> BaseException:
    outer = ValueError("outer")
    outer.original_error = error
    return outer


@pytest.mark.parametrize(
    "wrap",
    [
        lambda error: error,
        lambda error: ValueError("outer", error),
        lambda error: caused(ValueError("outer"), error),
        reasoned,
        original,
        wrapped,
    ],
    ids=["bare", "argument", "cause", "reason", "original_error", "requests"],
)
@pytest.mark.parametrize(
    ("error", "is_end"),
    [
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (http.client.RemoteDisconnected(), True),
        (ssl.SSLEOFError(), True),
        (ssl.SSLZeroReturnError(), True),
        (ssl.SSLError(), False),
        (TimeoutError(), False),
        (http.client.BadStatusLine(""), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_end_of_the_connection_is_recognised_however_it_is_wrapped(wrap, error: BaseException, is_end: bool):
    """
    As opposed to silence and nonsense: only after an end a kept connection may be replaced.
    """
    assert is_end is broke_off(wrap(error))


def test_errors_that_cause_each_other_are_looked_at_once():
    """
    Nothing forbids a circle.
    """
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one

    assert not broke_off(one)
    assert "ValueError: other" in str(translated(one, "written"))

"""The key stays out of exceptions, tracebacks, logs and replies."""

from __future__ import annotations

import base64
import json
import logging
import pickle
import socket
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest

from groq_queue.errors import APIConnectionError

from .conftest import KEY, HandAlarm, Opener
from .raw_server import Peer, RawServer

PATH = "chat/completions"
SPELLINGS = (
    KEY,
    KEY[::-1],
    quote(KEY, safe=""),
    base64.b64encode(KEY.encode()).decode().rstrip("="),
    base64.b64encode(f"Bearer {KEY}".encode()).decode().rstrip("="),
)


def everything_in(error: BaseException) -> str:
    """All that an error tracker could print, the local variables of every frame of the library included."""
    told = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None:
            continue
        told += [str(one), repr(one), repr(vars(one)), repr(one.args)]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if "groq_queue" in frame.f_globals.get("__name__", "") or "urllib3" in frame.f_code.co_filename:
                told += [repr(frame.f_locals)]
                told += [repr(vars(value)) for value in frame.f_locals.values() if hasattr(value, "__dict__")]
        todo += [one.__cause__, one.__context__]
    return "\n".join(told)


def refuse(peer: Peer, alarm: HandAlarm) -> None:
    peer.reset()


def say_nothing(peer: Peer, alarm: HandAlarm) -> None:
    peer.read_request()
    peer.hold()


def cut_short(peer: Peer, alarm: HandAlarm) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")


def talk_nonsense(peer: Peer, alarm: HandAlarm) -> None:
    request = peer.read_request()
    peer.send(request.headers["authorization"].encode() + b"\r\n\r\n")


def drip(peer: Peer, alarm: HandAlarm) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\n")
    alarm.ring()
    peer.drip(b"X: 1\r\n")


def send_too_much(peer: Peer, alarm: HandAlarm) -> None:
    peer.read_request()
    peer.answer(b"x" * 9_999)


@pytest.mark.parametrize(
    ("handler", "read_s", "words"),
    [
        (refuse, 5.0, "broke|reset by peer"),
        (say_nothing, 0.05, "silent for 0.05 s"),
        (cut_short, 5.0, "cut short"),
        (talk_nonsense, 5.0, "Bearer gsk_…WXYZ"),
        (drip, 5.0, "not complete after 10 s"),
        (send_too_much, 5.0, "larger than 1000 bytes"),
    ],
)
def test_no_failure_gives_the_key_away(
    open_transport: Opener,
    handler: Callable[[Peer, HandAlarm], None],
    read_s: float,
    words: str,
    alarm: HandAlarm,
    caplog: pytest.LogCaptureFixture,
):
    """
    Neither the error nor what hangs on it nor a log at DEBUG; and there is no foreign error behind it.
    """
    with caplog.at_level(logging.DEBUG), RawServer(lambda peer: handler(peer, alarm)) as server:
        transport = open_transport(server.url, alarm=alarm, max_response_bytes=1_000)
        with pytest.raises(APIConnectionError, match=words) as caught:
            transport.send(PATH, b"{}", timeout=(5.0, read_s))

    told = everything_in(caught.value) + caplog.text + repr(vars(transport)) + repr(transport)
    assert [] == [spelling for spelling in SPELLINGS if spelling in told]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert str(caught.value) == str(pickle.loads(pickle.dumps(caught.value)))


@pytest.mark.parametrize("kind", ["refused", "certificate"])
def test_no_failure_to_connect_gives_the_key_away(
    open_transport: Opener, kind: str, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
):
    """
    The same before a connection stands.
    """
    with caplog.at_level(logging.DEBUG):
        if kind == "refused":
            with socket.create_server(("127.0.0.1", 0)) as unused:
                url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
            with pytest.raises(APIConnectionError) as caught:
                open_transport(url).send(PATH, b"{}", timeout=(5, 5))
        else:
            tls = request.getfixturevalue("server_tls")
            with RawServer(Peer.serve, tls) as server, pytest.raises(APIConnectionError) as caught:
                open_transport(server.url).send(PATH, b"{}", timeout=(5, 5))

    told = everything_in(caught.value) + caplog.text
    assert [] == [spelling for spelling in SPELLINGS if spelling in told]
    assert caught.value.__context__ is None


def test_a_key_echoed_by_the_server_is_masked(open_transport: Opener):
    """
    In the body and in header values; the body stays JSON.
    """

    def echo(peer: Peer):
        request = peer.read_request()
        said = {"error": {"message": f"Incorrect API key provided: {request.headers['authorization']}"}}
        peer.answer(json.dumps(said).encode(), "401 Unauthorized", f"X-Echo: {request.headers['authorization']}")

    with RawServer(echo) as server:
        reply = open_transport(server.url).send(PATH, b"{}", timeout=(5, 5))

    assert "Incorrect API key provided: Bearer gsk_…WXYZ" == json.loads(reply.body)["error"]["message"]
    assert "Bearer gsk_…WXYZ" == reply.headers["x-echo"]


def test_a_transport_is_not_pickled(open_transport: Opener):
    """
    It holds sockets and a key.
    """
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(open_transport("http://127.0.0.1:1/v1"))


def test_urllib3s_own_debug_log_has_no_key(open_transport: Opener, caplog: pytest.LogCaptureFixture):
    """
    The good case at DEBUG, every logger.
    """
    with caplog.at_level(logging.DEBUG), RawServer(Peer.serve) as server:
        open_transport(server.url).send(PATH, b"{}", timeout=(5, 5))

    assert [] == [spelling for spelling in SPELLINGS if spelling in caplog.text]

"""What the engine relies on, whichever transport it was given."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from groq_queue.errors import APIConnectionError, APITimeoutError
from groq_queue.transport import pooled

from .conftest import KEY, HandAlarm, HandClock, Opener, Stopwatch, timer_alarm
from .raw_server import PATIENCE_S, Peer, RawServer

CALM = (5.0, 5.0)
PATH = "chat/completions"


def failure_of(transport, timeout=CALM):
    with pytest.raises(APIConnectionError) as caught:
        transport.send(PATH, b"{}", timeout=timeout)
    return caught.value


# The good way


def test_a_reply_has_status_headers_in_lower_case_and_body(open_transport: Opener):
    """
    Of a repeated header the last one counts; the body arrives byte for byte.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer("{«ü»}".encode(), "200 OK", "X-Request-Id: req_1", "X-Twice: a", "X-Twice: b")

    with RawServer(handler) as server:
        reply = open_transport(server.url).send(PATH, b"{}", timeout=CALM)

    assert 200 == reply.status
    assert "{«ü»}".encode() == reply.body
    assert "req_1" == reply.headers["x-request-id"]
    assert "b" == reply.headers["x-twice"]


def test_the_request_arrives_as_the_service_wants_it(open_transport: Opener):
    """
    Path below the base, the key as Bearer, JSON, a User-Agent that is not Python's, no compression.
    """
    with RawServer(Peer.serve) as server:
        open_transport(server.url).send(PATH, b'{"a": 1}', timeout=CALM)
        (request,) = server.requests

    assert "POST /openai/v1/chat/completions HTTP/1.1" == request.line
    assert b'{"a": 1}' == request.body
    assert f"Bearer {KEY}" == request.headers["authorization"]
    assert "application/json" == request.headers["content-type"]
    assert "identity" == request.headers["accept-encoding"]
    assert request.headers["user-agent"].startswith("groq_queue")


def test_ten_requests_in_a_row_share_one_connection(open_transport: Opener):
    """
    Keep-alive: the server sees one connection.
    """
    with RawServer(Peer.serve) as server:
        transport = open_transport(server.url)
        for _ in range(10):
            transport.send(PATH, b"{}", timeout=CALM)

        assert 10 == len(server.requests)
        assert 1 == server.connections


def test_an_answer_without_body_leaves_the_connection_usable(open_transport: Opener):
    """
    Content-Length: 0, then another request on the same connection.
    """
    with RawServer(lambda peer: peer.serve(b"")) as server:
        transport = open_transport(server.url)
        bodies = [transport.send(PATH, b"{}", timeout=CALM).body for _ in range(3)]

        assert [b"", b"", b""] == bodies
        assert 1 == server.connections


def test_a_chunked_answer_is_read_and_the_connection_kept(open_transport: Opener):
    """
    Chunks of any size, in any number of packets.
    """

    def handler(peer: Peer):
        while peer.read_request():
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in (b"2\r\n{}\r\n", b"5;x=y\r\n     \r\n", b"0\r\n\r\n"):
                peer.send(piece)

    with RawServer(handler) as server:
        transport = open_transport(server.url)
        bodies = [transport.send(PATH, b"{}", timeout=CALM).body for _ in range(2)]

        assert [b"{}     "] * 2 == bodies
        assert 1 == server.connections


def test_an_answer_that_ends_with_the_connection_is_accepted(open_transport: Opener):
    """
    Neither length nor chunks: the end is the end. Whether it is whole JSON is for the engine to see.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\n\r\n{"half":')

    with RawServer(handler) as server:
        reply = open_transport(server.url).send(PATH, b"{}", timeout=CALM)

    assert b'{"half":' == reply.body


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "429 Too Many Requests", "502 Bad Gateway"])
def test_an_error_status_is_a_reply_and_no_exception(open_transport: Opener, status: str):
    """
    Judging a status is the engine's business.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b"<html>", status)

    with RawServer(handler) as server:
        reply = open_transport(server.url).send(PATH, b"{}", timeout=CALM)

    assert (int(status[:3]), b"<html>") == (reply.status, reply.body)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_reply_and_is_not_followed(open_transport: Opener, status: int):
    """
    Neither prompt nor key travels to the place it names.
    """
    with RawServer(Peer.serve) as elsewhere:

        def handler(peer: Peer):
            peer.read_request()
            peer.answer(b"", f"{status} Moved", f"Location: {elsewhere.url}")

        with RawServer(handler) as server:
            reply = open_transport(server.url).send(PATH, b"{}", timeout=CALM)

        assert status == reply.status
        assert elsewhere.url == reply.headers["location"]
        assert 0 == elsewhere.connections


def test_an_early_refusal_of_a_large_body_is_read(open_transport: Opener):
    """
    The server answers 413 after the headers and closes without reading 8 MB.
    """

    def handler(peer: Peer):
        while peer._file.readline().strip():
            pass
        peer.answer(b"too large", "413 Content Too Large", "Connection: close")
        peer.sock.shutdown(socket.SHUT_WR)
        peer.wait_until_client_leaves()

    with RawServer(handler) as server:
        reply = open_transport(server.url).send(PATH, b"x" * 8_000_000, timeout=CALM)

    assert (413, b"too large") == (reply.status, reply.body)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere RST may throw received bytes away")
def test_a_refusal_is_read_although_sending_the_rest_failed(open_transport: Opener):
    """
    The server answers and closes with most of the request unread: our send breaks, the answer is there.
    """

    def handler(peer: Peer):
        while peer._file.readline().strip():
            pass
        peer.answer(b"too large", "413 Content Too Large", "Connection: close")

    with RawServer(handler) as server:
        reply = open_transport(server.url).send(PATH, b"x" * 8_000_000, timeout=CALM)

    assert (413, b"too large") == (reply.status, reply.body)


def test_eight_threads_never_get_each_others_answers(open_transport: Opener):
    """
    800 requests, each answered with its own body.
    """

    def echo(peer: Peer):
        while request := peer.read_request():
            peer.answer(request.body)

    def hundred(thread: int) -> int:
        start.wait(PATIENCE_S)
        bodies = [b'{"n": "%d/%d"}' % (thread, n) for n in range(100)]
        return sum(body == transport.send(PATH, body, timeout=CALM).body for body in bodies)

    start = threading.Barrier(8)
    with RawServer(echo) as server, ThreadPoolExecutor(8) as threads:
        transport = open_transport(server.url)
        matched = list(threads.map(hundred, range(8)))

    assert [100] * 8 == matched
    assert 800 == len(server.requests)


# Kept connections that die


@pytest.fixture
def long_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kept connection counts as idle for long."""
    monkeypatch.setattr(pooled, "_JUST_USED_S", 0.0)


@pytest.mark.usefixtures("long_idle")
def test_a_connection_closed_while_idle_is_replaced_unseen(open_transport: Opener):
    """
    The close was there to be seen before sending: the second request arrives once.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer()
        peer.close()
        closed.set()

    closed = threading.Event()
    with RawServer(handler) as server:
        transport = open_transport(server.url)
        transport.send(PATH, b"1", timeout=CALM)
        assert closed.wait(PATIENCE_S)
        transport.send(PATH, b"2", timeout=CALM)

        assert [b"1", b"2"] == [request.body for request in server.requests]
        assert 2 == server.connections


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_fresh_connection_that_dies_without_answer_is_not_tried_again(open_transport: Opener, end):
    """
    Nothing says that the server did not get it: unknown, and once only.
    """

    def handler(peer: Peer):
        peer.read_request()
        end(peer)

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url))

        assert "unknown" == error.sent
        assert not error.is_final
        assert not isinstance(error, APITimeoutError)
        assert 1 == len(server.requests)


def test_a_kept_connection_that_answers_nonsense_is_not_tried_again(open_transport: Opener):
    """
    Bytes came back, so the request was received.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer()
        peer.read_request()
        peer.send(b"EHLO there\r\n")

    with RawServer(handler) as server:
        transport = open_transport(server.url)
        transport.send(PATH, b"1", timeout=CALM)
        failure_of(transport)

        assert 2 == len(server.requests)


def test_bytes_beyond_the_announced_length_never_reach_the_next_answer(open_transport: Opener):
    """
    A body longer than its Content-Length is cut there, and the rest is thrown away.
    """

    def handler(peer: Peer):
        while peer.read_request():
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")

    with RawServer(handler) as server:
        transport = open_transport(server.url)
        bodies = [transport.send(PATH, b"{}", timeout=CALM).body for _ in range(5)]

    assert [b"{}"] * 5 == bodies


@pytest.mark.usefixtures("long_idle")
def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(open_transport: Opener):
    """
    Servers say 408 on an idle connection before they close it.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b"%d" % peer.number)
        assert first_read.wait(PATIENCE_S)
        peer.answer(b"idle", "408 Request Timeout")
        said.set()
        peer.wait_until_client_leaves()

    first_read, said = threading.Event(), threading.Event()
    with RawServer(handler) as server:
        transport = open_transport(server.url)
        first = transport.send(PATH, b"{}", timeout=CALM)
        first_read.set()
        assert said.wait(PATIENCE_S)
        second = transport.send(PATH, b"{}", timeout=CALM)

    assert [b"1", b"2"] == [first.body, second.body]


# No connection


def test_a_refused_connection_was_certainly_not_sent(open_transport: Opener):
    """
    The message names the address.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    error = failure_of(open_transport(f"http://127.0.0.1:{port}/openai/v1"))

    assert "no" == error.sent
    assert not error.is_final
    assert f"127.0.0.1:{port}" in str(error)
    assert "refused" in str(error)


def test_a_name_that_does_not_exist_was_certainly_not_sent(open_transport: Opener, monkeypatch: pytest.MonkeyPatch):
    """
    The message names the host and what to check.
    """

    def no_such_name(*args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)

    error = failure_of(open_transport("http://nope.invalid/openai/v1"))

    assert "no" == error.sent
    assert "nope.invalid" in str(error)
    assert "DNS" in str(error)


def test_a_connection_that_takes_too_long_was_certainly_not_sent(
    open_transport: Opener, monkeypatch: pytest.MonkeyPatch
):
    """
    The connect time-out is a time-out of its own.
    """

    def stuck(self, address):
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", stuck)

    error = failure_of(open_transport("http://127.0.0.1:9/openai/v1"), (0.3, 9.0))

    assert isinstance(error, APITimeoutError)
    assert "no" == error.sent
    assert "no connection to 127.0.0.1:9 within 0.3 s" == str(error)


def test_a_closed_transport_sends_nothing(open_transport: Opener):
    """
    After close() there is a clear error.
    """
    with RawServer(Peer.serve) as server:
        transport = open_transport(server.url)
        transport.send(PATH, b"{}", timeout=CALM)
        transport.close()
        transport.close()
        error = failure_of(transport)

        assert ("no", True) == (error.sent, error.is_final)
        assert "closed" in str(error)
        assert 1 == len(server.requests)


def test_closing_lets_an_attempt_under_way_end_well(open_transport: Opener):
    """
    close() while the server still thinks: the answer arrives.
    """

    def handler(peer: Peer):
        peer.read_request()
        arrived.set()
        assert closed.wait(PATIENCE_S)
        peer.answer(b"late")
        peer.wait_until_client_leaves()

    arrived, closed = threading.Event(), threading.Event()
    with RawServer(handler) as server, ThreadPoolExecutor(1) as threads:
        transport = open_transport(server.url)
        future = threads.submit(transport.send, PATH, b"{}", timeout=CALM)
        assert arrived.wait(PATIENCE_S)
        transport.close()
        closed.set()

        assert b"late" == future.result(PATIENCE_S).body


# Time


def test_a_silent_server_is_left_after_the_read_timeout(open_transport: Opener):
    """
    No alarm needed: the socket's own time-out sees silence. The request may have been processed.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.hold()

    with RawServer(handler) as server, Stopwatch() as watch:
        error = failure_of(open_transport(server.url), (5.0, 0.05))
        address = f"127.0.0.1:{server.port}"

    assert isinstance(error, APITimeoutError)
    assert "unknown" == error.sent
    assert f"{address} was silent for 0.05 s" == str(error)
    assert 0.05 <= watch.seconds < 5.0


def test_a_server_that_falls_silent_inside_the_body_is_left(open_transport: Opener):
    """
    The answer had begun, so the server certainly got the request.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        peer.hold()

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url), (5.0, 0.3))
        address = f"127.0.0.1:{server.port}"

    assert isinstance(error, APITimeoutError)
    assert "yes" == error.sent
    assert f"{address} was silent for 0.3 s" == str(error)


FRAMINGS = [b"Content-Length: 9999", b"Transfer-Encoding: chunked", b"Connection: close"]
ALL_OVER = "was not complete after 10 s"  # a mere silence would be told by other words


def drop_of(framing: bytes) -> bytes:
    return b"1\r\n \r\n" if b"chunked" in framing else b" "


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_dripping_body_is_bounded_by_the_total(open_transport: Opener, attempt_clock: HandClock, framing: bytes):
    """
    One byte now and then never meets a read time-out; the total ends it, even without an alarm.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + drop_of(framing))
        attempt_clock.now_s += 10
        peer.drip(drop_of(framing))

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url))

    assert isinstance(error, APITimeoutError)
    assert "yes" == error.sent
    assert ALL_OVER in str(error)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_body_that_the_alarm_cut_off_is_not_believed(open_transport: Opener, alarm: HandAlarm, framing: bytes):
    """
    Not even where the end of the connection is the end of the body.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + drop_of(framing))
        alarm.ring()
        peer.wait_until_client_leaves()

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url, alarm=alarm))

    assert isinstance(error, APITimeoutError)
    assert "yes" == error.sent
    assert ALL_OVER in str(error)


def test_dripping_headers_are_bounded_by_the_alarm(open_transport: Opener, alarm: HandAlarm):
    """
    Cut off by the alarm it would look like a complete 200 without body: that is not believed.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Drip: 1\r\n")
        alarm.ring()
        peer.drip(b"X-Drip: 1\r\n")

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url, alarm=alarm))

    assert isinstance(error, APITimeoutError)
    assert "yes" == error.sent
    assert ALL_OVER in str(error)


def test_endless_interim_answers_are_bounded_by_the_alarm(open_transport: Opener, alarm: HandAlarm):
    """
    100 Continue for ever proves neither that the server got it all nor that it did not.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        alarm.ring()
        peer.drip(b"HTTP/1.1 100 Continue\r\n\r\n")

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url, alarm=alarm))

    assert isinstance(error, APITimeoutError)
    assert "unknown" == error.sent
    assert ALL_OVER in str(error)


def test_the_alarm_reaches_a_kept_connection_too(open_transport: Opener, alarm: HandAlarm):
    """
    The second request of a connection drips, and is not sent again.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer()
        peer.read_request()
        alarm.ring()
        peer.wait_until_client_leaves()

    with RawServer(handler) as server:
        transport = open_transport(server.url, alarm=alarm)
        transport.send(PATH, b"{}", timeout=CALM)
        error = failure_of(transport)

        assert isinstance(error, APITimeoutError)
        assert "unknown" == error.sent
        assert ALL_OVER in str(error)
        assert (1, 2) == (server.connections, len(server.requests))


def test_an_alarm_of_threads_ends_what_drips(open_transport: Opener):
    """
    The same with a real timer: the bound is the sum of both time-outs.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.drip(b"HTTP/1.1 100 Continue\r\n\r\n")

    with RawServer(handler) as server, Stopwatch() as watch:
        error = failure_of(open_transport(server.url, alarm=timer_alarm), (0.1, 0.1))

    assert isinstance(error, APITimeoutError)
    assert "was not complete after 0.2 s" in str(error)
    assert 0.2 <= watch.seconds < PATIENCE_S


def test_an_alarm_that_rings_late_harms_nobody(open_transport: Opener, alarm: HandAlarm):
    """
    The connection serves the next attempt when the alarm of the first one rings.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b"1")
        peer.read_request()
        alarm.ring(0)
        peer.answer(b"2")
        peer.serve(b"3")

    with RawServer(handler) as server:
        transport = open_transport(server.url, alarm=alarm)
        bodies = [transport.send(PATH, b"{}", timeout=CALM).body for _ in range(2)]
        alarm.ring(1)
        bodies.append(transport.send(PATH, b"{}", timeout=CALM).body)

        assert [b"1", b"2", b"3"] == bodies
        assert 1 == server.connections


def test_every_alarm_is_called_off(open_transport: Opener, alarm: HandAlarm):
    """
    After an answer and after a failure alike.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer()
        peer.read_request()
        peer.send(b"nonsense\r\n\r\n")

    with RawServer(handler) as server:
        transport = open_transport(server.url, alarm=alarm)
        transport.send(PATH, b"{}", timeout=(5, 6))
        failure_of(transport, (6, 7))

    assert ["set 11", "off", "set 13", "off"] == alarm.log


# Broken answers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
    ids=["short length", "inside a chunk", "between chunks"],
)
def test_an_answer_cut_short_is_an_error_and_was_sent(open_transport: Opener, answer: bytes):
    """
    The server got the request and may bill it.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(answer)

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url))

        assert "yes" == error.sent
        assert "cut short" in str(error)
        assert 1 == len(server.requests)


def test_a_reset_inside_the_body_is_an_error_and_was_sent(open_transport: Opener):
    """
    RST after half an answer.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}")
        peer.reset()

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url))

    assert not isinstance(error, APITimeoutError)
    assert "broke" in str(error)
    # Elsewhere RST may overtake the bytes before it.
    assert error.sent in (("yes",) if sys.platform == "linux" else ("yes", "unknown"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.0\r\n", "BadStatusLine: SSH"),
        (b"HTTP/9.9 200 OK\r\n\r\n", "HTTP/9.9"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "BadStatusLine: HTTP/1.1 abc OK"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "interim status 101"),
        (
            b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(20_000)) + b"\r\n",
            "a head of more than 10,000 lines",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "got more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "two lengths|multiple"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", "was cut short"),
    ],
    ids=["ssh", "9.9", "abc", "other protocol", "20,000 headers", "long header", "two lengths", "bad chunk"],
)
def test_nonsense_is_a_typed_error_in_one_line_and_the_connection_is_left(
    open_transport: Opener, answer: bytes, words: str
):
    """
    The next request gets a new connection and a right answer.
    """

    def handler(peer: Peer):
        if peer.number == 1:
            peer.read_request()
            peer.send(answer)
            peer.wait_until_client_leaves()
        peer.serve()

    with RawServer(handler) as server:
        transport = open_transport(server.url)
        error = failure_of(transport)
        reply = transport.send(PATH, b"{}", timeout=CALM)

        assert not isinstance(error, APITimeoutError)
        assert re.search(words, str(error))
        assert len(str(error)) <= 300
        assert "\n" not in str(error)
        assert b"{}" == reply.body
        assert 2 == server.connections


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_an_answer_above_the_cap_is_refused_without_reading_it_all(open_transport: Opener, framing: str):
    """
    One byte more than allowed; exactly the cap passes.
    """

    def handler(peer: Peer):
        while request := peer.read_request():
            size = int(request.body)
            if framing == "length":
                peer.answer(b"x" * size)
            elif framing == "chunked":
                peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                peer.send(b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")
            else:
                peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * size)
                return

    with RawServer(handler) as server:
        transport = open_transport(server.url, max_response_bytes=100_000)
        reply = transport.send(PATH, b"100000", timeout=CALM)
        with pytest.raises(APIConnectionError) as caught:
            transport.send(PATH, b"100001", timeout=CALM)

    assert 100_000 == len(reply.body)
    assert "yes" == caught.value.sent
    assert "100000 bytes" in str(caught.value)


def test_an_answer_compressed_unasked_is_understood(open_transport: Opener):
    """
    Some proxies compress whatever Accept-Encoding says.
    """

    def handler(peer: Peer):
        while peer.read_request():
            peer.answer(gzip.compress(b'{"a": 1}'), "200 OK", "Content-Encoding: gzip")

    with RawServer(handler) as server:
        reply = open_transport(server.url).send(PATH, b"{}", timeout=CALM)

    assert {"a": 1} == json.loads(reply.body)


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", gzip.compress(b"\0" * 5_000_000), "unpacks to more than 100000 bytes"),
        ("gzip", gzip.compress(b"{}" * 99)[:-9], "cut short"),
        ("deflate", b"no deflate", "not valid deflate"),
        ("br", b"\x8b\x03\x80{}\x03", "'br'"),
    ],
    ids=["bomb", "half", "garbage", "brotli"],
)
def test_a_bad_compression_is_a_typed_error(open_transport: Opener, encoding: str, body: bytes, words: str):
    """
    A bomb is never unpacked beyond the cap.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(body, "200 OK", f"Content-Encoding: {encoding}")

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url, max_response_bytes=100_000))

    assert "yes" == error.sent
    assert words in str(error)


# TLS


def test_a_certificate_that_does_not_verify_is_final_and_nothing_is_sent(open_transport: Opener, server_tls):
    """
    One connection, no request, a message with host and cure.
    """
    with RawServer(Peer.serve, server_tls) as server:
        error = failure_of(open_transport(server.url))

        assert error.is_final
        assert "no" == error.sent
        assert "127.0.0.1" in str(error)
        assert "CA bundle" in str(error)
        assert [] == server.requests
        assert 1 == server.connections


def test_a_trusted_certificate_of_another_host_is_final_too(
    open_transport: Opener, server_tls, certificate, monkeypatch
):
    """
    The name must match as well.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with RawServer(Peer.serve, server_tls) as server:
        error = failure_of(open_transport(server.url.replace("127.0.0.1", "localhost")))

        assert error.is_final
        assert "no" == error.sent
        assert "localhost" in str(error)
        assert [] == server.requests


def test_a_certificate_that_the_user_trusts_works(open_transport: Opener, server_tls, certificate, monkeypatch):
    """
    SSL_CERT_FILE for ours, REQUESTS_CA_BUNDLE for requests; kept alive like plain connections.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with RawServer(Peer.serve, server_tls) as server:
        transport = open_transport(server.url, alarm=timer_alarm)
        bodies = [transport.send(PATH, b"{}", timeout=CALM).body for _ in range(3)]

        assert [b"{}"] * 3 == bodies
        assert 1 == server.connections


def test_dripping_headers_over_tls_are_bounded_by_the_alarm(
    open_transport: Opener, server_tls, certificate, monkeypatch, alarm: HandAlarm
):
    """
    The socket below TLS is shut down; the reading thread ends with our own error.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        alarm.ring()
        peer.drip(b"X-Drip: 1\r\n")

    with RawServer(handler, server_tls) as server:
        error = failure_of(open_transport(server.url, alarm=alarm))

    assert isinstance(error, APITimeoutError)
    assert ALL_OVER in str(error)


def test_plain_http_on_a_tls_address_was_certainly_not_sent(open_transport: Opener):
    """
    A wrong port answers the handshake with plain text; another attempt would get the same.
    """

    def handler(peer: Peer):
        peer.sock.recv(5)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.hold()

    with RawServer(handler) as server:
        error = failure_of(open_transport(server.url.replace("http:", "https:")))

    assert "no" == error.sent
    assert error.is_final
    assert "TLS" in str(error)


# Fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_opens_a_connection_of_its_own(open_transport: Opener):
    """
    Two processes on one socket would read each other's answers.
    """
    with RawServer(Peer.serve) as server:
        transport = open_transport(server.url)
        transport.send(PATH, b"parent", timeout=CALM)

        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = int(transport.send(PATH, b"child", timeout=CALM).status != 200)
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        transport.send(PATH, b"parent again", timeout=CALM)

        assert 0 == status
        assert 3 == len(server.requests)
        assert 2 == server.connections

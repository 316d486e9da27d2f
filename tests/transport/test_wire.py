"""What goes over the wire, and in how many steps: bodies read and unpacked, connections kept."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from groq_queue.errors import APIConnectionError, ConfigurationError
from groq_queue.transport import Secret, pooled
from groq_queue.transport.exchange import Head
from groq_queue.transport.watch import Attempt, WatchedConnection
from groq_queue.transport.wire import Unacceptable, decoded, read_body

from .conftest import Opener
from .raw_server import PATIENCE_S, Peer, RawServer

PATH = "chat/completions"
CALM = (5.0, 5.0)


class Pieces:
    """A body that arrives in given pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.asked: list[int] = []

    def read1(self, amount: int) -> bytes:
        self.asked.append(amount)
        return self.pieces.pop(0) if self.pieces else b""


def test_no_more_is_asked_for_than_is_left():
    """
    http.client would wait for bytes beyond the announced length.
    """
    body = Pieces(b"abc", b"de")

    assert b"abcde" == read_body(body.read1, 5, Attempt(CALM), 100)
    assert [5, 2] == body.asked


def test_a_body_of_unknown_length_is_read_until_its_end():
    """
    The empty piece is the end.
    """
    body = Pieces(b"abc", b"de")

    assert b"abcde" == read_body(body.read1, None, Attempt(CALM), 100)
    assert 3 == len(body.asked)


def test_a_body_that_ends_before_its_length_is_not_believed():
    """
    http.client itself would return what there is.
    """
    body = Pieces(b"abc", b"de")

    with pytest.raises(http.client.IncompleteRead):
        read_body(body.read1, 6, Attempt(CALM), 100)


def test_a_bomb_is_never_unpacked():
    """
    50 MB in 50 kB: memory stays near the cap.
    """
    bomb = gzip.compress(b"\0" * 50_000_000)

    tracemalloc.start()
    try:
        with pytest.raises(Unacceptable):
            decoded(bomb, "gzip", 100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"one ") + gzip.compress(b"two")),
        ("X-Gzip", gzip.compress(b"one two")),
        ("deflate", zlib.compress(b"one two")),
        ("identity", b"one two"),
    ],
)
def test_what_is_understood_is_unpacked_up_to_the_very_cap(encoding: str, packed: bytes):
    """
    Several gzip members are one body.
    """
    assert b"one two" == decoded(packed, encoding, 7)


def test_a_connection_in_use_while_the_transport_closes_is_not_kept(open_pooled: Opener):
    """
    It closes as soon as its answer is read.
    """

    def handler(peer: Peer):
        peer.read_request()
        arrived.set()
        assert closed.wait(PATIENCE_S)
        peer.answer()
        peer.wait_until_client_leaves()
        left.set()

    arrived, closed, left = threading.Event(), threading.Event(), threading.Event()
    with RawServer(handler) as server, ThreadPoolExecutor(1) as threads:
        transport = open_pooled(server.url)
        future = threads.submit(transport.send, PATH, b"{}", timeout=CALM)
        assert arrived.wait(PATIENCE_S)
        transport.close()
        closed.set()

        assert 200 == future.result(PATIENCE_S).status
        assert left.wait(PATIENCE_S)


def test_no_more_idle_connections_are_kept_than_allowed(open_pooled: Opener):
    """
    Three threads send at once; two of their connections stay, one is closed.
    """

    def handler(peer: Peer):
        peer.read_request()
        together.wait(PATIENCE_S)
        peer.answer()
        peer.wait_until_client_leaves()
        left.release()

    together, left = threading.Barrier(3), threading.Semaphore(0)
    with RawServer(handler) as server, ThreadPoolExecutor(3) as threads:
        transport = open_pooled(server.url, max_connections=2)
        list(threads.map(lambda _: transport.send(PATH, b"{}", timeout=CALM), range(3)))

        assert left.acquire(timeout=PATIENCE_S)
        assert not left.acquire(blocking=False)
        assert 3 == server.connections


@pytest.mark.parametrize(("just_used_s", "asked"), [(60.0, 0), (0.0, 2)], ids=["at once", "later"])
def test_a_connection_is_asked_whether_it_stands_unless_it_was_just_used(
    open_pooled: Opener, monkeypatch: pytest.MonkeyPatch, just_used_s: float, asked: int
):
    """
    Of three requests on one connection the first finds none to ask.
    """
    questions = []
    is_connected = WatchedConnection.is_connected
    monkeypatch.setattr(pooled, "_JUST_USED_S", just_used_s)
    monkeypatch.setattr(
        WatchedConnection, "is_connected", property(lambda self: questions.append(1) or is_connected.fget(self))
    )
    with RawServer(Peer.serve) as server:
        transport = open_pooled(server.url)
        for _ in range(3):
            transport.send(PATH, b"{}", timeout=CALM)

        assert 1 == server.connections
    assert asked == len(questions)


@pytest.mark.parametrize(("size", "pieces"), [(10, 1), (70_000, 2)], ids=["small", "large"])
def test_head_and_body_go_out_together(open_pooled: Opener, monkeypatch: pytest.MonkeyPatch, size: int, pieces: int):
    """
    For a small body in one system call; a large one is not copied for that.
    """
    sent = []

    def sendall(self: socket.socket, data: bytes) -> None:
        if self.getpeername()[1] == server.port:
            sent.append(len(data))
        send_all(self, data)

    send_all = socket.socket.sendall
    with RawServer(Peer.serve) as server:
        monkeypatch.setattr(socket.socket, "sendall", sendall)
        open_pooled(server.url).send(PATH, b"x" * size, timeout=CALM)
        (request,) = server.requests

    assert size == len(request.body)
    assert pieces == len(sent)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (b"Content-Length: 2\r\nContent-Length: 3", "two lengths"),
        (b"Content-Length: 2, 2", "length '2, 2'"),
        (b"Content-Length: 2\r\nTransfer-Encoding: gzip, chunked", "'gzip, chunked'"),
    ],
)
def test_an_answer_whose_end_is_not_certain_is_refused(open_pooled: Opener, headers: bytes, words: str):
    """
    What one reader leaves unread, the next request on that connection would take for its answer.
    """

    def handler(peer: Peer):
        if peer.number == 1:
            peer.read_request()
            peer.send(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n{}")
        peer.serve()

    with RawServer(handler) as server:
        transport = open_pooled(server.url)
        with pytest.raises(APIConnectionError, match=words) as caught:
            transport.send(PATH, b"{}", timeout=CALM)
        reply = transport.send(PATH, b"{}", timeout=CALM)

        assert 2 == server.connections
    assert "yes" == caught.value.sent
    assert b"{}" == reply.body


@pytest.mark.parametrize("endpoint", ["a b", "a\r\nX: 1", "ä"])
def test_a_path_that_would_break_the_request_line_is_not_sent(open_pooled: Opener, endpoint: str):
    """
    Nothing of it leaves, and the next request is none the worse.
    """
    with RawServer(Peer.serve) as server:
        transport = open_pooled(server.url)
        with pytest.raises(APIConnectionError, match="is not a path") as caught:
            transport.send(endpoint, b"{}", timeout=CALM)
        transport.send(PATH, b"{}", timeout=CALM)

        assert 1 == len(server.requests)
    assert "no" == caught.value.sent


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("https://api.groq.com/openai/v1", "api.groq.com"),
        ("https://api.groq.com:443/openai/v1", "api.groq.com"),
        ("https://api.groq.com.:8443/v1", "api.groq.com:8443"),
        ("http://[::1]:8000/v1", "[::1]:8000"),
    ],
)
def test_the_host_is_named_without_what_servers_do_not_expect(key: Secret, base_url: str, host: str):
    """
    Neither the scheme's own port nor the dot that ends a full name.
    """
    head = Head("/v1/", urlsplit(base_url), "groq_queue", key, None).encoded(PATH, 2)

    assert f"POST /v1/{PATH} HTTP/1.1\r\nHost: {host}\r\n".encode() == head[: head.index(b"User-Agent")]


def test_a_user_agent_cannot_smuggle_a_header(open_pooled: Opener):
    """
    Told when the transport is built.
    """
    with pytest.raises(ConfigurationError, match="user_agent"):
        open_pooled("https://api.groq.com/openai/v1", user_agent="me\r\nX: 1")

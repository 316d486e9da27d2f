"""How a body is read and unpacked, without a network."""

from __future__ import annotations

import gzip
import http.client
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from groq_queue.transport.watch import Attempt
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

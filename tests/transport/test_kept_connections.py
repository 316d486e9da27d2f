"""Kept connections that end as they are used again: what is sent twice, and who is told of it."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from groq_queue.errors import APIConnectionError
from groq_queue.transport import deadline, pooled

from .conftest import Opener
from .raw_server import PATIENCE_S, Peer, RawServer

CALM = (5.0, 5.0)
PATH = "chat/completions"


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kept connection is asked before use whether it still stands, as if its end came in that very moment."""
    monkeypatch.setattr(pooled, "_JUST_USED_S", 1e9)


def second_failure(transport) -> APIConnectionError:
    transport.send(PATH, b"1", timeout=CALM)
    with pytest.raises(APIConnectionError) as caught:
        transport.send(PATH, b"2", timeout=CALM)
    return caught.value


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_a_server_that_read_the_request_and_worked_on_it_is_not_asked_twice(open_transport: Opener, end):
    """
    It took 0.3 s, many times a round trip: whatever it did may be billed.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer()
        peer.read_request()
        peer.server.is_closing.wait(0.3)
        end(peer)

    with RawServer(handler) as server:
        error = second_failure(open_transport(server.url))

        assert ("unknown", False, False) == (error.sent, error.is_stale, error.is_final)
        assert [b"1", b"2"] == [request.body for request in server.requests]


@pytest.mark.parametrize("end", [Peer.close, Peer.reset])
def test_an_end_within_a_round_trip_is_told_and_sent_again_by_nobody_here(open_transport: Opener, end, monkeypatch):
    """
    It was probably on its way before the request; since nobody can know, a second send must be seen and counted.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer()
        peer.read_request()
        end(peer)

    monkeypatch.setattr(deadline, "_SLACK_S", 5.0)  # of a very busy machine
    with RawServer(handler) as server:
        error = second_failure(open_transport(server.url))

        assert ("unknown", True, False) == (error.sent, error.is_stale, error.is_final)
        assert [b"1", b"2"] == [request.body for request in server.requests]


@pytest.mark.gate
def test_what_counts_as_a_round_trip_is_what_connecting_took(open_pooled: Opener, monkeypatch: pytest.MonkeyPatch):
    """
    Over a connection that took 0.25 s, an end after 0.1 s may have been on its way; the fastest answer knows better.
    """

    class Far(deadline.WatchedConnection):
        def _new_conn(self):
            sock = super()._new_conn()
            self.trip_s = 0.25
            return sock

    def handler(peer: Peer):
        for answer_s in (0.25, 0.0):
            peer.read_request()
            peer.server.is_closing.wait(answer_s)
            peer.answer()
            if peer.number == 1:
                break
        peer.read_request()
        peer.server.is_closing.wait(0.1)

    monkeypatch.setattr(pooled, "WatchedConnection", Far)
    with RawServer(handler) as server:
        first = second_failure(open_pooled(server.url))
        transport = open_pooled(server.url)
        transport.send(PATH, b"0", timeout=CALM)
        second = second_failure(transport)

    assert [True, False] == [first.is_stale, second.is_stale]


@pytest.mark.usefixtures("unasked")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell what the peer acknowledged")
def test_a_connection_that_was_closed_before_the_request_costs_nothing(open_transport: Opener):
    """
    The peer's system never had the request: certainly unread, so it goes over a new connection, and once in all.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b"%d" % peer.number)
        peer.close()
        closed.set()

    closed = threading.Event()
    with RawServer(handler) as server:
        transport = open_transport(server.url)
        bodies = []
        for body in (b"a", b"b", b"c"):
            bodies.append(transport.send(PATH, body, timeout=CALM).body)
            assert closed.wait(PATIENCE_S)
            closed.clear()

        assert [b"1", b"2", b"3"] == bodies
        assert [b"a", b"b", b"c"] == [request.body for request in server.requests]


@pytest.mark.usefixtures("unasked")
def test_a_connection_that_was_reset_before_the_request_costs_nothing(open_transport: Opener):
    """
    The write takes no byte.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.answer(b"%d" % peer.number)
        if peer.number == 1:
            assert read.wait(PATIENCE_S)
            peer.reset()
            gone.set()
        else:
            peer.hold()

    read, gone = threading.Event(), threading.Event()
    with RawServer(handler) as server:
        transport = open_transport(server.url)
        first = transport.send(PATH, b"a", timeout=CALM)
        read.set()
        assert gone.wait(PATIENCE_S)
        second = transport.send(PATH, b"b", timeout=CALM)

        assert [b"1", b"2"] == [first.body, second.body]
        assert [b"a", b"b"] == [request.body for request in server.requests]


@pytest.mark.usefixtures("unasked")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell what the peer acknowledged")
def test_what_was_certainly_unread_and_then_finds_no_connection_was_not_sent(open_pooled: Opener):
    def handler(peer: Peer):
        peer.read_request()
        peer.server._listener.shutdown(socket.SHUT_RDWR)
        peer.answer()
        peer.close()
        closed.set()

    closed = threading.Event()
    with RawServer(handler) as server:
        transport = open_pooled(server.url)
        transport.send(PATH, b"1", timeout=CALM)
        assert closed.wait(PATIENCE_S)
        with pytest.raises(APIConnectionError) as caught:
            transport.send(PATH, b"2", timeout=CALM)

    assert ("no", False) == (caught.value.sent, caught.value.is_stale)


def test_when_one_kept_connection_has_ended_the_others_are_not_tried(open_pooled: Opener, monkeypatch):
    """
    Four that were idle together: one costs an attempt, not four.
    """

    def handler(peer: Peer):
        peer.read_request()
        together.wait(PATIENCE_S)
        peer.answer()
        peer.read_request()

    together = threading.Barrier(4)
    monkeypatch.setattr(deadline, "_SLACK_S", 5.0)
    with RawServer(handler) as server:
        transport = open_pooled(server.url)
        threads = [threading.Thread(target=transport.send, args=(PATH, b"1"), kwargs={"timeout": CALM}) for _ in "1234"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert 4 == len(transport._idle)

        with pytest.raises(APIConnectionError) as caught:
            transport.send(PATH, b"2", timeout=CALM)

        assert caught.value.is_stale
        assert 0 == len(transport._idle)


def test_a_fresh_connection_is_never_stale(open_transport: Opener):
    def handler(peer: Peer):
        peer.read_request()

    with RawServer(handler) as server, pytest.raises(APIConnectionError) as caught:
        open_transport(server.url).send(PATH, b"1", timeout=CALM)

    assert ("unknown", False) == (caught.value.sent, caught.value.is_stale)


def test_a_kept_connection_that_begins_an_answer_and_breaks_is_not_stale(open_transport: Opener):
    def handler(peer: Peer):
        peer.read_request()
        peer.answer()
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")

    with RawServer(handler) as server:
        error = second_failure(open_transport(server.url))

    assert ("yes", False) == (error.sent, error.is_stale)

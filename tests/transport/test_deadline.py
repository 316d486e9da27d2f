"""One attempt seen from outside: what is known of it, how long it may take, and whose socket is shut down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from urllib3.connection import HTTPConnection

from groq_queue.transport.deadline import (
    Attempt,
    WatchedConnection,
    WatchedTLSConnection,
    now_s,
    set_timeout,
    shut_down,
    watched,
    watching,
)

from .conftest import HandClock
from .raw_server import PATIENCE_S, Peer, RawServer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected with each other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), PATIENCE_S)
        theirs, _ = listener.accept()
    theirs.settimeout(PATIENCE_S)
    with ours, theirs:
        yield ours, theirs


def connection_of(attempt: Attempt | None, sock: socket.socket | None = None) -> WatchedConnection:
    connection = WatchedConnection("127.0.0.1", 9)
    connection.owner, connection.sock = attempt, sock
    return connection


def is_open(theirs: socket.socket) -> bool:
    """Return whether the other end may still send."""
    theirs.setblocking(False)
    try:
        return theirs.recv(1) != b""
    except BlockingIOError:
        return True


# What is known of it


def test_a_new_attempt_has_done_nothing():
    """
    Nothing was begun, connected, written or answered: it was certainly not sent.
    """
    attempt = Attempt((1.0, 2.0))

    assert (1.0, 2.0) == (attempt.connect_s, attempt.read_s)
    assert "no" == attempt.sent
    known = [getattr(attempt, name) for name in ("has_begun", "has_expired", "is_connected", "is_reused", "wrote")]
    assert [False] * 5 == known
    assert not attempt.is_stale
    assert (None, None, None) == (attempt.connection, attempt.sock, attempt.answer)


@pytest.mark.parametrize(
    ("wrote", "status", "sent"),
    [
        (False, None, "no"),
        (True, None, "unknown"),
        (True, "UNKNOWN", "unknown"),  # http.client's word for a status line that has not come yet
        (True, 200, "yes"),
        (False, 200, "yes"),
    ],
)
def test_whether_it_was_sent_follows_from_what_was_seen(wrote: bool, status: object, sent: str):
    """
    A status line proves it, bytes written leave it open.
    """
    attempt = Attempt((1.0, 1.0))
    attempt.wrote = wrote
    attempt.answer = None if status is None else SimpleNamespace(status=status)

    assert sent == attempt.sent


@pytest.mark.parametrize(
    ("is_reused", "wrote", "status", "has_expired", "after_s", "is_stale"),
    [
        (True, True, None, False, 0.06, True),
        (True, True, None, False, 0.08, False),  # later than a round trip
        (False, True, None, False, 0.01, False),
        (True, False, None, False, 0.01, False),
        (True, True, 200, False, 0.01, False),
        (True, True, None, True, 0.01, False),
    ],
)
def test_only_a_kept_connection_that_ended_by_itself_without_answer_and_soon_is_stale(
    attempt_clock: HandClock,
    is_reused: bool,
    wrote: bool,
    status: object,
    has_expired: bool,
    after_s: float,
    is_stale: bool,
):
    """
    The end was probably on its way when the request was written: 50 ms are a round trip, 20 ms a busy machine's.
    """
    attempt = Attempt((1.0, 1.0))
    connection = attempt.connection = WatchedConnection("127.0.0.1", 1)
    connection.trip_s = 0.05
    attempt.is_reused, attempt.has_expired = is_reused, has_expired
    attempt.wrote, attempt.wrote_s = wrote, attempt_clock.now_s
    attempt.answer = None if status is None else SimpleNamespace(status=status)

    attempt_clock.now_s += after_s
    attempt.ends(connection, None)

    assert is_stale is attempt.is_stale


def test_what_is_known_of_the_end_is_what_was_seen_first(attempt_clock: HandClock):
    attempt = Attempt((1.0, 1.0))
    connection = attempt.connection = WatchedConnection("127.0.0.1", 1)
    attempt.is_reused, attempt.wrote, attempt.wrote_s = True, True, attempt_clock.now_s
    attempt.ends(connection, None)
    attempt_clock.now_s += 1

    attempt.ends(connection, None)

    assert attempt.is_stale


def test_an_answer_that_grows_moves_the_deadline_within_bounds(attempt_clock: HandClock):
    """
    Connecting may take 2 s, silence 3 s, all of it 32 s.
    """
    attempt = Attempt((2.0, 3.0))
    moves = []
    for after_s in (1.0, 2.0, 26.0, 2.0):
        attempt_clock.now_s += after_s
        attempt.progressed()
        moves.append((attempt.left_s(), attempt.has_grown))

    assert [(4.0, False), (3.0, True), (3.0, True), (1.0, True)] == moves


# How long it may take


def test_the_whole_attempt_has_the_sum_of_both_time_outs(attempt_clock: HandClock):
    """
    Each read has the read time-out, the last one only what is left.
    """
    attempt = Attempt((2.0, 3.0))

    assert (5.0, 3.0) == (attempt.left_s(), attempt.patience_s())
    attempt_clock.now_s += 2.0
    assert (3.0, 3.0) == (attempt.left_s(), attempt.patience_s())
    attempt_clock.now_s += 2.5
    assert (0.5, 0.5) == (attempt.left_s(), attempt.patience_s())
    assert not attempt.has_expired


@pytest.mark.parametrize("late_s", [0.0, 1.0])
def test_an_attempt_whose_time_is_over_waits_no_more(attempt_clock: HandClock, late_s: float):
    """
    At the very instant already, and it stays over.
    """
    attempt = Attempt((2.0, 3.0))

    attempt_clock.now_s += 5.0 + late_s
    with pytest.raises(TimeoutError):
        attempt.patience_s()

    assert attempt.has_expired
    attempt_clock.now_s -= 5.0 + late_s
    with pytest.raises(TimeoutError):
        attempt.patience_s()


def test_the_clock_of_attempts_is_the_one_that_sockets_time_out_by():
    """
    It moves, and it does not stand still under freezegun.
    """
    from freezegun import freeze_time

    with freeze_time("2026-01-01"):
        first = now_s()
        while (second := now_s()) == first:
            pass

    assert 0 < second - first < PATIENCE_S


@pytest.mark.parametrize(("has_s", "calls"), [(5.0, []), (4.0, [5.0]), (None, [5.0])])
def test_a_time_out_that_a_socket_has_already_is_not_set_again(has_s: float | None, calls: list[float]):
    """
    Setting it is a system call.
    """
    asked: list[float] = []

    class Counting(socket.socket):
        def settimeout(self, value: float | None) -> None:
            asked.append(value)
            super().settimeout(value)

    with Counting() as sock:
        sock.settimeout(has_s)
        asked.clear()
        set_timeout(sock, 5.0)

        assert calls == asked
        assert 5.0 == sock.gettimeout()


def test_tls_inside_tls_is_told_its_time_out_every_time():
    """
    It does not say which one it has.
    """
    asked: list[float] = []

    set_timeout(SimpleNamespace(settimeout=asked.append), 5.0)

    assert [5.0] == asked


# Whose socket is shut down


@pytest.mark.parametrize("wrap", [lambda sock: sock, lambda sock: SimpleNamespace(socket=sock)], ids=["plain", "inner"])
def test_shutting_down_wakes_both_ends_and_closes_nothing(pair, wrap):
    """
    Its owner closes it; TLS inside TLS keeps the real one as ``socket``.
    """
    ours, theirs = pair

    shut_down(wrap(ours))
    shut_down(wrap(ours))  # a second time harms nothing

    assert b"" == theirs.recv(1)
    assert b"" == ours.recv(1)
    assert -1 != ours.fileno()


def test_what_is_no_socket_is_not_shut_down():
    """
    There may be none yet.
    """
    shut_down(None)
    shut_down(SimpleNamespace(shutdown=pytest.fail))


def test_an_attempt_without_connection_may_expire():
    """
    The alarm rang before there was one; whoever connects sees it.
    """
    attempt = Attempt((1.0, 1.0))

    attempt.expire()

    assert attempt.has_expired


@pytest.mark.parametrize("known", ["attempt", "connection"])
def test_expiring_shuts_down_the_socket_of_the_attempt(pair, known: str):
    """
    The one it was told of, or, while it still connects, the connection's.
    """
    ours, theirs = pair
    attempt = Attempt((1.0, 1.0))
    attempt.connection = connection_of(attempt, ours if known == "connection" else None)
    attempt.sock = ours if known == "attempt" else None

    attempt.expire()

    assert b"" == theirs.recv(1)
    attempt.connection.sock = None


def test_expiring_harms_nobody_to_whom_the_connection_belongs_now(pair):
    """
    Let go, or taken by the next attempt.
    """
    ours, theirs = pair
    attempt, following = Attempt((1.0, 1.0)), Attempt((1.0, 1.0))
    connection = attempt.connection = connection_of(attempt, ours)
    attempt.sock = ours

    attempt.let_go()
    attempt.expire()
    free = connection.owner
    connection.serve(following)
    attempt.expire()
    attempt.let_go()

    assert free is None
    assert is_open(theirs)
    assert connection.owner is following
    connection.sock = None


def test_letting_go_waits_for_a_shutdown_that_has_begun(pair):
    """
    Else it would hit whoever gets the connection next.
    """
    ours, _ = pair
    attempt = Attempt((1.0, 1.0))
    connection = attempt.connection = connection_of(attempt, ours)
    done = threading.Event()

    def let_go() -> None:
        attempt.let_go()
        done.set()

    with connection.guard:
        thread = threading.Thread(target=let_go)
        thread.start()
        early = done.wait(0.02)
        owner = connection.owner
    thread.join(PATIENCE_S)

    assert not early
    assert owner is attempt
    assert connection.owner is None
    connection.sock = None


def test_an_attempt_that_has_no_connection_lets_go_of_nothing():
    """
    As after a failure to connect.
    """
    Attempt((1.0, 1.0)).let_go()


# What connections report


def test_a_kept_connection_tells_its_attempt_that_it_is_one(pair):
    """
    Connected, used before, and on which socket.
    """
    ours, _ = pair
    attempt = Attempt((1.0, 1.0))
    connection = connection_of(None, ours)

    connection.serve(attempt)

    assert (connection, ours) == (attempt.connection, attempt.sock)
    assert (True, True, True, False) == (attempt.has_begun, attempt.is_connected, attempt.is_reused, attempt.wrote)
    connection.sock = None


def test_a_new_connection_tells_its_attempt_how_far_it_got():
    """
    Connected, on a socket of its own, nothing written; one that was kept before is forgotten.
    """
    attempt = Attempt((1.0, 1.0))
    attempt.is_connected = attempt.is_reused = True
    with RawServer(Peer.serve) as server:
        connection = WatchedConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        with watching(attempt):
            connection.connect()

        assert (True, True, False, False) == (
            attempt.has_begun,
            attempt.is_connected,
            attempt.is_reused,
            attempt.wrote,
        )
        assert connection.sock is attempt.sock is not None
        assert connection.owner is attempt
        connection.close()


def test_a_connection_that_fails_leaves_its_attempt_unconnected():
    """
    So that the proxy is named, not the API, and nothing counts as sent.
    """
    attempt = Attempt((1.0, 1.0))
    attempt.is_connected = attempt.is_reused = True
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    connection = WatchedConnection("127.0.0.1", port, timeout=PATIENCE_S)

    with watching(attempt), pytest.raises(Exception, match="refused"):
        connection.connect()

    assert (True, False, False, "no") == (attempt.has_begun, attempt.is_connected, attempt.is_reused, attempt.sent)


def test_what_a_proxy_was_told_is_not_the_request():
    """
    CONNECT and its answer prove nothing about the request.
    """

    def tunnel(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        peer.wait_until_client_leaves()

    attempt = Attempt((1.0, 1.0))
    with RawServer(tunnel) as proxy:
        connection = WatchedConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)
        connection.set_tunnel("api.example.test", 80, scheme="http")
        with watching(attempt):
            connection.connect()
        connection.close()

        assert 1 == len(proxy.requests)
    assert (False, None, "no") == (attempt.wrote, attempt.answer, attempt.sent)


def test_an_attempt_that_expired_while_it_connected_sends_nothing():
    """
    The alarm found no socket to shut down; the sender looks for itself.
    """
    attempt = Attempt((1.0, 1.0))
    attempt.has_expired = True
    with RawServer(Peer.serve) as server:
        connection = WatchedConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        with watching(attempt), pytest.raises(TimeoutError, match="expired while it connected"):
            connection.connect()
        connection.close()

        assert [] == server.requests


def test_requests_of_http_client_report_too():
    """
    The way of requests: new, then kept on the same socket, then new again after it was closed.
    """
    seen = []
    with RawServer(Peer.serve) as server:
        connection = WatchedConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        for turn in range(3):
            attempt = Attempt((1.0, 1.0))
            with watching(attempt):
                connection.request("POST", "/", b"{}")
                wrote = attempt.wrote
                answer = connection.getresponse()
                answer.read()
            seen.append((attempt.is_reused, attempt.is_connected, wrote, attempt.sent, attempt.connection))
            assert attempt.sock is not None
            if turn == 1:
                connection.close()
        connection.close()

        assert 2 == server.connections
    assert [
        (False, True, True, "yes", connection),
        (True, True, True, "yes", connection),
        (False, True, True, "yes", connection),
    ] == seen


def test_a_connection_that_nobody_watches_is_like_any_other():
    """
    Also after one that was watched: that attempt hears no more of it.
    """
    attempt = Attempt((1.0, 1.0))
    with RawServer(Peer.serve) as server:
        connection = WatchedConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        with watching(attempt):
            connection.connect()
        connection.request("POST", "/", b"{}")
        status = connection.getresponse().status
        connection.close()

    assert 200 == status
    assert connection.owner is None
    assert "no" == attempt.sent


def test_the_watch_ends_with_its_block():
    """
    Also when the block fails.
    """
    attempt = Attempt((1.0, 1.0))

    with pytest.raises(KeyError), watching(attempt):
        raise KeyError

    connection = WatchedConnection("127.0.0.1", 9)
    assert connection._report() is None
    assert not attempt.has_begun


def test_a_class_of_connections_is_extended_once():
    """
    It stays what it was, and one that reports already is left as it is.
    """

    class Theirs(HTTPConnection):
        pass

    made = watched(Theirs)

    assert made is watched(Theirs)
    assert (WatchedConnection, Theirs) == made.__bases__
    assert "WatchedTheirs" == made.__name__
    assert made is watched(made)
    assert WatchedTLSConnection is watched(WatchedTLSConnection)

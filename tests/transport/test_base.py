"""What goes over the wire, and in how many steps: bodies read and unpacked, connections kept."""

from __future__ import annotations

import gzip
import http.client
import io
import socket
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from groq_queue.errors import APIConnectionError, ConfigurationError
from groq_queue.transport import Secret, pooled
from groq_queue.transport.answer import Answer, BadResponse
from groq_queue.transport.base import decoded, read_body
from groq_queue.transport.deadline import Attempt, WatchedConnection
from groq_queue.transport.pooled import Head, write

from .conftest import HandClock, Opener
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
    assert [65_536] * 3 == body.asked


def test_a_body_that_ends_before_its_length_is_not_believed():
    """
    http.client itself would return what there is.
    """
    body = Pieces(b"abc", b"de")

    with pytest.raises(http.client.IncompleteRead):
        read_body(body.read1, 6, Attempt(CALM), 100)


@pytest.mark.parametrize("length", [5, None])
def test_a_body_of_the_very_cap_is_accepted_and_one_byte_more_is_not(length: int | None):
    """
    Whether its length was announced or not.
    """
    assert b"abcde" == read_body(Pieces(b"abc", b"de").read1, length, Attempt(CALM), 5)
    with pytest.raises(BadResponse, match="larger than 4 bytes"):
        read_body(Pieces(b"abc", b"de").read1, length, Attempt(CALM), 4)


def test_a_large_body_is_asked_for_in_pieces():
    """
    Never more than 64 KB at once, never nothing.
    """
    body = Pieces(b"x" * 65_536, b"x" * 65_536, b"x")

    assert 131_073 == len(read_body(body.read1, 131_073, Attempt(CALM), 200_000))
    assert [65_536, 65_536, 1] == body.asked
    assert b"" == read_body(body.read1, 0, Attempt(CALM), 100)
    assert 1 == body.asked[-1]


class TimedSocket:
    """A socket as far as its time-out goes."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)


def test_near_the_end_of_its_time_a_read_is_given_only_what_is_left(attempt_clock: HandClock):
    """
    Before that the socket keeps the time-out that it has.
    """
    attempt = Attempt((1.0, 4.0))
    attempt.sock = sock = TimedSocket()

    def read1(amount: int) -> bytes:
        attempt_clock.now_s += 0.75
        return b" "

    assert b"   " == read_body(read1, 3, attempt, 100)

    assert [3.5] == sock.timeouts
    attempt.sock = None  # of a connection that does not report
    assert b" " == read_body(read1, 1, attempt, 100)


def test_an_answer_that_grows_near_the_end_of_its_time_gets_the_whole_time_out_again(attempt_clock: HandClock):
    attempt = Attempt((1.0, 4.0))
    attempt.sock = sock = TimedSocket()
    pieces = [b" ", b" ", b"x", b"x", b"x"]

    def read1(amount: int) -> bytes:
        attempt_clock.now_s += 0.75
        return pieces.pop(0)

    assert b"  xxx" == read_body(read1, 5, attempt, 100)

    assert [3.5, 4.0] == sock.timeouts


def test_a_body_is_left_when_its_time_is_over(attempt_clock: HandClock):
    """
    However much white space has come.
    """
    attempt = Attempt((1.0, 1.0))
    taken = []

    def read1(amount: int) -> bytes:
        attempt_clock.now_s += 0.75
        taken.append(1)
        return b"\n"

    with pytest.raises(TimeoutError):
        read_body(read1, 100, attempt, 100)

    assert 3 == len(taken)


def test_a_bomb_is_never_unpacked():
    """
    50 MB in 50 kB: memory stays near the cap.
    """
    bomb = gzip.compress(b"\0" * 50_000_000)

    tracemalloc.start()
    try:
        with pytest.raises(BadResponse):
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
        (" IDENTITY ", b"one two"),
        ("", b"one two"),
    ],
)
def test_what_is_understood_is_unpacked_up_to_the_very_cap(encoding: str, packed: bytes):
    """
    Several gzip members are one body.
    """
    assert b"one two" == decoded(packed, encoding, 7)


def test_one_byte_above_the_cap_is_too_much_and_no_body_is_none_in_every_encoding():
    """
    The cap holds for all members together.
    """
    two = gzip.compress(b"one ") + gzip.compress(b"two")

    with pytest.raises(BadResponse, match="unpacks to more than 6 bytes"):
        decoded(two, "gzip", 6)
    with pytest.raises(BadResponse, match="cut short inside its gzip"):
        decoded(two[:-1], "gzip", 100)
    assert b"" == decoded(b"", "br", 6)


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
        while peer.read_request():
            together.wait(PATIENCE_S)
            peer.answer()

    together = threading.Barrier(3)
    with RawServer(handler) as server, ThreadPoolExecutor(3) as threads:
        transport = open_pooled(server.url, max_connections=2)
        for _ in range(3):
            replies = list(threads.map(lambda _: transport.send(PATH, b"{}", timeout=CALM), range(3)))
            assert [200] * 3 == [reply.status for reply in replies]

        assert 3 + 1 + 1 == server.connections


@pytest.mark.parametrize(("idle_s", "connections"), [(60.0, 1), (60.5, 2)])
def test_a_connection_that_was_idle_for_a_minute_is_left(
    open_pooled: Opener, monkeypatch: pytest.MonkeyPatch, idle_s: float, connections: int
):
    """
    Something on the way may have forgotten it.
    """
    clock = HandClock()
    monkeypatch.setattr(pooled, "now_s", clock)
    with RawServer(Peer.serve) as server:
        transport = open_pooled(server.url)
        transport.send(PATH, b"{}", timeout=CALM)
        clock.now_s += idle_s
        transport.send(PATH, b"{}", timeout=CALM)

        assert connections == server.connections


def test_the_connection_used_last_is_used_first(open_pooled: Opener):
    """
    The others may grow old and be closed.
    """

    def handler(peer: Peer):
        while request := peer.read_request():
            if request.body == b"together":
                together.wait(PATIENCE_S)
            peer.answer(b"%d" % peer.number)

    together = threading.Barrier(2)
    with RawServer(handler) as server, ThreadPoolExecutor(2) as threads:
        transport = open_pooled(server.url)
        list(threads.map(lambda _: transport.send(PATH, b"together", timeout=CALM), range(2)))
        used = {transport.send(PATH, b"{}", timeout=CALM).body for _ in range(5)}

        assert 1 == len(used)
        assert 2 == server.connections


@pytest.mark.parametrize("ending", ["Connection: close", "HTTP/1.0"])
def test_a_server_that_ends_the_connection_is_believed(open_pooled: Opener, ending: str):
    """
    It is not kept, also if the server leaves it open for a while.
    """

    def handler(peer: Peer):
        while peer.read_request():
            version = ending if "/" in ending else "HTTP/1.1"
            header = ending if ":" in ending else "X: 1"
            peer.send(f"{version} 200 OK\r\nContent-Length: 2\r\n{header}\r\n\r\n{{}}".encode())

    with RawServer(handler) as server:
        transport = open_pooled(server.url)
        for _ in range(2):
            transport.send(PATH, b"{}", timeout=CALM)

        assert 2 == server.connections


def test_what_the_server_refused_to_read_ends_its_connection(open_pooled: Opener, monkeypatch: pytest.MonkeyPatch):
    """
    The answer counts; the rest of the request would be taken for the next one.
    """

    def sendall(self: socket.socket, data: bytes) -> None:
        send_all(self, data)
        if self.getpeername()[1] == server.port and data.endswith(b"refused"):
            raise BrokenPipeError

    send_all = socket.socket.sendall
    with RawServer(Peer.serve) as server:
        monkeypatch.setattr(socket.socket, "sendall", sendall)
        transport = open_pooled(server.url)
        first = transport.send(PATH, b"x" * 70_000 + b"refused", timeout=CALM)
        second = transport.send(PATH, b"{}", timeout=CALM)

        assert [200, 200] == [first.status, second.status]
        assert 2 == server.connections


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


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (10, 1), (65_536, 1), (65_537, 2)])
def test_head_and_body_go_out_together(open_pooled: Opener, monkeypatch: pytest.MonkeyPatch, size: int, pieces: int):
    """
    For a small body in one system call; a large one is not copied for that.
    """
    sent = []

    def noted(send):
        def note(self: socket.socket, data: bytes):
            if self.getpeername()[1] == server.port:
                sent.append(len(data))
            return send(self, data)

        return note

    with RawServer(Peer.serve) as server:
        for name in ("send", "sendall"):
            monkeypatch.setattr(socket.socket, name, noted(getattr(socket.socket, name)))
        open_pooled(server.url).send(PATH, b"x" * size, timeout=CALM)
        (request,) = server.requests

    assert size == len(request.body)
    assert pieces == len(sent)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        (b"Content-Length: 2\r\nContent-Length: 3", "two lengths"),
        (b"Content-Length: 2, 3", "length '2, 3'"),
        (b"Content-Length: 2,", "length '2,'"),
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
        ("http://api.groq.com/v1", "api.groq.com"),
        ("http://api.groq.com:443/v1", "api.groq.com:443"),
        ("https://[fe80::1%25eth0]:8443/v1", "[fe80::1]:8443"),
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


@pytest.mark.parametrize("user_agent", ["me\r\nX: 1", "mé", "me\x00"])
def test_a_user_agent_cannot_smuggle_a_header(open_pooled: Opener, user_agent: str):
    """
    Told when the transport is built.
    """
    with pytest.raises(ConfigurationError, match="user_agent"):
        open_pooled("http://127.0.0.1:1/openai/v1", user_agent=user_agent)


@pytest.mark.parametrize("proxy_key", [None, Secret("dXNlcjpwYXNzd29yZA==", field="proxy")], ids=["direct", "proxy"])
def test_a_head_is_whole(key: Secret, proxy_key: Secret | None):
    """
    Every header once, the proxy's only for a proxy, and an empty line at the end.
    """
    told = Head("/v1/", urlsplit("https://api.groq.com/v1"), "me/1", key, proxy_key).encoded(PATH, 12)

    lines = told.decode().split("\r\n")
    proxied = [] if proxy_key is None else [f"Proxy-Authorization: Basic {proxy_key.reveal()}"]
    assert [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: api.groq.com",
        "User-Agent: me/1",
        "Accept: application/json",
        "Accept-Encoding: identity",
        "Content-Type: application/json",
        f"Authorization: Bearer {key.reveal()}",
        *proxied,
        "Content-Length: 12",
        "",
        "",
    ] == lines


class SentTo:
    """The sending half of a socket that is no plain one; breaks after some pieces, and takes half of the first."""

    def __init__(self, breaks_after: int | None = None, error: type[OSError] = BrokenPipeError) -> None:
        self.pieces: list[bytes] = []
        self._breaks_after, self._error = breaks_after, error

    def send(self, data: bytes) -> int:
        self.sendall(data[: len(data) // 2])
        return len(data) // 2

    def sendall(self, data: bytes) -> None:
        if self._breaks_after == len(self.pieces):
            raise self._error
        self.pieces.append(bytes(data))


@pytest.fixture
def head(key: Secret) -> Head:
    return Head("/v1/", urlsplit("https://api.groq.com/v1"), "me/1", key, None)


@pytest.mark.parametrize("breaks_after", [None, 0, 1, 2])
@pytest.mark.parametrize("size", [65_536, 65_537])
def test_whether_the_peer_took_all_is_told_and_that_it_may_have_taken_some(
    head: Head, size: int, breaks_after: int | None
):
    """
    A broken pipe is no error yet: there may be an answer.
    """
    attempt, sock = Attempt(CALM), SentTo(breaks_after)

    took_all = write(sock, attempt, head, PATH, b"x" * size)

    count = 2 if size == 65_536 else 3
    assert (breaks_after is None or breaks_after >= count) is took_all
    assert (count if breaks_after is None else min(breaks_after, count)) == len(sock.pieces)
    assert attempt.wrote


def test_a_request_of_which_no_byte_was_taken_was_not_sent(head: Head):
    """
    Of a plain socket that is certain; what could be read there answers something else.
    """
    ours, theirs = socket.socketpair()
    theirs.close()
    attempt = Attempt(CALM)

    with ours, pytest.raises(ConnectionError):
        write(ours, attempt, head, PATH, b"{}")

    assert ("no", False) == (attempt.sent, attempt.wrote)


def test_a_time_out_while_sending_is_an_error(head: Head):
    """
    There is no time left to read an answer in.
    """
    attempt = Attempt(CALM)

    with pytest.raises(TimeoutError):
        write(SentTo(0, TimeoutError), attempt, head, PATH, b"{}")

    assert attempt.wrote


@pytest.mark.parametrize("endpoint", ["a b", "a\r\nX: 1", "ä", "a\x7f"])
def test_a_path_that_cannot_be_written_leaves_the_attempt_unsent(head: Head, endpoint: str):
    """
    Looked at before the first byte.
    """
    attempt, sock = Attempt(CALM), SentTo()

    with pytest.raises(ValueError, match="is not a path"):
        write(sock, attempt, head, endpoint, b"{}")

    assert ([], False) == (sock.pieces, attempt.wrote)


class Received:
    """The receiving half of a socket, with an answer in it."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def fields(*lines: str) -> dict[str, str]:
    with Answer(Received("\r\n".join(["HTTP/1.1 200 OK", *lines, "", "{}"]).encode())) as answer:
        answer.begin()
        return answer.fields()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], {}),
        (["Content-Length: 2", "X-A: 1", "x-a: 2"], {"content-length": "2", "x-a": "2"}),
        (["Content-Length: 2", "Content-Length: 2"], {"content-length": "2"}),
        (["Transfer-Encoding: Chunked"], {"transfer-encoding": "Chunked"}),
        (
            ["Transfer-Encoding: Identity", "Content-Length: 2"],
            {"transfer-encoding": "Identity", "content-length": "2"},
        ),
        (["Transfer-Encoding: chunked", "Content-Length: 9"], {"transfer-encoding": "chunked", "content-length": "9"}),
    ],
)
def test_headers_that_say_where_the_answer_ends_are_taken(lines: list[str], expected: dict[str, str]):
    """
    In lower case, the last of each; a length said twice is one length.
    """
    assert expected == fields(*lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["Content-Length: 2", "Content-Length: 3"], "two lengths"),
        (["Content-Length: -2"], "the length '-2'"),
        (["Content-Length: two"], "the length 'two'"),
        (["Transfer-Encoding: gzip"], "transferred as 'gzip'"),
        (["Transfer-Encoding: gzip, chunked", "Content-Length: 2"], "transferred as 'gzip, chunked'"),
    ],
)
def test_headers_that_leave_the_end_open_are_refused(lines: list[str], words: str):
    """
    The rest could pass for the next answer.
    """
    with pytest.raises(BadResponse, match=words):
        fields(*lines)

"""How long an attempt may take: as long as its answer grows, silence is what ends it."""

from __future__ import annotations

import pytest

from groq_queue.errors import APITimeoutError

from .conftest import Opener, Stopwatch, timer_alarm
from .raw_server import Peer, RawServer

PATH = "chat/completions"
FRAMINGS = [b"Content-Length: 12", b"Transfer-Encoding: chunked", b"Connection: close"]


def answered_slowly(framing: bytes, pieces: list[bytes], pause_s: float):
    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        for piece in pieces:
            peer.server.is_closing.wait(pause_s)
            peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if b"chunked" in framing else piece)
        if b"chunked" in framing:
            peer.send(b"0\r\n\r\n")

    return handler


@pytest.mark.parametrize(
    ("framing", "alarm"),
    [
        (FRAMINGS[0], timer_alarm),
        pytest.param(FRAMINGS[1], timer_alarm, marks=pytest.mark.gate),
        pytest.param(FRAMINGS[2], None, marks=pytest.mark.gate),
    ],
    ids=["length", "chunked", "close"],
)
def test_an_answer_that_never_falls_silent_is_read_to_its_end(open_transport: Opener, framing: bytes, alarm):
    """
    It takes 0.36 s; connecting may take 0.05 s and silence 0.25 s.
    """
    pieces = [b"01", b"23", b"45", b"67", b"8a", b"bc"]

    with RawServer(answered_slowly(framing, pieces, 0.06)) as server:
        reply = open_transport(server.url, alarm=alarm).send(PATH, b"{}", timeout=(0.05, 0.25))

    assert b"012345678abc" == reply.body


@pytest.mark.gate
def test_silence_ends_an_answer_that_has_grown(open_transport: Opener):
    def handler(peer: Peer):
        answered_slowly(b"Content-Length: 12", [b"1", b"2", b"3", b"4"], 0.1)(peer)
        peer.hold()

    with RawServer(handler) as server, Stopwatch() as watch, pytest.raises(APITimeoutError) as caught:
        open_transport(server.url, alarm=timer_alarm).send(PATH, b"{}", timeout=(0.1, 0.2))

    assert "yes" == caught.value.sent
    assert 0.6 <= watch.seconds < 1.6


@pytest.mark.gate
def test_an_answer_that_grows_for_ever_is_left_after_ten_times_the_silence(open_transport: Opener):
    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.drip(b"x")

    with RawServer(handler) as server, Stopwatch() as watch, pytest.raises(APITimeoutError) as caught:
        open_transport(server.url, alarm=timer_alarm).send(PATH, b"{}", timeout=(0.05, 0.1))

    assert "yes" == caught.value.sent
    assert 1.05 <= watch.seconds < 2.05


@pytest.mark.gate
def test_an_alarm_for_an_answer_that_grew_is_called_off_as_well(open_transport: Opener):
    log = []

    def logging_alarm(seconds, callback):
        log.append("set")
        off = timer_alarm(seconds, callback)
        return lambda: (log.append("off"), off())

    with RawServer(answered_slowly(FRAMINGS[0], [b"%d" % (n % 10) for n in range(12)], 0.05)) as server:
        open_transport(server.url, alarm=logging_alarm).send(PATH, b"{}", timeout=(0.1, 0.2))

    assert ("set", "off") == (log[0], log[-1])
    assert 1 == log.count("off"), "those before have rung"

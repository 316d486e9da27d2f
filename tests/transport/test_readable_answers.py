"""Answers that are odd and can be read all the same: they were paid for."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from groq_queue.errors import APIConnectionError
from groq_queue.transport import base
from groq_queue.transport.answer import Answer

from .conftest import Opener
from .raw_server import Peer, RawServer

CALM = (5.0, 5.0)
PATH = "chat/completions"
GOOD = b'{"a": 1}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n"
RAW_DEFLATE = zlib.compressobj(wbits=-15)
RAW_DEFLATED = RAW_DEFLATE.compress(GOOD) + RAW_DEFLATE.flush()


def lines(count: int, name: str = "X") -> bytes:
    return b"".join(f"{name}-{number}: 1\r\n".encode() for number in range(count))


def answers_to(open_transport: Opener, *raw: bytes, keeps: bool = True) -> list:
    """Return the replies to as many requests, over one connection if that *keeps*."""

    def handler(peer: Peer):
        while left and peer.read_request():
            peer.send(left.pop(0))
            if not keeps:
                return

    left = list(raw)
    with RawServer(handler) as server:
        transport = open_transport(server.url)
        replies = [transport.send(PATH, b"{}", timeout=CALM) for _ in raw]
        if keeps:
            assert 1 == server.connections
    return replies


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n" + lines(79, "Link") + b"\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 200,
    ],
    ids=["102", "103", "several", "many lines", "two hundred"],
)
def test_interim_answers_are_skipped(open_transport: Opener, interim: bytes):
    """
    The connection goes on: the next answer is the next one's.
    """
    first, second = answers_to(
        open_transport, interim + OK + b"X-Own: 1\r\n\r\n" + GOOD, OK + b"\r\n" + GOOD.replace(b"1", b"2")
    )

    assert (200, GOOD, "1") == (first.status, first.body, first.headers["x-own"])
    assert b'{"a": 2}' == second.body


@pytest.mark.parametrize("count", [79, 80, 81, 98, 99, 100, 500])
def test_an_answer_with_many_headers_is_read_by_those_that_matter(open_transport: Opener, count: int):
    """
    The last lines are the ones that frame it, and tell what is left of a limit.
    """
    last = b"x-ratelimit-remaining-tokens: 7\r\nRetry-After: 3\r\nX-Request-Id: req_1\r\nContent-Length: 8\r\n\r\n"

    first, second = answers_to(open_transport, b"HTTP/1.1 200 OK\r\n" + lines(count) + last + GOOD, OK + b"\r\n" + GOOD)

    assert (GOOD, GOOD) == (first.body, second.body)
    assert ("7", "3", "req_1") == tuple(
        first.headers[name] for name in ("x-ratelimit-remaining-tokens", "retry-after", "x-request-id")
    )


def test_a_line_that_goes_on_is_left_out_or_kept_as_a_whole(open_pooled: Opener):
    """
    Folded lines, obsolete and still met: a part of one must not pass for a line of its own.
    """
    folded = b"Y: 1\r\n Content-Length: 99\r\nContent-Type: text/x;\r\n\tcharset=utf-8\r\n"

    (reply,) = answers_to(
        open_pooled, b"HTTP/1.1 200 OK\r\n" + lines(90) + folded + b"Content-Length: 8\r\n\r\n" + GOOD
    )

    assert GOOD == reply.body
    assert "charset=utf-8" in reply.headers["content-type"]


@pytest.mark.parametrize("length", [b"8, 8", b"8,8,8", b" 8 , 8 "])
def test_a_length_that_a_proxy_repeated_is_one_length(open_transport: Opener, length: bytes):
    (reply,) = answers_to(
        open_transport, b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + GOOD, keeps=False
    )

    assert GOOD == reply.body


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip, gzip", gzip.compress(gzip.compress(GOOD))),
        ("deflate, gzip", gzip.compress(zlib.compress(GOOD))),
        ("deflate", RAW_DEFLATED),
        ("deflate, gzip", gzip.compress(RAW_DEFLATED)),
        ("utf-8", GOOD),
        ("br", GOOD),
        ("zstd", b"\xef\xbb\xbf" + GOOD),
        ("gzip", GOOD),
        ("deflate", b" " + GOOD),
        ("gzip, br", GOOD),
        ("identity, gzip", gzip.compress(GOOD)),
        ("GZIP", gzip.compress(GOOD[:4]) + gzip.compress(GOOD[4:])),
    ],
)
def test_an_encoding_is_undone_if_it_is_there_and_not_believed_if_it_is_not(
    open_transport: Opener, encoding: str, body: bytes
):
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    (reply,) = answers_to(open_transport, head + body)

    assert json.loads(GOOD) == json.loads(reply.body.decode("utf-8-sig"))


def test_raw_deflate_that_begins_with_a_bracket_is_not_taken_for_json():
    packer = zlib.compressobj(level=1, wbits=-15, strategy=zlib.Z_FIXED)
    for text in (f'{{"n": {number}}}'.encode() for number in range(2_000)):
        packer = zlib.compressobj(wbits=-15, strategy=zlib.Z_FIXED)
        packed = packer.compress(text) + packer.flush()

        assert text == base.decoded(packed, "deflate", 1_000)


def test_an_answer_of_22_megabytes_is_read(open_transport: Opener):
    """
    2,048 texts, embedded.
    """
    body = b"[" + b"0.123456," * 2_600_000 + b"0]"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    (reply,) = answers_to(open_transport, head + body)

    assert 22_000_000 < len(reply.body) == len(body)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 99999999999", b""),
        (b"Content-Length: 9\r\nContent-Encoding: br", b"\x8b\x04\x80hello\x03"),
    ],
    ids=["too large", "unknown encoding"],
)
def test_what_would_be_the_same_every_time_is_final(open_transport: Opener, head: bytes, body: bytes):
    """
    A second time would be bought in vain.
    """

    def handler(peer: Peer):
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)
        peer.hold()

    with RawServer(handler) as server, pytest.raises(APIConnectionError) as caught:
        open_transport(server.url).send(PATH, b"{}", timeout=CALM)

    assert ("yes", True) == (caught.value.sent, caught.value.is_final)


def test_a_bomb_is_final_and_a_damaged_body_is_not(open_pooled: Opener):
    """
    What was cut or damaged on the way may come whole the next time.
    """
    verdicts = []
    for body in (gzip.compress(b"\0" * 20_000_000), gzip.compress(GOOD)[:-3], b"\x1f\x8b" + b"nonsense" * 3):
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with pytest.raises(APIConnectionError) as caught:
            answers_to(open_pooled, head + body)
        verdicts.append(caught.value.is_final)

    assert [True, False, False] == verdicts


def test_both_transports_read_answers_with_it(open_transport: Opener, monkeypatch: pytest.MonkeyPatch):
    begun = []
    begin = Answer.begin
    monkeypatch.setattr(Answer, "begin", lambda self: begun.append(self) or begin(self))

    answers_to(open_transport, OK + b"\r\n" + GOOD)

    assert 1 == len(begun)

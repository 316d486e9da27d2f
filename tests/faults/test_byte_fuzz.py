"""Any bytes a server may send become an answer or a typed error, and the next request gets its own answer."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading

import pytest
from extras import needs

from groq_queue import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    Completion,
    GroqQueue,
    Limits,
)
from groq_queue.core.headers import parse_duration, parse_rate_headers, parse_refusal, parse_retry_after
from groq_queue.core.response import decode_object

needs("hypothesis", is_module=True)

from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

PATIENCE_S = 30

BODY = json.dumps(
    {
        "id": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    }
).encode()
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nx-request-id: req_1\r\n"
    b"x-ratelimit-limit-requests: 14400\r\nx-ratelimit-remaining-requests: 14399\r\n"
    b"x-ratelimit-limit-tokens: 6000\r\nx-ratelimit-remaining-tokens: 5990\r\nx-ratelimit-reset-tokens: 7.66s\r\n\r\n"
)
GOOD = HEAD % len(BODY) + BODY
REFUSED = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\nContent-Length: 93\r\n\r\n"
    b'{"error":{"message":"Rate limit reached ... on tokens per minute (TPM): Limit 6000, Used 1 a"}}'
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
ODD = [b"\r\n", b"\x00", b"\xff", b"HTTP/1.1", b" 99999999999999999999", b"chunked", b"gzip", b"Content-Length: -1\r\n",
       b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"{", b"]" * 500, b"NaN", b":",
       b"HTTP/9.9 200 "]  # fmt: skip


class Tape:
    """A server that answers every first request of a prompt with given bytes and closes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.answer = b""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE_S)
            with sock, contextlib.suppress(OSError), sock.makefile("rb") as file:
                while self._answered(sock, file):
                    pass

    def _answered(self, sock, file) -> bool:
        length = 0
        while (line := file.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = file.read(length)
        if not body:
            return False
        if b"next" in body:
            sock.sendall(GOOD.replace(b"well", b"next"))
            return True
        sock.sendall(self.answer)
        return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def tape():
    tape = Tape()
    yield tape
    tape.close()


@st.composite
def mangled(draw) -> bytes:
    """A real answer with a few bytes changed, cut, doubled or put in."""
    raw = bytearray(draw(st.sampled_from([GOOD, REFUSED, CHUNKED])))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(raw)))
        act = draw(st.sampled_from(["flip", "cut", "insert", "drop", "double"]))
        if act == "flip" and place < len(raw):
            raw[place] ^= draw(st.integers(1, 255))
        elif act == "cut":
            del raw[place:]
        elif act == "insert":
            raw[place:place] = draw(st.one_of(st.sampled_from(ODD), st.binary(max_size=12)))
        elif act == "drop":
            del raw[place : place + draw(st.integers(1, 20))]
        else:
            raw[place:place] = raw[max(0, place - 30) : place]
    return bytes(raw)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.one_of(mangled(), st.binary(max_size=200)))
@example(raw=b"")
@example(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000)
@example(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}")
@example(raw=b"HTTP/1.1 999 \xff\xfe\r\nX" + b"\r\n\r\n")
@example(raw=b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00")
@example(raw=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")
@example(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n{}")
@example(raw=GOOD.replace(b'"usage": {', b'"usage": {"prompt_tokens": 1e999, "x": {'))
def test_any_bytes_end_one_request_and_no_other(tape, raw):
    tape.answer = raw
    with GroqQueue(
        api_key="gsk_x",
        base_url=tape.url,
        model="m",
        organization=os.urandom(8).hex(),  # what the bytes say of limits is nobody else's
        limits=Limits(),
        max_retries=0,
        timeout=(2, 2),
        max_workers=1,
    ) as queue:
        first, second = queue.submit("first"), queue.submit("next", model="another")
        error = first.exception(PATIENCE_S)
        answer = second.exception(PATIENCE_S) or second.result()

    assert error is None or isinstance(error, (APIConnectionError, APIResponseError, APIStatusError))
    if error is None:
        assert isinstance(first.result(), Completion)
        assert isinstance(first.result().text, str)
    else:
        assert len(str(error)) < 500
        assert str(error).isprintable()
    # A key that is refused ends the next request too; nothing else does.
    if isinstance(error, APIStatusError) and error.status_code == 401:
        assert isinstance(answer, APIStatusError) or "next" == answer.text
    else:
        assert "next" == getattr(answer, "text", answer)


@settings(max_examples=400, deadline=None)
@given(raw=st.one_of(st.binary(max_size=60), st.text("0123456789.smhdnuµ+-e ", max_size=20).map(str.encode)))
@example(raw=b"9" * 400 + b"s")
@example(raw="٣s".encode())
def test_any_bytes_of_a_header_are_a_duration_or_nothing(raw):
    text = raw.decode("latin-1")

    for read in (parse_duration(text), parse_retry_after(text, 1.7e9)):
        assert read is None or (isinstance(read, int) and 0 <= read)
    for header in parse_rate_headers({f"x-ratelimit-{name}-tokens": text for name in ("limit", "remaining", "reset")}):
        assert 0 <= header.remaining <= header.limit
    refusal = parse_refusal(f"Rate limit reached on tokens per minute (TPM): Limit {text}, Used {text}. Try in {text}.")
    assert "TPM" == refusal.dimension
    for figure in (refusal.limit, refusal.used, refusal.wait_ns):
        assert figure is None or figure >= 0


@settings(max_examples=200, deadline=None)
@given(level=st.integers(-9, 10**6), limit=st.integers(0, 10**6), wait_s=st.integers(0, 9_999))
def test_what_a_server_says_truly_is_read_and_what_is_absurd_is_not(level, limit, wait_s):
    told = {"limit": f"{limit}", "remaining": f"{level}", "reset": f"{wait_s}s"}

    headers = parse_rate_headers({f"x-ratelimit-{name}-tokens": text for name, text in told.items()})

    expected = [("TPM", limit, level, wait_s * 10**9)] if 0 <= level <= limit and limit else []
    assert expected == [(one.dimension, one.limit, one.remaining, one.reset_ns) for one in headers]


@settings(max_examples=400, deadline=None)
@given(raw=st.one_of(st.binary(max_size=300), st.integers(0, 2**32).map(lambda seed: flipped(BODY, seed))))
@example(raw=BODY.decode().encode("utf-16"))
@example(raw=b"\xef\xbb\xbf" + BODY)
@example(raw=b'{"a":' * 50_000)
@example(raw=b'{"a":' + b"9" * 100_000 + b"}")
def test_any_bytes_of_a_body_are_an_object_or_a_value_error(raw):
    assert json.loads(BODY) == decode_object(BODY)

    try:
        read = decode_object(raw)
    except ValueError:
        return
    assert isinstance(read, dict)
    assert isinstance(Completion(read).text, str)


def flipped(raw: bytes, seed: int) -> bytes:
    """Return *raw* with up to five bits turned."""
    draws = random.Random(seed)
    changed = bytearray(raw)
    for _ in range(draws.randint(1, 5)):
        changed[draws.randrange(len(changed))] ^= 1 << draws.randrange(8)
    return bytes(changed)

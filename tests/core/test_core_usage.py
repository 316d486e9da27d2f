"""Usage read from bodies that pass by."""

from __future__ import annotations

import pytest

from groq_queue.core.usage import UsageReader, usage_in_body

GROQ = (
    b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    b'data: {"choices":[],"x_groq":{"id":"r","usage":{"prompt_tokens":7,"completion_tokens":3}}}\n\n'
    b"data: [DONE]\n\n"
)
OPENAI = (
    b'data: {"choices":[{"delta":{"content":"\\"prompt_tokens\\""}}],"usage":null}\r\n\r\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\r\n\r\ndata: [DONE]\r\n\r\n'
)


@pytest.mark.parametrize("body", [GROQ, OPENAI], ids=["groq", "openai"])
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_usage_is_found_in_a_stream_however_it_is_cut(body, size):
    reader = UsageReader()

    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])

    assert {"prompt_tokens": 7, "completion_tokens": 3} == reader.usage()


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage":{"prompt_tokens":7}}',
        b'{\n "usage": {\n  "prompt_tokens": 7\n }\n}\n',
        b'data: {"usage":{"prompt_tokens":7}}',
    ],
)
def test_usage_is_found_in_a_whole_body(body):
    assert {"prompt_tokens": 7} == usage_in_body(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"not JSON", b'{"usage":null}', b'data: {"usage":{"prompt_tokens":-1}}\n', b'data: {"prompt_tokens" 7}\n'],
)
def test_a_body_that_tells_no_usage_is_none(body):
    assert usage_in_body(body) is None


def test_a_line_without_end_is_not_kept():
    reader = UsageReader()

    for _ in range(40):
        reader.feed(b"x" * 65_536)

    assert len(reader._line) <= 1024 * 1024

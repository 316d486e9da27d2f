"""Usage read from bodies that pass by."""

from __future__ import annotations

import pytest

from groq_queue.core import response
from groq_queue.core.response import UsageReader, usage_in_body

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
    reader.feed(b'\ndata: {"usage":{"prompt_tokens":7}}\n')
    assert {"prompt_tokens": 7} == reader.usage()


@pytest.mark.parametrize(("size", "usage"), [(1024 * 1024, {"prompt_tokens": 7}), (1024 * 1024 + 1, None)])
def test_a_line_of_a_mebibyte_is_read_and_a_longer_one_is_not(size, usage):
    line = b'{"usage":{"prompt_tokens":7}}'
    reader = UsageReader()

    reader.feed(line + b" " * (size - len(line)))

    assert usage == reader.usage()


def test_the_last_line_that_tells_usage_counts():
    """
    Some servers tell it with every piece, adding up.
    """
    reader = UsageReader()
    for count in (1, 2, 3):
        reader.feed(b'data: {"usage":{"prompt_tokens":%d}}\n\ndata: {"choices":[]}\n' % count)
    told = reader.usage()
    reader.feed(b'data: {"usage":{"prompt_tokens":4}}')

    assert {"prompt_tokens": 3} == told
    assert {"prompt_tokens": 4} == reader.usage()


def test_a_line_whose_usage_makes_no_sense_does_not_hide_the_one_before():
    reader = UsageReader()

    reader.feed(b'data: {"usage":{"prompt_tokens":7}}\ndata: {"usage":{"prompt_tokens":null}}')

    assert {"prompt_tokens": 7} == reader.usage()


@pytest.mark.parametrize(
    "body", [b"", b'["prompt_tokens"]', b'{"x_groq":{"prompt_tokens":7}}', b'{"x_groq":["prompt_tokens"']
)
def test_what_only_mentions_usage_tells_none(body):
    assert usage_in_body(body) is None


def test_the_usage_itself_is_preferred_to_that_beside_it():
    body = b'{"usage":{"prompt_tokens":7},"x_groq":{"usage":{"prompt_tokens":8}}}'

    assert {"prompt_tokens": 7} == usage_in_body(body)
    assert {"prompt_tokens": 8} == usage_in_body(body.replace(b'"prompt_tokens":7', b'"x":7'))


def test_only_what_mentions_usage_and_may_be_an_object_is_parsed(monkeypatch):
    """
    Most lines of a stream tell none, and are passed by without a look.
    """
    parsed = []
    monkeypatch.setattr(response, "decode_object", lambda text: parsed.append(text) or {})

    for line in (b'{"choices":[]}', b'"prompt_tokens"', b'data: {"prompt_tokens":1}'):
        usage_in_body(line)

    assert {b'{"prompt_tokens":1}'} == set(parsed)

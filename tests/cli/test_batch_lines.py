"""What a line asks for, and how outcomes are written."""

from __future__ import annotations

import inspect
import io
import json
from typing import Any

import pytest

from groq_queue import GroqQueue
from groq_queue.cli.batch_lines import (
    MAX_LINE_BYTES,
    BadLine,
    BatchLine,
    LineParser,
    NotLines,
    answer_line,
    error_line,
    read_lines,
)
from groq_queue.core.response import Completion
from groq_queue.errors import APIConnectionError, APITimeoutError, BadRequestError


def _parse(*lines: object) -> list[BatchLine | BadLine]:
    parser = LineParser()
    found: list[BatchLine | BadLine] = []
    for number, line in enumerate(lines, 1):
        raw = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        try:
            found.append(parser.parse(number, raw + b"\n"))
        except BadLine as problem:
            found.append(problem)
    return found


def _messages(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("/v1/chat/completions", "chat/completions"),
        ("/openai/v1/chat/completions", "chat/completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/audio/transcriptions", "audio/transcriptions"),
        ("/openai/v1/audio/translations", "audio/translations"),
    ],
)
def test_a_batch_line_is_its_body_sent_to_its_url(url: str, endpoint: str) -> None:
    """
    Both spellings of the path that batch files use are known.
    """
    (ask,) = _parse({"custom_id": "a", "method": "POST", "url": url, "body": {"model": "m"}})

    assert BatchLine(1, "a", {"model": "m"}, endpoint, {}) == ask


def test_a_prompt_line_is_one_user_message_and_keeps_its_parameters() -> None:
    """
    What is ours goes to submit, everything else to the API.
    """
    (ask,) = _parse({"prompt": "hi", "model": "m", "temperature": 0, "priority": "high", "client": "c"})

    expected = {"model": "m", "temperature": 0} | _messages("hi")
    assert BatchLine(1, "line-1", expected, "chat/completions", {"priority": "high", "client": "c"}) == ask


def test_a_messages_line_is_a_payload() -> None:
    """
    It goes to the API as it is, without the custom_id.
    """
    (ask,) = _parse({"custom_id": "a", "model": "m"} | _messages("hi"))

    assert BatchLine(1, "a", {"model": "m"} | _messages("hi"), "chat/completions", {}) == ask


def test_plain_text_is_one_prompt_a_line_even_if_a_later_line_looks_like_json() -> None:
    """
    The first line decides for the whole input.
    """
    asks = _parse("Say hello\r", '{"prompt": "x"}')

    assert [_messages("Say hello"), _messages('{"prompt": "x"}')] == [
        ask.payload for ask in asks if isinstance(ask, BatchLine)
    ]


def test_a_byte_order_mark_does_not_hide_json() -> None:
    """
    Editors on Windows write one.
    """
    marked = b'\xef\xbb\xbf{"prompt": "x"}\r\n'

    assert [(1, b'{"prompt": "x"}\r\n')] == list(read_lines(io.BytesIO(marked)))
    assert [(2, b"x")] == list(read_lines(io.BytesIO(b"\xef\xbb\xbf\r\nx")))
    assert [] == list(read_lines(io.BytesIO(b"\xef\xbb\xbf")))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{bad", "line 2 is not valid JSON"),
        ("[1]", "line 2 is a JSON list"),
        ("plain", "line 2 is not valid JSON"),
        (b'{"prompt": "\xff"}', "line 2 is not UTF-8 at its byte 13"),
        ({"method": "POST", "url": "/v1/chat/completions"}, "line 2: body is missing"),
        ({"body": [1]}, "line 2: body is not a JSON object"),
        ({"method": "GET", "body": {}}, "line 2: method='GET': only POST"),
        ({"url": "/v1/files", "body": {}}, "line 2: url='/v1/files': use one of"),
        ({"url": 5, "body": {}}, "line 2: url=5: use one of"),
        ({"custom_id": 7, "prompt": "x"}, "line 2: custom_id=7 is not a string"),
        ({"prompt": 7}, "line 2: prompt is to be a string"),
        ({"prompt": "x", "messages": []}, "line 2: prompt is to be a string, and no messages"),
        ({"text": "x"}, 'line 2 has none of "body"'),
        ("[" * 100_000, "line 2 is nested too deep"),
        ({"prompt": "x" * MAX_LINE_BYTES}, "line 2 is longer than"),
    ],
    ids=range(15),
)
def test_a_bad_line_is_told_by_its_number(line: object, said: str) -> None:
    """
    The message names the line and what is wrong with it; the lines around it are not touched.
    """
    first, second, third = _parse({"prompt": "a"}, line, {"prompt": "c"})

    assert isinstance(second, BadLine)
    assert str(second).startswith(said)
    assert isinstance(first, BatchLine)
    assert isinstance(third, BatchLine)


def test_the_second_use_of_a_custom_id_is_an_error_line() -> None:
    """
    Two answers of one id could not be told apart; names made by us count too.
    """
    ids = ({"custom_id": "a"}, {"custom_id": "a"}, {"custom_id": "line-4"}, {})

    asks = _parse(*[custom_id | {"prompt": "x"} for custom_id in ids])

    assert [None, "duplicate_custom_id", None, "duplicate_custom_id"] == [
        ask.code if isinstance(ask, BadLine) else None for ask in asks
    ]


@pytest.mark.parametrize("first", ["[", "{", '[{"prompt": "x"}]'])
def test_a_json_document_of_many_lines_is_refused_as_a_whole(first: str) -> None:
    """
    Sent line by line it would be rubbish, and paid for.
    """
    with pytest.raises(NotLines) as raised:
        _parse(first)

    assert "jq -c" in str(raised.value)


def test_blank_lines_are_skipped_but_counted() -> None:
    """
    Numbers are those that an editor shows.
    """
    assert [(2, b"a\n"), (5, b"b")] == list(read_lines(io.BytesIO(b"\na\n  \n\r\nb")))


def test_a_line_without_end_is_cut_and_the_next_one_is_whole() -> None:
    """
    No input can make us hold more than one line of the largest size.
    """
    lines = list(read_lines(io.BytesIO(b"x" * (MAX_LINE_BYTES + 5_000_000) + b"\nnext\n")))

    assert [(1, MAX_LINE_BYTES + 1), (2, 5)] == [(number, len(raw)) for number, raw in lines]


@pytest.mark.parametrize("text", ["two\nlines", "\x85 \u2028 \u2029", "\x1b[2J", "日本語", "half \ud800 pair"])
def test_an_answer_is_one_line_whatever_is_in_it(text: str) -> None:
    """
    Neither bytes nor str.splitlines() find a second line, and the text comes back as it was.
    """
    completion = Completion({"id": "c", "choices": [{"message": {"content": text}}]}, custom_id="a")

    line = answer_line("r", "a", completion)

    assert line.endswith(b"\n")
    assert 1 == len(line.decode().splitlines())
    assert text == json.loads(line)["response"]["body"]["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (BadRequestError("m", status_code=400, body={"error": {"code": "their_own"}}), "their_own", 400),
        (BadRequestError("m", status_code=400, body="no"), "bad_request_error", 400),
        (APIConnectionError("m"), "api_connection_error", None),
        (APITimeoutError("m"), "api_timeout_error", None),
    ],
)  # fmt: skip
def test_a_failure_tells_the_servers_code_or_its_own_kind(error: Exception, code: str, status: int | None) -> None:
    """
    Where the server answered, its answer is in the line.
    """
    line = json.loads(error_line("r", "a", error))

    assert {"code": code, "message": "m"} == line["error"]
    assert status == (line["response"] and line["response"]["status_code"])


def test_every_option_of_submit_that_json_can_express_works_in_a_line() -> None:
    """
    None of them goes to the API as a parameter, at the top of a Batch line or beside a prompt.
    """
    signature = inspect.signature(GroqQueue.submit).parameters
    named = {name for name, parameter in signature.items() if parameter.kind is parameter.KEYWORD_ONLY}
    options: dict[str, Any] = dict.fromkeys(named - {"messages", "model", "endpoint", "custom_id", "callback"}, 1)
    body = {"model": "m", **_messages("hi")}

    beside, above = _parse({"prompt": "hi", "model": "m", **options}, {"body": body, **options})

    assert len(options) >= 9
    assert isinstance(beside, BatchLine)
    assert isinstance(above, BatchLine)
    assert options == beside.options == above.options
    assert body == beside.payload == above.payload


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("prioritty", "did you mean 'priority'"),
        ("max_wiat", "did you mean 'max_wait'"),
        ("temprature", "did you mean 'temperature'"),
        ("extra_headers", "headers are a session's"),
        ("api_key", "give it to GroqQueue()"),
    ],
)
def test_a_name_that_is_nearly_an_options_is_refused_by_line_and_name(name: str, cure: str) -> None:
    """
    Beside a prompt and beside messages. A body goes to the API as it is.
    """
    body = {"model": "m", **_messages("hi")}
    for line in ({"prompt": "hi", "model": "m"}, body):
        (refused,) = _parse({**line, name: "gsk_secret"})

        assert isinstance(refused, BadLine)
        assert str(refused).startswith(f"line 1: {name}: no option of a request")
        assert cure in str(refused)
        assert "gsk_secret" not in str(refused)
        assert "unknown_argument" == refused.code
    (passed,) = _parse({"body": {**body, name: 1}})
    assert isinstance(passed, BatchLine)
    assert {**body, name: 1} == passed.payload


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prioritty", "no option of a request and no parameter of the API; did you mean 'priority'? "),
        ("custom-id", "no option of a request and no parameter of the API; did you mean 'custom_id'? "),
        ("customId", "no option of a request and no parameter of the API; did you mean 'custom_id'? "),
        ("temprature", "no option of a request and no parameter of the API; did you mean 'temperature'? "),
        ("modle", "no option of a request and no parameter of the API; did you mean 'model'? "),
        ("extra_headers", "no option of a request and no parameter of the API; headers are a session's"),
        ("timeout", "no option of a request and no parameter of the API; give it to GroqQueue()"),
        ("model", "is sent nowhere beside a body; put it into the body"),
        ("messages", "is sent nowhere beside a body; put it into the body"),
        ("prompt", "is sent nowhere beside a body; put it into the body"),
        ("temperature", "is sent nowhere beside a body; put it into the body"),
        ("top_k", "is sent nowhere beside a body; put it into the body"),
        ("Url", "no part of a Batch line; did you mean 'url'?"),
        ("methode", "no part of a Batch line; did you mean 'method'?"),
        ("BODY", "no part of a Batch line; did you mean 'body'?"),
    ],
)
def test_what_would_be_dropped_beside_a_body_is_refused_by_name(name: str, said: str) -> None:
    """
    It would go nowhere, and the answer would not be the one that was asked for.
    """
    body = {"model": "m", **_messages("hi")}

    first, refused, last = _parse({"body": body}, {"body": body, name: "gsk_secret"}, {"body": body})

    assert isinstance(refused, BadLine)
    assert str(refused).startswith(f"line 2: {name}: {said}")
    assert "gsk_secret" not in str(refused)
    assert "unknown_argument" == refused.code
    assert isinstance(first, BatchLine)
    assert isinstance(last, BatchLine)


def test_beside_a_body_what_is_nothing_of_ours_passes_and_a_null_is_left_out() -> None:
    """
    Notes of other programs may stand there, and what a table of results has beside its requests.
    """
    body = {"model": "m", **_messages("hi")}
    notes = {"note": "x", "row": 7, "id": "batch_req_1", "response": None, "error": None, "done": True}

    passed, null = _parse({"body": body, **notes}, {"body": body, "prompt": None, "model": None, "priority": None})

    assert isinstance(passed, BatchLine)
    assert isinstance(null, BatchLine)
    assert (body, {}) == (passed.payload, dict(passed.options))
    assert (body, {}) == (null.payload, dict(null.options))


def test_a_note_beside_a_body_says_nothing_about_one_beside_a_prompt() -> None:
    """
    A name that passed there is looked at again here.
    """
    body = {"model": "m", **_messages("hi")}

    passed, refused = _parse({"body": body, "error": 1}, {"prompt": "hi", "model": "m", "error": 1})

    assert isinstance(passed, BatchLine)
    assert str(refused).startswith("line 2: error: no option of a request")


def test_the_cure_for_a_slip_in_a_line_speaks_of_lines() -> None:
    (refused,) = _parse({"prompt": "hi", "model": "m", "temprature": 1})

    assert str(refused).endswith("give it in the body of a Batch line, which goes there untouched")


def test_embeddings_take_an_input_and_no_prompt() -> None:
    line, prompt, messages = _parse(
        {"input": ["a", "b"], "model": "m", "endpoint": "embeddings"},
        {"prompt": "hi", "model": "m", "endpoint": "embeddings"},
        {**_messages("hi"), "model": "m", "endpoint": "embeddings"},
    )

    assert isinstance(line, BatchLine)
    assert ("embeddings", {"input": ["a", "b"], "model": "m"}) == (line.endpoint, line.payload)
    assert 'line 2: the endpoint "embeddings" takes "input", no prompt and no messages' == str(prompt)
    assert 'line 3: the endpoint "embeddings" takes "input", no prompt and no messages' == str(messages)


def test_an_option_that_is_null_is_left_out_and_not_sent() -> None:
    (line,) = _parse({"prompt": "hi", "model": "m", "priority": None, "dedupe": None})

    assert isinstance(line, BatchLine)
    assert ({}, {"model": "m", **_messages("hi")}) == (dict(line.options), line.payload)


def test_a_prompt_may_name_its_endpoint_and_a_batch_line_has_its_url() -> None:
    line, unknown, *twice = _parse(
        {"prompt": "hi", "model": "m", "endpoint": "chat/completions"},
        {"prompt": "hi", "endpoint": "files"},
        {"body": {}, "endpoint": "embeddings"},
        {"body": {}, "url": "/v1/embeddings", "endpoint": "chat/completions"},
    )

    assert isinstance(line, BatchLine)
    assert "chat/completions" == line.endpoint
    assert str(unknown).startswith("line 2: endpoint='files': use one of chat/completions, ")
    assert "line 3: endpoint='embeddings': use the url of a Batch line" == str(twice[0])
    assert "line 4: endpoint='chat/completions': use the url of a Batch line" == str(twice[1])


def test_a_callback_cannot_stand_in_a_line() -> None:
    (refused,) = _parse({"prompt": "hi", "model": "m", "callback": "print"})

    assert "line 1: callback: a line cannot hold a function; leave it out" == str(refused)

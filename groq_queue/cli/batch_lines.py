"""One line in, one line out: what a line asks for, and how an outcome is written.

Knows nothing of files, queues or the terminal. The form of batch lines is that of
https://console.groq.com/docs/batch, read 2026-11.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from groq_queue.core.response import Completion
from groq_queue.errors import APIStatusError, GroqQueueError, UnknownArgument
from groq_queue.wiring.options import IN_LINES, OF_MAPS, OF_SUBMIT, check_parameters, is_parameter, is_slip, meant_by

MAX_LINE_BYTES = 11 * 1024 * 1024  # a payload of the largest size that is sent, and its envelope
_ENDPOINTS = ("chat/completions", "embeddings", "audio/transcriptions", "audio/translations")
_OF_A_BATCH_LINE = {"method", "url", "body"}
_PAST_THE_CHECK = "in the body of a Batch line"
_NOT_A_LINE_EACH = "one JSON object a line is needed; jq -c '.[]' makes that of an array, jq -c . of spread-out objects"


class BadLine(ValueError):
    """A line that cannot be sent; *code* is for machines."""

    def __init__(self, custom_id: str, message: str, code: str = "invalid_line") -> None:
        super().__init__(message)
        self.custom_id, self.code = custom_id, code


class NotLines(ValueError):
    """The whole input has the wrong form, so that going on would send rubbish."""


@dataclass(frozen=True)
class BatchLine:
    """One request: what ``GroqQueue.submit`` takes."""

    number: int
    custom_id: str
    payload: Mapping[str, Any]
    endpoint: str
    options: Mapping[str, Any]


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield ``(number from 1, line)`` for lines that are not blank; at most a byte more than MAX_LINE_BYTES of each."""
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
        if raw and not raw.isspace():
            yield number, raw


class LineParser:
    """Turns the lines of one input into requests; the first one decides whether they are JSON."""

    def __init__(self, *, needs_model: bool = False) -> None:
        self._needs_model = needs_model
        self._is_json: bool | None = None
        self._seen: set[str] = set()  # grows with the input: ids only

    def parse(self, number: int, raw: bytes) -> BatchLine:
        """Return what line *number* asks for.

        Raises:
            BadLine: It asks for nothing that can be sent.
            NotLines: It is the first, and shows that the input is not made of lines or names no models.
        """
        is_first = self._is_json is None
        ask = self._parse(number, raw)
        if self._needs_model and ask.payload.get("model") is None:
            if is_first:
                raise NotLines(f"line {number} names no model: add --model, such as --model llama-3.1-8b-instant")
            raise BadLine(ask.custom_id, f"line {number} names no model, and there is no --model")
        return ask

    def _parse(self, number: int, raw: bytes) -> BatchLine:
        name = f"line-{number}"
        if self._is_json is None:
            start = raw.strip()
            if start in (b"{", b"[") or start.startswith((b"[{", b"[ {")):
                raise NotLines(f"line {number} begins a JSON document of many lines or an array: {_NOT_A_LINE_EACH}")
            self._is_json = start.startswith(b"{")
        if len(raw) > MAX_LINE_BYTES:
            raise BadLine(name, f"line {number} is longer than {MAX_LINE_BYTES:,} bytes")
        try:
            text = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise BadLine(name, f"line {number} is not UTF-8 at its byte {error.start + 1}") from None
        if not self._is_json:
            return BatchLine(number, name, _prompt(text), "chat/completions", {})
        try:
            line = json.loads(text)
        except json.JSONDecodeError as error:
            said = f"line {number} is not valid JSON: {error.msg}, at its character {error.pos + 1}"
            raise BadLine(name, said) from None
        except ValueError as error:  # a number of more digits than Python reads
            raise BadLine(name, f"line {number} is not valid JSON: {error}") from None
        except RecursionError:
            raise BadLine(name, f"line {number} is nested too deep") from None
        if not isinstance(line, dict):
            raise BadLine(name, f"line {number} is a JSON {type(line).__name__}, not an object")
        return self._parse_object(number, name, line)

    def _parse_object(self, number: int, name: str, line: dict[str, Any]) -> BatchLine:
        custom_id = line.pop("custom_id", None)
        if custom_id is None:
            custom_id = name
        if not isinstance(custom_id, str) or not custom_id.strip():
            raise BadLine(name, f"line {number}: custom_id={custom_id!r:.50} is not a string with something in it")
        if custom_id in self._seen:
            raise BadLine(
                custom_id, f"line {number}: custom_id {custom_id!r} was used before; not sent", "duplicate_custom_id"
            )
        self._seen.add(custom_id)
        options = {key: value for key in IN_LINES if (value := line.pop(key, None)) is not None}
        is_batch_line = not _OF_A_BATCH_LINE.isdisjoint(line)
        _check_names(number, custom_id, line, is_batch_line=is_batch_line)
        is_chat = (named := line.pop("endpoint", None)) is None
        endpoint = "chat/completions" if is_chat else named
        if endpoint not in _ENDPOINTS or (is_batch_line and not is_chat):
            known = "the url of a Batch line" if is_batch_line else f"one of {', '.join(_ENDPOINTS)}"
            raise BadLine(custom_id, f"line {number}: endpoint={endpoint!r:.80}: use {known}")
        if is_batch_line:
            payload, endpoint = _parse_batch(number, custom_id, line)
        elif "prompt" in line:
            prompt = line.pop("prompt")
            if not isinstance(prompt, str) or "messages" in line:
                raise BadLine(custom_id, f"line {number}: prompt is to be a string, and no messages beside it")
            payload = line | _prompt(prompt)
        elif "messages" in line or (endpoint == "embeddings" and "input" in line):
            payload = line
        else:
            raise BadLine(custom_id, f'line {number} has none of "body", "prompt" and "messages"')
        if endpoint == "embeddings" and not is_batch_line and "input" not in payload:
            raise BadLine(
                custom_id, f'line {number}: the endpoint "embeddings" takes "input", no prompt and no messages'
            )
        return BatchLine(number, custom_id, payload, endpoint, options)


def _check_names(number: int, custom_id: str, line: Mapping[str, Any], *, is_batch_line: bool) -> None:
    """Refuse names that no request has; what stands in a body goes to the API as it is.

    What is beside a body goes nowhere. So a parameter of the API is refused there, too. Notes of other programs pass,
    and so does everything that is null.
    """
    if "callback" in line:
        raise BadLine(custom_id, f"line {number}: callback: a line cannot hold a function; leave it out")
    try:
        if not is_batch_line:
            check_parameters(line, _PAST_THE_CHECK)
            return
        for name in (name for name in line if name not in _OF_A_BATCH_LINE):
            said = None if line[name] is None else _refusal_beside_a_body(name)
            if said is not None:
                raise UnknownArgument(said)
    except UnknownArgument as error:
        raise BadLine(custom_id, f"line {number}: {error}", "unknown_argument") from None


def _is_known(name: str) -> bool:
    return name in OF_SUBMIT or is_parameter(name)


@functools.lru_cache(maxsize=1_000)
def _refusal_beside_a_body(name: str) -> str | None:
    """Return why *name* may not stand beside a body, or None if it is nothing of ours."""
    if name == "endpoint":
        return None  # refused where the url is read
    if _is_known(name):
        return (
            f"{name}: is sent nowhere beside a body; put it into the body, or give it another name if it is a note "
            "of yours"
        )
    for known in _OF_A_BATCH_LINE:
        if is_slip(name, known):
            return f"{name}: no part of a Batch line; did you mean {known!r}?"
    if name in OF_MAPS or meant_by(name) in OF_MAPS:
        return None  # ``error`` and ``done`` are what tables of results have
    try:
        check_parameters([name], _PAST_THE_CHECK)
    except UnknownArgument as error:
        return str(error)
    return None


def _prompt(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _parse_batch(number: int, custom_id: str, line: dict[str, Any]) -> tuple[dict[str, Any], str]:
    method, url, body = line.get("method", "POST"), line.get("url", "/v1/chat/completions"), line.get("body")
    if method != "POST":
        raise BadLine(custom_id, f"line {number}: method={method!r:.50}: only POST is sent")
    path = url.removeprefix("/openai").removeprefix("/v1/") if isinstance(url, str) else ""
    if path not in _ENDPOINTS:
        known = ", ".join(f"/v1/{endpoint}" for endpoint in _ENDPOINTS)
        raise BadLine(custom_id, f"line {number}: url={url!r:.80}: use one of {known}")
    if not isinstance(body, dict):
        raise BadLine(custom_id, f"line {number}: body is {'missing' if body is None else 'not a JSON object'}")
    return body, path


# Output.


def answer_line(request_id: str, custom_id: str, completion: Completion) -> bytes:
    """Return the line of an answer."""
    of_groq = completion.get("x_groq")
    server_id = of_groq.get("id") if isinstance(of_groq, Mapping) else None
    response = {"status_code": 200, "request_id": server_id or completion.get("id"), "body": completion}
    return _encode(request_id, custom_id, response, None)


def error_line(request_id: str, custom_id: str, error: BaseException) -> bytes:
    """Return the line of a request that failed."""
    response = None
    if isinstance(error, APIStatusError):
        response = {"status_code": error.status_code, "request_id": error.server_request_id, "body": error.body}
    return _encode(request_id, custom_id, response, {"code": _code_of(error), "message": str(error)})


def bad_line(number: int, custom_id: str, code: str, message: str) -> bytes:
    """Return the line of a request that was never made."""
    return _encode(f"line-{number}", custom_id, None, {"code": code, "message": message})


def _encode(request_id: str, custom_id: str, response: object, error: object) -> bytes:
    line = {"id": f"batch_req_{request_id}", "custom_id": custom_id, "response": response, "error": error}
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    # JSON lets these stand as they are, and str.splitlines() would cut the line there.
    for splitter in ("\x85", "\u2028", "\u2029"):
        if splitter in text:
            text = text.replace(splitter, f"\\u{ord(splitter):04x}")
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def _code_of(error: BaseException) -> str:
    """Return the server's own code, else the kind of error in snake case."""
    body = error.body if isinstance(error, APIStatusError) else None
    error_body = body.get("error") if isinstance(body, Mapping) else None
    code = error_body.get("code") if isinstance(error_body, Mapping) else None
    if isinstance(code, str) and code:
        return code
    name = type(error).__name__ if isinstance(error, GroqQueueError) else "GroqQueueError"
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=API)(?=[A-Z])", "_", name).lower()

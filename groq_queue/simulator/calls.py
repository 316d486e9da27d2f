"""What a request asks for and what it is charged: bodies read, prompts counted.

The token counter takes the place of a model's tokenizer: pieces of words, numbers,
punctuation and other scripts, about 4.3 characters a token for English prose and
2 for Japanese. White space costs nothing, as with the real one. It is meant to
be near the truth and not equal to any client's estimate.

Source of the price: prompt as counted by the server plus the whole completion
allowance (public captures, 2026-08 to 2026-10).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from groq_queue.simulator.meter import CallCost
from groq_queue.simulator.wire import HttpRequest

IMAGE_TOKENS = 1_000
MESSAGE_TOKENS = 4
REPLY_TOKENS = 3
MAX_UPLOAD = 25 * 1024 * 1024

_PIECES = re.compile(r"[A-Za-z]{1,6}|[0-9]{1,3}|[!-/:-@\[-`{-~]{1,2}|\n+|[^\x00-\x7f]{1,2}")
_PART_NAME = re.compile(rb'name="([^"]*)"')


class ApiError(Exception):
    """An answer that is an error body, decided before anything is metered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param

    def body(self) -> bytes:
        """Return the JSON body; code and param appear only if there are any."""
        error = {"message": self.message, "type": self.kind, "code": self.code, "param": self.param}
        return to_json({"error": {name: value for name, value in error.items() if value is not None}})


@dataclass
class ApiCall:
    """One well-formed, authorised call, priced. Rules of faults may look at all of it."""

    number: int  # in order of arrival, from 1
    connection: int
    endpoint: str
    model: str
    prompt: str  # text of the last user message, the input or the name of the audio
    ask: CallCost
    allowance: int = 0
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def request_id(self) -> str:
        """The id sent as header and in bodies."""
        return f"req_01{self.number:024d}"


def to_json(value: object) -> bytes:
    """Encode compactly; µ and friends stay what they are, as Go writes them."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def count_tokens(text: str) -> int:
    """Return how many tokens *text* is for this server."""
    return len(_PIECES.findall(text))


def read_call(request: HttpRequest, endpoint: str, number: int, connection: int, default_completion: int) -> ApiCall:
    """Read and price *request*.

    Raises:
        ApiError: 400 or 413 for a body the endpoint cannot take.
    """
    if endpoint.startswith("audio/"):
        body = _read_audio(request)
        prompt, ask, allowance = _price_audio(body)
    else:
        body = _read_json(request.body)
        if endpoint == "embeddings":
            prompt, ask, allowance = _price_embeddings(body)
        else:
            prompt, ask, allowance = _price_chat(body, default_completion)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "'model' : property 'model' is missing or not a string", param="model")
    return ApiCall(number, connection, endpoint, model, prompt, ask, allowance, body)


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body of the request is not valid JSON") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body of the request must be a JSON object")
    return value


# Chat.


def _price_chat(body: Mapping[str, Any], default_completion: int) -> tuple[str, CallCost, int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "'messages' : must be a list with at least one message", param="messages")
    if body.get("n", 1) not in (1, None):
        raise ApiError(400, "'n' : number must be at most 1", param="n")
    tokens = REPLY_TOKENS
    prompt = ""
    for place, message in enumerate(messages):
        text, count = _read_message(place, message)
        tokens += count
        if message["role"] == "user":
            prompt = text
    for name in ("tools", "functions", "response_format"):
        if body.get(name):
            tokens += count_tokens(json.dumps(body[name]))
    allowance = _read_allowance(body, default_completion)
    return prompt, CallCost(1, tokens + allowance, tokens, allowance), allowance


def _read_message(place: int, message: object) -> tuple[str, int]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ApiError(400, f"'messages.{place}' : must be an object with a 'role'", param=f"messages[{place}]")
    content = message.get("content")
    tokens = MESSAGE_TOKENS
    if message.get("tool_calls"):
        tokens += count_tokens(json.dumps(message["tool_calls"]))
    if content is None:
        return "", tokens
    if isinstance(content, list):
        texts = []
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(part, dict) and part.get("type") == "image_url":
                tokens += IMAGE_TOKENS
            else:
                raise ApiError(400, f"messages[{place}].content holds an unknown part", param=f"messages[{place}]")
        content = "\n".join(texts)
    if not isinstance(content, str):
        raise ApiError(400, f"messages[{place}].content must be a string", param=f"messages[{place}].content")
    return content, tokens + count_tokens(content)


def _read_allowance(body: Mapping[str, Any], default: int) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**63:
                raise ApiError(400, f"`{name}` must be a whole number of at least 1", param=name)
            return value
    return default


# Embeddings.


def embedding_inputs(body: Mapping[str, Any]) -> list[str | list[int]]:
    """Return the texts (or lists of token numbers) of an embeddings body, one per vector."""
    given = body.get("input")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(one, int) for one in given):
            return [given]
        if all(isinstance(one, (str, list)) for one in given):
            return given
    raise ApiError(400, "'input' : must be a string or a list of strings, not empty", param="input")


def _price_embeddings(body: Mapping[str, Any]) -> tuple[str, CallCost, int]:
    inputs = embedding_inputs(body)
    tokens = sum(count_tokens(one) if isinstance(one, str) else len(one) for one in inputs)
    first = inputs[0]
    return first if isinstance(first, str) else "", CallCost(1, tokens, tokens), 0


# Audio.


def _read_audio(request: HttpRequest) -> dict[str, Any]:
    if len(request.body) > MAX_UPLOAD:
        raise ApiError(413, "Request Entity Too Large", code="request_too_large")
    kind = request.header("content-type")
    if kind.startswith("multipart/form-data"):
        body = _read_form(request.body, kind)
    elif request.body:
        body = _read_json(request.body)
    else:
        body = {}
    return body | {name: values[0] for name, values in parse_qs(request.query).items()}


def _read_form(body: bytes, content_type: str) -> dict[str, Any]:
    _, _, boundary = content_type.partition("boundary=")
    boundary = boundary.partition(";")[0].strip().strip('"')
    if not boundary:
        raise ApiError(400, "multipart/form-data without a boundary")
    fields: dict[str, Any] = {}
    for part in body.split(b"--" + boundary.encode("latin-1"))[1:]:
        head, blank, value = part.partition(b"\r\n\r\n")
        name = _PART_NAME.search(head)
        if blank and name:
            is_file = b"filename=" in head
            fields[name[1].decode("utf-8", "replace")] = (
                "(file)" if is_file else value.removesuffix(b"\r\n").decode("utf-8", "replace")
            )
    return fields


def _price_audio(body: Mapping[str, Any]) -> tuple[str, CallCost, int]:
    source = body.get("url") or body.get("file")
    if not isinstance(source, str):
        raise ApiError(400, "one of 'file' and 'url' must be given", param="file")
    try:
        seconds = math.ceil(float(body.get("seconds", 10)))
    except (TypeError, ValueError, OverflowError):
        seconds = 0
    if seconds < 1:
        raise ApiError(400, "'seconds' : must be a number above 0", param="seconds")
    return source, CallCost(1, seconds=seconds), 0

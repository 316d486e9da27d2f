"""The answer: a dict, as the API sent it, with attributes for those who like dots; its usage; the record of a request.

The usage may also be in a body that an adapter's caller reads: one JSON object, or
server-sent events passing by. Groq puts it into the last chunk's ``x_groq``, OpenAI into a
chunk of its own if ``stream_options.include_usage`` was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from groq_queue.errors import GroqQueueError


class Node(dict):  # type: ignore[type-arg]
    """A JSON object whose keys can also be read as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(self._lacks(name), name=name, obj=self) from None

    def _lacks(self, name: str) -> str:
        return f"the answer has no {name!r}; it has {', '.join(map(str, self))}"


_WORDS_FOR_TEXT = frozenset(
    {"content", "message", "output", "output_text", "result", "response", "answer", "completion"}
)
ANSWER_NAMES = _WORDS_FOR_TEXT | {"text", "id", "model", "created", "choices", "usage", "data", "attempts", "waited"}
"""What people ask an answer for, under other libraries' names as well."""


class Completion(Node):
    """One answer of the API.

    A plain dict (the response body) for ``json``, ``pickle`` and ``pandas``, plus

    Attributes:
        text: Content of the first choice, ``""`` if it has none; the transcript
            of an audio answer.
        custom_id: The caller's own id of the request, or None.
        attempts: How many times it was sent.
        waited: Seconds from ``submit`` to the start of the first attempt.
    """

    id: str
    model: str
    choices: list[Any]
    usage: Any
    custom_id: str | None
    attempts: int
    waited: float

    def __init__(
        self, body: Mapping[str, Any], *, custom_id: str | None = None, attempts: int = 1, waited: float = 0.0
    ) -> None:
        super().__init__(body)
        self.custom_id = custom_id
        self.attempts = attempts
        self.waited = waited

    def _lacks(self, name: str) -> str:
        if name in _WORDS_FOR_TEXT:
            return f"the answer has no {name!r}: its text is answer.text, or answer.choices[0].message.content"
        return f"{super()._lacks(name)}; its text is answer.text"

    def __reduce__(self) -> tuple[Any, ...]:
        # Plain objects, so that a pickle names no class but this one: it can be read wherever ``Node`` lies then.
        return Completion, (_rebuilt(self, dict),), vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update({key: _rebuilt(value, Node) for key, value in self.items()})
        vars(self).update(state)

    def __repr__(self) -> str:
        return f"Completion(text={self.text!r}, attempts={self.attempts}, waited={self.waited}, {super().__repr__()})"

    @property
    def text(self) -> str:
        choices = self.get("choices")
        if isinstance(choices, list) and choices:
            choice = choices[0] if isinstance(choices[0], Mapping) else {}
            message = choice.get("message")
            content = message.get("content") if isinstance(message, Mapping) else choice.get("text")
        else:
            content = self.get("text")
        return content if isinstance(content, str) else ""


Completion.__module__ = "groq_queue"  # where pickled answers look for it


def _rebuilt(value: Any, kind: type[dict[str, Any]]) -> Any:
    """Return JSON with every object made anew as a *kind*."""
    if isinstance(value, dict):
        return kind({key: _rebuilt(each, kind) for key, each in value.items()})
    return [_rebuilt(each, kind) for each in value] if isinstance(value, list) else value


class Record(NamedTuple):
    """The status of the request of one ``custom_id``, and how it ended.

    Attributes:
        custom_id: Its name.
        status: ``"unknown"`` (never submitted, or forgotten), ``"pending"``, ``"processing"`` (an
            attempt is on its way), ``"completed"``, ``"failed"``, ``"cancelled"`` or ``"expired"``.
        result: The answer, or None.
        error: Why it failed, or None.
        attempts: How many times it was sent, earlier runs of the program included.
        created: Unix time of ``submit``, in seconds, or None without a journal.
        finished: Unix time at which it ended, or None.
    """

    custom_id: str
    status: str
    result: Completion | None = None
    error: GroqQueueError | None = None
    attempts: int = 0
    created: float | None = None
    finished: float | None = None


def _null(name: str) -> None:
    """Read NaN and the infinities, which servers write for a probability of zero and JSON does not have, as null.

    What JavaScript writes for them; a float would make files and journals that other programs cannot read.
    """


# One for all, which json.loads would make for each call. Not strict: it reads line breaks inside strings.
_decoder = json.JSONDecoder(object_hook=Node, parse_constant=_null, strict=False)


def decode_object(body: bytes) -> dict[str, Any]:
    """Parse an answer's body.

    Returns:
        The JSON object, its inner objects as ``Node``.

    Raises:
        ValueError: The body is not one JSON object, or is nested too deep.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode(json.detect_encoding(body), "replace")  # UTF-16 or 32, or one wrong byte in a long answer
    try:
        decoded = _decoder.decode(text.lstrip("\ufeff"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(decoded, dict):
        raise ValueError(f"a JSON {type(decoded).__name__} instead of an object")
    return decoded


_MAX_TOKENS = 10**12  # more is no count of tokens


def usage_of(answer: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return ``(prompt, completion, cached)`` tokens of an answer, or None if it tells no usage."""
    usage = answer.get("usage")
    if not isinstance(usage, (dict, Mapping)):  # dict first: it needs no look into the registry of ABCs
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not isinstance(prompt, int) or not isinstance(completion, int) or prompt < 0 or completion < 0:
        return None
    if max(prompt, completion) > _MAX_TOKENS:
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, (dict, Mapping)) else 0
    return prompt, completion, min(cached, prompt) if isinstance(cached, int) and cached > 0 else 0


_MAX_LINE = 1024 * 1024  # bytes kept of what may turn out to hold the usage
_MARK = b'"prompt_tokens"'


class UsageReader:
    """Looks at the pieces of a body, uncompressed, and keeps only the line that tells the usage."""

    def __init__(self) -> None:
        self._line = b""  # the one still incomplete
        self._usage_line = b""  # the last complete one that tells usage

    def feed(self, piece: bytes) -> None:
        """Take the next piece, of any size."""
        *lines, self._line = (self._line + piece).split(b"\n")
        for line in lines:
            if _MARK in line:
                self._usage_line = line
        if len(self._line) > _MAX_LINE:
            self._line = b""

    def usage(self) -> Mapping[str, Any] | None:
        """Return the usage object seen so far, or None."""
        return next((found for line in (self._line, self._usage_line) if (found := _usage_in(line)) is not None), None)


def usage_in_body(body: bytes) -> Mapping[str, Any] | None:
    """Return the usage object of a complete body, or None if it tells none."""
    found = _usage_in(body)
    if found is None:
        reader = UsageReader()
        reader.feed(body)
        found = reader.usage()
    return found


def _usage_in(text: bytes) -> Mapping[str, Any] | None:
    """Return the usage object of one JSON text, ``data:`` before it or not."""
    text = text.strip().removeprefix(b"data:").lstrip()
    if _MARK not in text or not text.startswith(b"{"):
        return None
    try:
        answer = decode_object(text)
    except ValueError:
        return None
    for holder in (answer, answer.get("x_groq")):
        if isinstance(holder, Mapping) and usage_of(holder) is not None:
            usage: Mapping[str, Any] = holder["usage"]
            return usage
    return None

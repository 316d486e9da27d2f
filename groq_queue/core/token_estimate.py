"""What a request will cost, before it is sent and without a tokenizer.

The server charges the prompt as its own tokenizer counts it, plus the completion
allowance. UTF-8 bytes / 3 is above the truth for English and Japanese prose and
about right for dense JSON; every answer then tells the real count, and the ratio
between the two is learnt, per size of prompt, because a chat template adds a
constant that weighs more on short prompts.

Units: tokens, and seconds of audio.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

from groq_queue.core.headers import Refusal

_BYTES_PER_TOKEN = 3
_PER_MESSAGE = 4
MOST_UNITS = 10**15 - 1
"""Largest count that is taken: beyond it a sum may not fit into a float, nor a product into a journal's 63 bits."""
_PER_REQUEST = 8
_PRICED = frozenset({"messages", "input", "prompt", "tools", "functions", "response_format", "documents"})
_PER_IMAGE = 1_810  # largest of the measured 780..1,810 tokens an image, whatever its file size
_DEFAULT_COMPLETION = 1_024  # allowance of a request without a cap, until answers were seen
_SIZES = 4_096  # different sizes that are kept to be shared
_WINDOW = 64  # answers over which the worst ratio is remembered
_QUANTILE = 0.95


class TokenCost(NamedTuple):
    """Units one request takes from each kind of limit."""

    prompt: int
    completion: int = 0
    audio_s: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt + self.completion

    def units(self, dimension: str) -> int:
        """Return what counts against *dimension*, such as ``"TPM"``."""
        if dimension in ("TPM", "TPD"):
            return self.prompt + self.completion
        if dimension in ("RPM", "RPD"):
            return 1
        if dimension == "ITPM":
            return self.prompt
        if dimension == "OTPM":
            return self.completion
        return self.audio_s


cost_of: Callable[[tuple[int, int, int]], TokenCost] = partial(tuple.__new__, TokenCost)
"""Make a ``TokenCost`` of its three parts at half the price of calling it; several are made for each attempt."""


class PromptSize(NamedTuple):
    """What is known of a request's cost from its payload alone.

    Attributes:
        base: Prompt tokens by the byte rule, before any learning.
        completion: ``max_completion_tokens`` of the payload, or None.
        audio_s: Seconds of audio.
        is_exact: The caller gave the price; nothing is to be learnt or scaled.
    """

    base: int
    completion: int | None
    audio_s: int = 0
    is_exact: bool = False


def size_of(payload: Mapping[str, Any], tokens: int | None = None, audio_s: float = 0) -> PromptSize:
    """Measure a payload.

    Args:
        payload: A chat, embeddings or audio payload, checked and JSON-like.
        tokens: The caller's own total, prompt and completion; overrides the estimate.
        audio_s: Seconds of audio it refers to.
    """
    seconds = -int(-audio_s // 1) if audio_s else 0
    cap = payload.get("max_completion_tokens") or payload.get("max_tokens")
    completion = min(cap, MOST_UNITS) if isinstance(cap, int) and not isinstance(cap, bool) and cap > 0 else None
    if tokens is not None:
        known = min(completion or 0, tokens)
        return _size(tokens - known, known, seconds, True)
    base = _PER_REQUEST
    for key, value in payload.items():
        if key in _PRICED and value:
            base += _text_tokens(value)
    if "messages" not in payload:
        if seconds:
            return _size(0, 0, seconds, True)  # audio is counted in seconds alone
        if "input" in payload:
            completion = completion or 0  # embeddings and speech answer with no tokens
    return _size(base, completion, seconds, False)


@lru_cache(_SIZES)  # a million requests have few different sizes, and to make one takes longer than to find it
def _size(base: int, completion: int | None, audio_s: int, is_exact: bool) -> PromptSize:
    return PromptSize(base, completion, audio_s, is_exact)


def _text_tokens(value: Any) -> int:
    if isinstance(value, str):
        # Whether it is ASCII alone, a str knows without looking.
        size = len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        return size // _BYTES_PER_TOKEN + 1
    total = 0
    if isinstance(value, (list, tuple)):
        for element in value:
            total += _PER_MESSAGE + _text_tokens(element)
        return total
    if isinstance(value, (dict, Mapping)):
        if "content" in value and "role" in value:
            for key, part in value.items():
                if key != "role":
                    total += _content_tokens(part) if isinstance(part, (list, tuple)) else _text_tokens(part)
            return total
        return _text_tokens(json.dumps(value, ensure_ascii=False))
    return 1


def _content_tokens(content: list[Any] | tuple[Any, ...]) -> int:
    """Price the parts of a message's content; images cost a constant, never their base64 length."""
    total = 0
    for part in content:
        if isinstance(part, Mapping) and part.get("type") in ("image_url", "image", "input_image"):
            total += _PER_IMAGE
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            total += _text_tokens(part["text"])
        else:
            total += _text_tokens(part)
    return total


def corrected(size: PromptSize, refusal: Refusal | None) -> PromptSize:
    """Return *size* with the price that the server named when it refused it, if it did."""
    if refusal is None or not refusal.requested or refusal.dimension not in ("TPM", "TPD"):
        return size
    completion = min(size.completion or 0, refusal.requested)
    return size._replace(base=refusal.requested - completion, completion=completion, is_exact=True)


class Backlog(NamedTuple):
    """The sizes of many requests, added up."""

    requests: int = 0
    base: int = 0  # estimated prompt tokens, still to be scaled by what was learnt
    exact: int = 0  # prompt tokens that the callers gave
    capped: int = 0  # completion allowances of payloads that name one
    uncapped: int = 0  # requests that name none
    audio_s: int = 0

    def plus(self, size: PromptSize, times: int = 1) -> Backlog:
        """Return the sum with *size* added *times* over."""
        exact, base = (size.base, 0) if size.is_exact else (0, size.base)
        return Backlog(
            self.requests + times,
            self.base + times * base,
            self.exact + times * exact,
            self.capped + times * (size.completion or 0),
            self.uncapped + times * (size.completion is None),
            self.audio_s + times * size.audio_s,
        )


class _Mean:
    """A mean that forgets: each new value weighs a twentieth, or more while there are few."""

    __slots__ = ("_seen", "value")

    def __init__(self, value: float) -> None:
        self.value = value  # until the first is learnt
        self._seen = 0

    def learn(self, value: float) -> None:
        self._seen += 1
        self.value += (value - self.value) / min(self._seen, 20)


class _WorstRatio:
    """The largest recent ratio, with a margin that shrinks as answers come in."""

    __slots__ = ("_current", "_previous", "_seen", "value")

    def __init__(self) -> None:
        self._current = 0.0
        self._previous = 0.0
        self._seen = 0
        self.value = 0.0  # until the first is learnt

    def learn(self, ratio: float) -> None:
        if self._seen and self._seen % _WINDOW == 0:
            self._previous, self._current = self._current, 0.0
        self._current = max(self._current, ratio)
        self._seen += 1
        self.value = max(self._current, self._previous) * (1 + 1 / (self._seen + 2))


class Estimator:
    """Learns one model's ratio of real to estimated tokens, and its usual output.

    Not thread-safe: the limiter that owns it locks.
    """

    def __init__(self) -> None:
        self._ratios: dict[int, _WorstRatio] = {}
        self._outputs: deque[int] = deque(maxlen=200)
        self._answers = 0  # that were counted there, ever
        self._allowances: deque[int] = deque(maxlen=8)  # what refusals of requests without a cap named
        self._usual_output = 0  # larger than nearly every output of requests without a cap
        self._allowance = _DEFAULT_COMPLETION  # what the server is taken to count for a completion without a cap
        self._mean_ratio = _Mean(0.75)  # real prompt / estimated; the byte rule is above most texts
        self._mean_share = _Mean(1.0)  # real completion / allowance
        self._mean_output = _Mean(_DEFAULT_COMPLETION)

    def price(self, size: PromptSize) -> TokenCost:
        """Return what a request of *size* is expected to be charged at admission."""
        base, completion, audio_s, is_exact = size
        if is_exact:
            return cost_of((base, completion or 0, audio_s))
        if completion is None:
            completion = self._allowance
        ratio = self._ratios.get(base.bit_length())
        prompt = base if ratio is None else -int(-base * ratio.value // 1)
        return cost_of((prompt if prompt > 1 else 1, completion, audio_s))

    def learn(self, size: PromptSize, prompt: int, completion: int) -> None:
        """Take the truth of one answer."""
        if size.is_exact:
            return
        if size.completion:
            self._mean_share.learn(completion / size.completion)
        if prompt > 0:
            self._mean_ratio.learn(prompt / size.base)
            self._worst(size).learn(prompt / size.base)
        if size.completion is None:
            self._mean_output.learn(completion)
            self._outputs.append(completion)
            self._answers += 1
            if completion > self._usual_output or self._answers % 10 == 1:  # sorting them for each would cost the most
                self._usual_output = max(1, quantile(self._outputs, _QUANTILE))
                self._learn_allowance()

    def learn_requested(self, size: PromptSize, requested: int) -> None:
        """Take the server's own count of a request that it refused."""
        if size.is_exact:
            return
        if size.completion is None:
            self._allowances.append(max(1, requested - round(size.base * self._mean_ratio.value)))
            self._learn_allowance()
        elif requested > size.completion:
            prompt = requested - size.completion
            self._worst(size).learn(prompt / size.base)

    def _worst(self, size: PromptSize) -> _WorstRatio:
        """Return what was learnt of prompts about as long as that of *size*."""
        worst = self._ratios.get(size.base.bit_length())
        if worst is None:
            worst = self._ratios[size.base.bit_length()] = _WorstRatio()
        return worst

    def _learn_allowance(self) -> None:
        """Choose the allowance anew.

        What was answered says nothing about it: the server may count more than ever
        comes. Only its refusals tell; until one did, the default is believed.
        """
        allowance = max(self._allowances, default=_DEFAULT_COMPLETION)
        self._allowance = max(allowance, self._usual_output)

    def expect(self, backlog: Backlog, *, refunds_unused: bool) -> TokenCost:
        """Return what *backlog* will probably have cost once it is answered.

        Args:
            backlog: Requests not sent yet.
            refunds_unused: The server gives unused allowance back.
        """
        share = self._mean_share.value if refunds_unused else 1.0
        output = self._mean_output.value if refunds_unused else self._allowance
        completion = backlog.capped * share + backlog.uncapped * output
        prompt = backlog.base * self._mean_ratio.value + backlog.exact
        return TokenCost(round(prompt), round(completion), backlog.audio_s)


def quantile(values: Iterable[int], fraction: float) -> int:
    """Return the value at *fraction* of *values* (at least one) in ascending order."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]

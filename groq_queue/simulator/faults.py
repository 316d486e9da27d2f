"""What may go wrong, said in advance: declarative rules that bend an answer.

A rule with a *status* replaces the call: it is not metered unless *charge* is
True. Every other rule leaves the metering alone; if the meter refuses, a refusal
is delayed, cut, reset or kept silent like any answer, but its text and headers
stay. The first rule that matches wins; rules after it do not count that request.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from groq_queue.simulator.calls import ApiCall


@dataclass(frozen=True)
class Fault:
    """One rule.

    Args:
        status: answer this status instead of a completion.
        headers: extra headers of the answer, replacing ours of the same name.
        body: the whole body: a mapping is sent as JSON, text and bytes as they are.
        reset: close with a TCP reset, "before" or "after" metering.
        truncate: true Content-Length, half of the body, then the end.
        half_json: no Content-Length, half of the body, then the end.
        delay_s: seconds added before the answer.
        silent: metered, then never answered.
        html: an HTML error page, as a proxy sends; status 502 if none is given.
        content: the text of the completion (may be empty).
        match: part of the prompt, or a callable taking the `Call`; None matches all.
        times: at most so often.
        every: each n-th match.
        probability: 0 to 1, of each match.
        charge: whether a fault with a status spends the budget like a success.
    """

    status: int | None = None
    headers: Mapping[str, str] | None = None
    body: Mapping[str, Any] | str | bytes | None = None
    reset: Literal["before", "after"] | None = None
    truncate: bool = False
    half_json: bool = False
    delay_s: float = 0.0
    silent: bool = False
    html: bool = False
    content: str | None = None
    match: Callable[[ApiCall], bool] | str | None = None
    times: int | None = None
    every: int | None = None
    probability: float | None = None
    charge: bool = False

    def __post_init__(self) -> None:
        if self.status is not None and not (_is_number(self.status, int) and 200 <= self.status <= 599):
            raise ValueError(f"status={self.status!r:.100}: give an HTTP status from 200 to 599")
        if self.reset not in (None, "before", "after"):
            raise ValueError(f"reset={self.reset!r}: give 'before' or 'after' (metering), or None")
        if not (_is_number(self.delay_s) and 0 <= self.delay_s < 1e9):
            raise ValueError(f"delay_s={self.delay_s!r:.100}: give seconds, 0 or more; silent=True never answers")
        if self.times is not None and not (_is_number(self.times, int) and self.times >= 1):
            raise ValueError(f"times={self.times!r:.100}: give 1 or more, or None for always")
        if self.every is not None and not (_is_number(self.every, int) and self.every >= 1):
            raise ValueError(f"every={self.every!r:.100}: give 1 or more, or None for each request")
        if self.probability is not None and not (_is_number(self.probability) and 0 <= self.probability <= 1):
            raise ValueError(f"probability={self.probability!r:.100}: give a number from 0 to 1")
        if self.match is not None and not isinstance(self.match, str) and not callable(self.match):
            raise ValueError(f"match={self.match!r:.100}: give part of the prompt, or a callable taking the Call")
        if self.html and self.status is None:
            object.__setattr__(self, "status", 502)

    def matches(self, call: ApiCall) -> bool:
        """Return whether the rule matches *call*, counters aside."""
        if self.match is None:
            return True
        return self.match in call.prompt if isinstance(self.match, str) else self.match(call)


def _is_number(value: object, kind: type | tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


class _Rule:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.fired = 0


class FaultPlan:
    """The rules in force and how often each has spoken. Thread-safe.

    ``_lock`` guards the counters and is a leaf; a ``match`` callable is called
    under it and must not touch the plan.
    """

    def __init__(self, faults: Iterable[Fault], seed: object) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._rules = self._checked(faults)

    @staticmethod
    def _checked(faults: Iterable[Fault]) -> tuple[_Rule, ...]:
        if not isinstance(faults, Iterable):
            raise ValueError(f"faults={faults!r:.100}: give a list of Fault(...) rules")
        rules = tuple(faults)
        for rule in rules:
            if not isinstance(rule, Fault):
                raise ValueError(f"faults holds {rule!r:.100}: give Fault(...) rules")
        return tuple(_Rule(rule) for rule in rules)

    def replace(self, faults: Iterable[Fault]) -> None:
        """Forget all rules and counters, then use *faults*."""
        rules = self._checked(faults)
        with self._lock:
            self._rules = rules

    def add(self, fault: Fault) -> None:
        """Add *fault* behind the others, whose counters stay."""
        rules = self._checked((fault,))
        with self._lock:
            self._rules += rules

    def choose(self, call: ApiCall) -> Fault | None:
        """Return the first rule that speaks for *call* and count it."""
        if not self._rules:  # the common case takes no lock
            return None
        with self._lock:
            for place, rule in enumerate(self._rules):
                fault = rule.fault
                if (fault.times is not None and rule.fired >= fault.times) or not fault.matches(call):
                    continue
                rule.seen += 1
                if fault.every is not None and rule.seen % fault.every:
                    continue
                if fault.probability is not None:
                    draw = random.Random(f"{self._seed}/fault {place}/{call.number}").random()
                    if draw >= fault.probability:
                        continue
                rule.fired += 1
                return fault
        return None

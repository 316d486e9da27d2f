"""The promise of ``core.bucket``: what the client grants, the server admits, whatever the network does.

The server here is written from the published law alone and shares no code with ``core``: its level is an exact
fraction that drains continuously, and it admits while ``used + requested <= limit``.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from fractions import Fraction

import pytest

from groq_queue.core.budget import Blocked, Budget, Lease
from groq_queue.core.headers import RateHeader
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import TokenCost

SECOND = 1_000_000_000
RULES = ("corrected", "kept", "prompt first")
# Three rules of settlement that fit what is known of the server:
#   corrected      all of the request at admission, corrected to real use when it is complete, never below zero
#   kept           all of the request at admission, for good
#   prompt first   the prompt at admission, the completion when it is complete


HALVES = [pytest.param(0, id="first half"), pytest.param(1, id="second half", marks=pytest.mark.gate)]
"""Of the plays: the second takes as long as the first, and the gate has the time."""


class ReferenceBucket:
    """One limit of the server, exactly."""

    def __init__(self, limit: int, period_s: int) -> None:
        self.limit = limit
        self._ns_per_unit = Fraction(period_s * SECOND, limit)
        self._level = Fraction(0)
        self._seen_ns = 0

    def level(self, now_ns: int) -> Fraction:
        self._level = max(Fraction(0), self._level - (now_ns - self._seen_ns) / self._ns_per_unit)
        self._seen_ns = now_ns
        return self._level

    def admits(self, units: int, now_ns: int) -> bool:
        return self.level(now_ns) + units <= self.limit

    def add(self, units: int, now_ns: int) -> None:
        self._level = max(Fraction(0), self.level(now_ns) + units)

    def remaining(self, now_ns: int) -> int:
        return max(0, (self.limit - self.level(now_ns)).__floor__())


class ReferenceServer:
    """The buckets RPM and TPM of one model."""

    def __init__(self, rule: str, rpm: int, tpm: int, period_s: int) -> None:
        self.rule = rule
        self.requests = ReferenceBucket(rpm, period_s)
        self.tokens = ReferenceBucket(tpm, period_s)

    def admit(self, asked: TokenCost, now_ns: int) -> bool:
        if not self.requests.admits(1, now_ns) or not self.tokens.admits(asked.tokens, now_ns):
            return False
        self.requests.add(1, now_ns)
        self.tokens.add(asked.prompt if self.rule == "prompt first" else asked.tokens, now_ns)
        return True

    def complete(self, asked: TokenCost, truth: TokenCost, now_ns: int) -> None:
        if self.rule == "corrected":
            self.tokens.add(truth.tokens - asked.tokens, now_ns)
        elif self.rule == "prompt first":
            self.tokens.add(truth.completion, now_ns)


class Play:
    """A greedy client against the reference server, over a network with any delays at all."""

    def __init__(self, seed: int, rule: str, *, reads_headers: bool, believes_refunds: bool = False) -> None:
        self.rng = random.Random(f"{seed} {rule} {reads_headers} {believes_refunds}")
        rng = self.rng
        self.period_s = rng.choice((1, 7, 60))
        rpm, self.tpm = rng.choice((2, 3, 30, 1_000)), rng.choice((7, 100, 999, 8_000, 250_000))
        self.server = ReferenceServer(rule, rpm, self.tpm, self.period_s)
        limits = Limits(rpm=rpm, tpm=self.tpm, minute_s=self.period_s)
        self.budget = Budget(limits)
        self.budget._refunds_unused = believes_refunds
        self.reads_headers = reads_headers
        self.delay_ns = rng.choice((0, 1_000, SECOND // 50, SECOND, 20 * SECOND, 90 * SECOND))
        self.most_open = rng.choice((1, 2, 8, 40))
        self.mostly_small = rng.random() < 0.5
        self.now_ns = rng.randrange(10**15)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self.open = self.granted = self.refused = 0
        self.answers = 0

    def run(self, requests: int) -> Play:
        self._at(self.now_ns, self._send)
        while self._events and self.granted < requests:
            self.now_ns, _, act = heapq.heappop(self._events)
            act()
        return self

    def _at(self, when_ns: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_ns, self.rng.randrange(1 << 30) << 32 | next(self._ticket), act))

    def _delay(self) -> int:
        return self.rng.choice((0, self.rng.randrange(self.delay_ns + 1), self.delay_ns))

    def _cost(self) -> TokenCost:
        largest = max(2, self.tpm // self.rng.choice((20, 5) if self.mostly_small else (4, 1)))
        prompt = self.rng.randint(1, largest - 1)
        return TokenCost(prompt, self.rng.randint(1, largest - prompt))

    def _send(self) -> None:
        """Send as early as the budget lets us, and as much."""
        while self.open < self.most_open:
            cost = self._cost()
            granted = self.budget.lease(cost, self.now_ns)
            if not isinstance(granted, Lease):
                if granted.wait_ns is not None:
                    self._at(self.now_ns + granted.wait_ns, self._send)
                break
            self.open += 1
            self.granted += 1
            self._post(granted, cost)
        if self.rng.random() < 0.05:
            self._at(self.now_ns + self.rng.randrange(3 * self.period_s * SECOND), self._send)

    def _post(self, lease: Lease, cost: TokenCost) -> None:
        prompt = self.rng.choice((cost.prompt, self.rng.randint(1, cost.prompt)))
        asked = TokenCost(prompt, cost.completion)
        truth = TokenCost(prompt, self.rng.choice((0, cost.completion, self.rng.randint(0, cost.completion))))
        headers: list[RateHeader] = []
        to_complete_ns, to_answer_ns = self._delay(), self._delay()

        def read() -> None:
            if not headers:
                headers.append(RateHeader("TPM", self.tpm, self.server.tokens.remaining(self.now_ns)))

        def arrive() -> None:
            if self.rng.random() < 0.2:
                read()  # the level before this very request
            if not self.server.admit(asked, self.now_ns):
                self.refused += 1
            if self.rng.random() < 0.2:
                read()
            self._at(self.now_ns + self.rng.randint(0, to_complete_ns + to_answer_ns), read)
            self._at(self.now_ns + to_complete_ns, complete)

        def complete() -> None:
            self.server.complete(asked, truth, self.now_ns)
            self._at(self.now_ns + to_answer_ns, answer)

        def answer() -> None:
            read()
            self.open -= 1
            self.answers += 1
            self.budget.settle(lease, asked, truth, self.now_ns)
            if self.reads_headers:
                self.budget.observe(lease, headers, self.now_ns)
            if self.rng.random() < 0.9:
                self._send()
            else:
                self._at(self.now_ns + self.rng.randrange(3 * self.period_s * SECOND), self._send)

        self._at(self.now_ns + self._delay(), arrive)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("reads_headers", [False, True], ids=["blind", "headers"])
@pytest.mark.parametrize("rule", RULES)
def test_the_server_refuses_nothing_while_no_credit_is_assumed(rule: str, reads_headers: bool, half: int) -> None:
    """
    Under every rule of settlement, with any delay before arrival, in processing and on the way back,
    with overlapping attempts and idle gaps, greedy sending at the quoted instants is never refused.
    """
    plays = [Play(seed, rule, reads_headers=reads_headers).run(60) for seed in range(half, 28, 2)]

    assert 0 == sum(play.refused for play in plays)
    assert 12 * 60 < sum(play.granted for play in plays)
    assert 250 < sum(play.answers for play in plays)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("reads_headers", [False, True], ids=["blind", "headers"])
@pytest.mark.parametrize("rule", ["corrected", "prompt first"])
def test_the_server_refuses_nothing_while_its_credit_is_believed(rule: str, reads_headers: bool, half: int) -> None:
    """
    Where the server gives unused allowance back, counting real use only is safe too.
    """
    seeds = range(half, 28, 2)
    plays = [Play(seed, rule, reads_headers=reads_headers, believes_refunds=True).run(60) for seed in seeds]

    assert 0 == sum(play.refused for play in plays)
    assert 12 * 60 < sum(play.granted for play in plays)


@pytest.mark.parametrize("half", HALVES)
def test_a_server_that_keeps_the_allowance_is_never_taken_for_one_that_gives_it_back(half: int) -> None:
    """
    The strict level may run ahead of the server by what drains while answers are under way; that is no credit.
    """
    plays = [Play(seed, "kept", reads_headers=True).run(60) for seed in range(half, 50, 2)]

    assert 20 * 60 < sum(play.granted for play in plays)
    assert not any(play.budget.refunds_unused for play in plays)


@pytest.mark.parametrize("half", HALVES)
def test_a_server_that_gives_allowance_back_is_found_out_by_its_headers(half: int) -> None:
    plays = [Play(seed, "corrected", reads_headers=True).run(80) for seed in range(half, 28, 2)]

    assert 2 < sum(play.budget.refunds_unused for play in plays)


def test_the_reference_server_would_notice_an_early_client() -> None:
    """
    The proof above is worth something: a client that waits a tenth less is refused.
    """

    plays = [Play(seed, "kept", reads_headers=False) for seed in range(20)]
    for play in plays:
        play.budget.lease = hasty(play.budget.lease, play.period_s * SECOND // 10)  # type: ignore[method-assign]
        play.run(60)

    assert 0 < sum(play.refused for play in plays)


def hasty(
    lease: Callable[[TokenCost, int], Lease | Blocked], by_ns: int
) -> Callable[[TokenCost, int], Lease | Blocked]:
    return lambda cost, now_ns: lease(cost, now_ns + by_ns)

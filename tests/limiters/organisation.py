"""Several processes of one organisation, in one process and without threads: a test says when their clients run."""

from __future__ import annotations

import secrets
from typing import Any

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Lease
from groq_queue.core.limits import Limits
from groq_queue.core.priority import LeaseApplicant
from groq_queue.core.token_estimate import PromptSize
from groq_queue.limiters.in_process import ProcessLimiter
from groq_queue.limiters.reservation_client import ReservationClient
from groq_queue.limiters.shared import SharedLimiter

SMALL = PromptSize(100, 50, is_exact=True)


class Desk:
    """A thread that goes when it is sent."""

    def __init__(self, client: ReservationClient) -> None:
        self.client = client
        self.is_stirred = False
        self.due_ns: int | None = None

    def start(self) -> None: ...

    def wake(self) -> None:
        self.is_stirred = True

    def close(self, timeout_s: float) -> None:
        self.client.finish()

    def go(self) -> None:
        self.is_stirred = False
        self.due_ns = self.client.run()


class Organisation:
    """Processes that count in one store."""

    slack_ns = 0

    def __init__(self, store: Any) -> None:
        self.store = store
        self.slack_ns = store.slack_ns
        self.desks: list[Desk] = []
        self.limiters: list[SharedLimiter] = []

    def process(self, limits: Any = None, *, wrap: Any = lambda budgets: budgets, **options: Any) -> Any:
        """Start one more; return its meter of the only lane."""

        def hire(client: ReservationClient) -> Desk:
            self.desks.append(Desk(client))
            return self.desks[-1]

        budgets = wrap(self.store.open())
        limiter = SharedLimiter(budgets, limits, "https://api", "org", self.store.clock, hire, **options)
        self.limiters.append(limiter)
        meter = limiter.meter("m", "m")
        meter.subscribe(lambda: None)
        return meter

    def now_ns(self) -> int:
        now_ns: int = self.store.clock.now_ns()
        return now_ns

    def pump(self) -> None:
        """Have every reservation client do what there is to do now, until none has more."""
        for _ in range(100):
            now_ns = self.now_ns()
            busy = [each for each in self.desks if each.is_stirred or (each.due_ns or now_ns + 1) <= now_ns]
            if not busy:
                return
            for desk in busy:
                desk.go()
        raise AssertionError("the clients never come to rest")

    def advance(self, seconds: float) -> None:
        """Let the time pass in steps that wake every reservation client when it is due."""
        end_ns = self.now_ns() + round(seconds * NS_PER_S)
        self.pump()
        while (now_ns := self.now_ns()) < end_ns:
            dues = [each.due_ns for each in self.desks if each.due_ns is not None]
            self.store.advance((min([end_ns, *(max(due, now_ns + 1) for due in dues)]) - now_ns) / NS_PER_S)
            self.pump()

    def ask(self, meter: Any, size: PromptSize = SMALL, **turn: Any) -> Any:
        """Ask for a lease as an engine does: again when the store has answered."""
        facts = LeaseApplicant(turn.pop("request_id", "r"), **turn)
        first = meter.lease(size, self.now_ns(), facts)
        if isinstance(first, Lease):
            return first
        self.pump()
        return meter.lease(size, self.now_ns(), facts)

    def settle(
        self, meter: Any, lease: Lease, usage: Any = (100, 50, 0), seen: Any = None, size: PromptSize = SMALL
    ) -> Any:
        notices = meter.settle(lease, size, usage, seen, self.now_ns())
        self.pump()
        return notices

    def close(self) -> None:
        for limiter in self.limiters:
            limiter.close(self.now_ns())


class OneProcess:
    """The same, in front of the limiter that counts for one process: its queues are the processes."""

    slack_ns = 0

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._name = secrets.token_hex(8)  # accounts outlive the limiters
        self.limiters: list[ProcessLimiter] = []

    def process(self, limits: Limits | None = None) -> Any:
        self.limiters.append(ProcessLimiter(limits, "https://api", self._name, self.now_ns()))
        return self.limiters[-1].meter("m", "m")

    def now_ns(self) -> int:
        return self.clock.now_ns()

    def pump(self) -> None: ...

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def ask(self, meter: Any, size: PromptSize = SMALL, **turn: Any) -> Any:
        return meter.lease(size, self.now_ns(), LeaseApplicant(turn.pop("request_id", "r"), **turn))

    def settle(
        self, meter: Any, lease: Lease, usage: Any = (100, 50, 0), seen: Any = None, size: PromptSize = SMALL
    ) -> Any:
        return meter.settle(lease, size, usage, seen, self.now_ns())

    def close(self) -> None:
        for limiter in self.limiters:
            limiter.close(self.now_ns())

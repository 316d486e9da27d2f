"""Counts of a queue: how many wait, by whom and how urgently, and what became of the others."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import TypeVar

from groq_queue.clock import NS_PER_S
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import quantile
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.history import RunMetrics
from groq_queue.engine.paging import Group
from groq_queue.engine.stats import LaneStats, Stats
from groq_queue.errors import RateLimitError

_K = TypeVar("_K")
_WAITS = 1_000  # starts over which waiting times are remembered


class Counters:
    """Not thread-safe: the engine's lock guards it. Memory is bounded by what is pending."""

    def __init__(self) -> None:
        self.submitted = 0
        self.attempts = 0
        self.refused = 0
        self.retried = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.in_flight = 0
        self.pending = 0
        self.pending_by_client: Counter[str] = Counter()
        self.pending_by_priority: Counter[int] = Counter()
        self.pending_by_lane: Counter[str] = Counter()
        self.ended: Counter[State] = Counter()
        self.history = RunMetrics()
        self._waits_ns: deque[int] = deque(maxlen=_WAITS)
        self._starts_ns: deque[int] = deque(maxlen=64)
        self._mean_flight_ns = 0.0
        self._landings = 0

    def count_pending(self, request: Request | Group, change: int) -> None:
        """Note that *request*, or several of a group, began (+) or ceased (-) to wait."""
        self.pending += change
        clients, levels, lanes = self.pending_by_client, self.pending_by_priority, self.pending_by_lane
        client, level, lane = request.client, request.priority, request.lane
        clients[client] = of_client = clients.get(client, 0) + change
        levels[level] = of_level = levels.get(level, 0) + change
        lanes[lane] = of_lane = lanes.get(lane, 0) + change
        if not (of_client and of_level and of_lane):  # forgotten at zero
            _forget_nobody(clients, client)
            _forget_nobody(levels, level)
            _forget_nobody(lanes, lane)

    def count_nobody_pending(self) -> None:
        """Note that nothing waits any more."""
        self.pending = 0
        self.pending_by_client.clear()
        self.pending_by_priority.clear()
        self.pending_by_lane.clear()

    def recount(self, waiting: Iterable[tuple[Request | Group, int]], in_flight: int, ended_as: State) -> None:
        """Count anew what waits: a change was broken off in the middle.

        Args:
            waiting: What waits, and how many of it.
            in_flight: Attempts under way.
            ended_as: What became of a request that was no longer waiting and not yet counted as ended.
        """
        self.count_nobody_pending()
        for what, count in waiting:
            if count:
                self.count_pending(what, count)
        self.in_flight = in_flight
        missing = self.submitted - self.pending - in_flight - sum(self.ended.values())
        if missing > 0:
            self.ended[ended_as] += missing
        else:
            self.submitted -= missing

    def started(self, request: Request, now_ns: int) -> None:
        """Note the start of an attempt."""
        self.attempts += 1
        self.in_flight += 1
        self._starts_ns.append(now_ns)
        if request.attempts == 0:
            self._waits_ns.append(now_ns - request.submitted_ns)
        self.history.started(request, now_ns)

    def landed(self, request: Request, outcome: Outcome, flight_ns: int, now_ns: int) -> None:
        """Note the end of an attempt that took *flight_ns*, what it led to and what it cost."""
        self.in_flight -= 1
        if self._landings < 50:
            self._landings += 1
        self._mean_flight_ns += (flight_ns - self._mean_flight_ns) / self._landings
        charged = outcome.charged
        is_refused = isinstance(outcome.error, RateLimitError)
        if is_refused:
            self.refused += 1
        self.prompt_tokens += charged.prompt
        self.completion_tokens += charged.completion
        self.history.ended(request, charged, now_ns, is_answer=outcome.next is Disposition.DONE, is_refused=is_refused)

    def waits_again(self, request: Request) -> None:
        """Note that a request waits for a further attempt."""
        self.retried += 1
        self.history.retried(request)

    def wait_percentiles(self) -> dict[int, float]:
        """Return ``{50: s, 90: s, 99: s}`` of the last 1,000 starts, empty before the first."""
        if not self._waits_ns:
            return {}
        return {percent: quantile(self._waits_ns, percent / 100) / 1e9 for percent in (50, 90, 99)}

    def stats(self, lanes: Iterable[LaneStats], *, cost: float, is_running: bool) -> Stats:
        """Return all counts, with those of the *lanes*."""
        return Stats(
            pending=self.pending,
            in_flight=self.in_flight,
            submitted=self.submitted,
            completed=self.ended[State.COMPLETED],
            failed=self.ended[State.FAILED],
            cancelled=self.ended[State.CANCELLED],
            expired=self.ended[State.EXPIRED],
            attempts=self.attempts,
            refused=self.refused,
            retried=self.retried,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cost=cost,
            pending_by_priority=dict(sorted(self.pending_by_priority.items())),
            pending_by_client=dict(self.pending_by_client),
            wait_percentiles=self.wait_percentiles(),
            lanes=tuple(lanes),
            running=is_running,
        )

    def start_interval_ns(self) -> int | None:
        """Return the mean time between the last starts, or None before the second."""
        if len(self._starts_ns) < 2:
            return None
        return (self._starts_ns[-1] - self._starts_ns[0]) // (len(self._starts_ns) - 1)

    def next_start_ns(self, now_ns: int) -> int | None:
        """Return when the next attempt may be expected to start if no limit is in its way, None before the first.

        Starts come as they came of late, but no sooner than one of the attempts under way is likely to end; a server
        that has been silent for long is expected to be so for as long again.
        """
        if not self._starts_ns:
            return None
        expected_ns = self.start_interval_ns() or 0
        if self.in_flight:
            expected_ns = max(expected_ns, self.mean_flight_ns() // self.in_flight, now_ns - self._starts_ns[-1])
        return expected_ns if self._landings else max(expected_ns, NS_PER_S)  # nobody knows yet how long they take

    def mean_flight_ns(self) -> int:
        """Return how long an attempt takes of late, 0 before the first has ended."""
        return round(self._mean_flight_ns)


def _forget_nobody(counter: Counter[_K], key: _K) -> None:
    if not counter[key]:
        counter.pop(key, None)

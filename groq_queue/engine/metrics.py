"""What is counted of a run.

``Counters`` holds how many requests wait, by client and priority, and what became of the others.
``RunMetrics`` holds what the report shows: waits, causes of retries, and a timeline of each lane.

Memory is bounded whatever is sent: counts by what is pending, waits by level and by the first
hundred clients, and a timeline whose bins become twice as wide whenever they run out.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from groq_queue.clock import NS_PER_S
from groq_queue.core.quantiles import QuantileSketch
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import TokenCost, quantile
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.paging import Group
from groq_queue.engine.stats import LaneStats, Stats
from groq_queue.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    GroqQueueError,
    RateLimitError,
)

_DONE = Disposition.DONE  # looked up once, not by each attempt
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
        if not of_client:  # forgotten at zero
            del clients[client]
        if not of_level:
            del levels[level]
        if not of_lane:
            del lanes[lane]

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
        prompt, completion, _ = charged
        is_refused = outcome.error is not None and isinstance(outcome.error, RateLimitError)
        if is_refused:
            self.refused += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.history.ended(request, charged, now_ns, is_answer=outcome.next is _DONE, is_refused=is_refused)

    def waits_again(self, request: Request) -> None:
        """Note that a request waits for a further attempt."""
        self.retried += 1
        self.history.retried(request)

    def wait_percentiles(self) -> dict[int, float]:
        """Return ``{50: s, 90: s, 99: s}`` of the last 1,000 starts, empty before the first."""
        if not self._waits_ns:
            return {}
        return {percent: quantile(self._waits_ns, percent / 100) / NS_PER_S for percent in (50, 90, 99)}

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
        return expected_ns if self._landings else max(expected_ns, NS_PER_S)  # how long they take is not known yet

    def mean_flight_ns(self) -> int:
        """Return how long an attempt takes of late, 0 before the first has ended."""
        return round(self._mean_flight_ns)


_CLIENTS = 100
_BINS = 240
_WIDTH_NS = 250_000_000  # of a bin at first


@dataclass
class LaneFacts:
    """What one lane did.

    Attributes:
        name: The model, and its service tier if it is not the usual one.
        model: The model.
        first_ns, last_ns: Instants of its first and last attempt's start.
        attempts, answered, refused: Attempts, and what became of them.
        prompt_tokens, completion_tokens: To be paid for, cached ones counted half.
        bins: ``[attempts, answered, refused, tokens]`` of each bin of the timeline.
    """

    name: str
    model: str
    first_ns: int
    last_ns: int
    attempts: int
    answered: int
    refused: int
    prompt_tokens: int
    completion_tokens: int
    bins: list[list[int]]


@dataclass(frozen=True)
class RunFacts:
    """Everything remembered of a run, as of *now_ns*.

    Attributes:
        began_ns: When the first of the started requests was submitted; *now_ns* if none was.
        ended_ns: When the last attempt began or ended so far.
        now_ns: When this was taken.
        flight_ns: How long an attempt takes of late, 0 before the first has ended.
        origin_ns, width_ns: Where the timeline begins, and how wide a bin is.
        retries: ``{cause: retries}``.
        waits_by_level: Waits from submit to first start.
        waits_by_client: The same, of the first hundred clients; ``None`` holds all others.
        lanes: One per model used.
    """

    began_ns: int
    ended_ns: int
    now_ns: int
    flight_ns: int
    origin_ns: int
    width_ns: int
    retries: dict[str, int]
    waits_by_level: dict[int, QuantileSketch]
    waits_by_client: dict[str | None, QuantileSketch]
    lanes: tuple[LaneFacts, ...]


class RunMetrics:
    """Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._began_ns: int | None = None
        self._ended_ns = 0
        self._origin_ns: int | None = None
        self._width_ns = _WIDTH_NS
        self._retries: Counter[str] = Counter()
        self._waits: dict[tuple[int, str | None], QuantileSketch] = {}  # by level and client
        self._clients: set[str] = set()  # the first hundred; ``None`` stands for all others
        self._lanes: dict[str, LaneFacts] = {}

    def started(self, request: Request, now_ns: int) -> None:
        """Note the start of an attempt."""
        lane = self._lanes.get(request.lane)
        if lane is None:
            lane = LaneFacts(request.lane, request.model, now_ns, now_ns, 0, 0, 0, 0, 0, [])
            self._lanes[request.lane] = lane
        lane.attempts += 1
        lane.last_ns = now_ns
        self._bin(lane, now_ns)[0] += 1
        if request.attempts == 0:
            submitted_ns = request.submitted_ns
            if self._began_ns is None or submitted_ns < self._began_ns:
                self._began_ns = submitted_ns
            sketch = self._waits.get((request.priority, request.client)) or self._new_quantiles(request)
            sketch.add(now_ns - submitted_ns)

    def ended(self, request: Request, charged: TokenCost, now_ns: int, *, is_answer: bool, is_refused: bool) -> None:
        """Note the end of an attempt."""
        lane = self._lanes[request.lane]
        prompt, completion, _ = charged
        lane.prompt_tokens += prompt
        lane.completion_tokens += completion
        found = self._bin(lane, now_ns)
        found[3] += prompt + completion
        if is_answer:
            lane.answered += 1
            found[1] += 1
        elif is_refused:
            lane.refused += 1
            found[2] += 1

    def retried(self, request: Request) -> None:
        """Note that a request waits for a further attempt."""
        self._retries[cause_of(request.last_error)] += 1

    def facts(self, now_ns: int, flight_ns: int) -> RunFacts:
        """Return a copy of everything."""
        levels: defaultdict[int, QuantileSketch] = defaultdict(QuantileSketch)
        clients: defaultdict[str | None, QuantileSketch] = defaultdict(QuantileSketch)
        for (level, client), sketch in self._waits.items():
            levels[level].merge(sketch)
            clients[client].merge(sketch)
        return RunFacts(
            began_ns=now_ns if self._began_ns is None else self._began_ns,
            ended_ns=self._ended_ns or now_ns,
            now_ns=now_ns,
            flight_ns=flight_ns,
            origin_ns=now_ns if self._origin_ns is None else self._origin_ns,
            width_ns=self._width_ns,
            retries=dict(self._retries.most_common()),
            waits_by_level=dict(levels),
            waits_by_client=dict(clients),
            lanes=tuple(replace(lane, bins=[each.copy() for each in lane.bins]) for lane in self._lanes.values()),
        )

    def _new_quantiles(self, request: Request) -> QuantileSketch:
        """Return where the wait of *request* is to be counted, if its client has no place of its own yet or ever."""
        if len(self._clients) < _CLIENTS:
            self._clients.add(request.client)
        known = request.client if request.client in self._clients else None
        return self._waits.setdefault((request.priority, known), QuantileSketch())

    def _bin(self, lane: LaneFacts, now_ns: int) -> list[int]:
        """Return the bin of this instant, after widening all bins if the timeline has become too long."""
        if self._origin_ns is None:
            self._origin_ns = now_ns
        if now_ns > self._ended_ns:
            self._ended_ns = now_ns
        place = (now_ns - self._origin_ns) // self._width_ns
        if 0 <= place < len(lane.bins):
            return lane.bins[place]
        while (place := max(0, now_ns - self._origin_ns) // self._width_ns) >= _BINS:
            self._width_ns *= 2
            for each in self._lanes.values():
                each.bins = _halved(each.bins)
        while len(lane.bins) <= place:
            lane.bins.append([0, 0, 0, 0])
        return lane.bins[place]


def _halved(bins: list[list[int]]) -> list[list[int]]:
    """Join each two neighbours."""
    pairs = zip(bins[::2], [*bins[1::2], [0, 0, 0, 0]], strict=False)
    return [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]


def cause_of(error: GroqQueueError | None) -> str:
    """Return in a few words why an attempt failed; there are only so many causes.

    >>> cause_of(APITimeoutError("slow")), cause_of(None)
    ('timeout', 'unknown')
    """
    if isinstance(error, RateLimitError):
        return "429 refused by a limit"
    if isinstance(error, APIStatusError):
        return f"HTTP {error.status_code}"
    if isinstance(error, APITimeoutError):
        return "timeout"
    if isinstance(error, APIConnectionError):
        return "connection lost"
    if isinstance(error, APIResponseError):
        return "unreadable answer"
    return "unknown" if error is None else type(error).__name__

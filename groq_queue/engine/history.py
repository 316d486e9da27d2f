"""What is remembered of a run for its report: waits, causes of retries, and the course of each lane.

Memory is bounded whatever is sent: waits by level and by the first hundred
clients, and a timeline whose bins become twice as wide whenever they run out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from groq_queue.core.quantiles import QuantileSketch
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import TokenCost
from groq_queue.errors import (
    APIConnectionError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    GroqQueueError,
    RateLimitError,
)

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
        if request.attempts == 0:
            submitted_ns = request.submitted_ns
            if self._began_ns is None or submitted_ns < self._began_ns:
                self._began_ns = submitted_ns
            sketch = self._waits.get((request.priority, request.client)) or self._new_quantiles(request)
            sketch.add(now_ns - submitted_ns)
        lane = self._lanes.get(request.lane)
        if lane is None:
            lane = LaneFacts(request.lane, request.model, now_ns, now_ns, 0, 0, 0, 0, 0, [])
            self._lanes[request.lane] = lane
        lane.attempts += 1
        lane.last_ns = now_ns
        self._bin(lane, now_ns)[0] += 1

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

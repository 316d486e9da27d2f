"""What can be seen of a queue: counts of one instant, and one request's state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from groq_queue.core.budget import Level
from groq_queue.core.limits import DIMENSIONS
from groq_queue.core.priority import level_name
from groq_queue.display import Table, as_html, as_text, duration_text


@dataclass(frozen=True)
class LaneStats:
    """One model's lane.

    Attributes:
        name: The model, and its service tier if it is not the usual one.
        model: The model.
        pending: Requests that wait, for budget, a worker or a retry.
        in_flight: Attempts on their way.
        paused: Whether ``pause`` holds it.
        waits_for: What the next one waits for, in words, or None if nothing waits.
        limits: Present state of every limit.
    """

    name: str
    model: str
    pending: int
    in_flight: int
    paused: bool
    waits_for: str | None
    limits: tuple[Level, ...]


@dataclass(frozen=True)
class Stats:
    """One consistent snapshot of a queue.

    Attributes:
        pending: Requests that wait, for budget, a worker or a retry.
        in_flight: Attempts on their way.
        submitted, completed, failed, cancelled, expired: Counted since the start.
        attempts: Attempts ever started.
        refused: Of these, refused by the server's limiter.
        retried: Retries of requests, refusals included.
        prompt_tokens, completion_tokens: To be paid for, cached ones counted half.
        cost: USD spent on models with a known price.
        pending_by_priority: ``{0..10: requests}``, levels with something pending only.
        pending_by_client: ``{client: requests}``, the same.
        wait_percentiles: ``{50: s, 90: s, 99: s}`` from submit to start, of the last 1,000 starts.
        lanes: One per model used so far.
        running: Whether the queue takes requests.
    """

    pending: int
    in_flight: int
    submitted: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    attempts: int
    refused: int
    retried: int
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    pending_by_priority: dict[int, int] = field(default_factory=dict)
    pending_by_client: dict[str, int] = field(default_factory=dict)
    wait_percentiles: dict[int, float] = field(default_factory=dict)
    lanes: tuple[LaneStats, ...] = ()
    running: bool = True

    @property
    def done(self) -> int:
        """Requests that have ended, however."""
        return self.completed + self.failed + self.cancelled + self.expired

    @property
    def pending_by_model(self) -> dict[str, int]:
        """``{model: requests}``, models with something pending only."""
        counts: dict[str, int] = {}
        for lane in self.lanes:
            if lane.pending:
                counts[lane.model] = counts.get(lane.model, 0) + lane.pending
        return counts

    def tables(self) -> list[Table]:
        """Return all of it as tables."""
        counts = (
            *("pending", "in_flight", "submitted", "completed", "failed", "cancelled", "expired"),
            *("attempts", "refused", "retried", "prompt_tokens", "completion_tokens"),
        )
        rows = [(name.replace("_", " "), getattr(self, name)) for name in counts]
        cost = [("cost, USD", f"{self.cost:.6f}")] if self.cost else []
        limits = [
            (lane.name, DIMENSIONS[level.dimension], level.used, level.limit, lane.waits_for or "")
            for lane in self.lanes
            for level in lane.limits
        ]
        waits = [(f"{percent} %", duration_text(wait)) for percent, wait in self.wait_percentiles.items()]
        return [
            Table("requests", ("", ""), [*rows, *cost]),
            Table("limits", ("lane", "limit", "used", "of", "waits for"), limits),
            Table("waits from submit to start, of the last 1,000 starts", ("share", "below"), waits),
            Table(
                "pending by priority",
                ("priority", "requests"),
                [(level_name(level), count) for level, count in self.pending_by_priority.items()],
            ),
            Table("pending by client", ("client", "requests"), _largest(self.pending_by_client)),
        ]

    def __str__(self) -> str:
        return as_text(self.tables())

    def _repr_html_(self) -> str:
        """Render as tables in a notebook."""
        return as_html(self.tables())


@dataclass(frozen=True)
class RequestInfo:
    """One request, as of now.

    Attributes:
        state: ``"pending"``, ``"running"``, ``"completed"``, ``"failed"``,
            ``"cancelled"`` or ``"expired"``.
        priority: 0..10.
        attempts: Times sent so far.
        waited: Seconds from submit to the first attempt, or to now.
        tokens: Prompt and completion it is priced at.
        last_error: What the last failed attempt ran into, or None.
    """

    request_id: str
    custom_id: str | None
    client: str
    model: str
    priority: int
    state: str
    attempts: int
    waited: float
    tokens: int
    last_error: Any = None

    def tables(self) -> list[Table]:
        """Return it as a table."""
        rows = [
            ("request", self.custom_id or self.request_id),
            ("state", self.state),
            ("model", self.model),
            ("client", self.client),
            ("priority", level_name(self.priority)),
            ("attempts", f"{self.attempts:,}"),
            ("waited", duration_text(self.waited)),
            ("tokens", f"{self.tokens:,}"),
            ("last error", "" if self.last_error is None else str(self.last_error)),
        ]
        return [Table("", ("", ""), rows)]

    def __str__(self) -> str:
        return as_text(self.tables())

    def _repr_html_(self) -> str:
        """Render as a table in a notebook."""
        return as_html(self.tables())


@dataclass(frozen=True)
class Explanation:
    """Why a request waits, and until when.

    Attributes:
        state: As in ``RequestInfo``.
        position: 1 is next in its lane; None if it is not in its lane.
        waits_for: In words, such as "tokens per minute, 5,870 of 6,000 used".
        expected_start: Seconds from now, if nothing more urgent comes; None if it
            does not wait or that is not known.
    """

    request_id: str
    custom_id: str | None
    state: str
    position: int | None
    waits_for: str | None
    expected_start: float | None

    def __str__(self) -> str:
        who = self.custom_id or self.request_id[:8]
        if self.state != "pending":
            return f"{who}: {self.state}"
        place = f"number {self.position} in line, " if self.position is not None else ""
        start = "" if self.expected_start is None else f", expected to start in {duration_text(self.expected_start)}"
        return f"{who}: {place}waits for {self.waits_for}{start}"

    def _repr_html_(self) -> str:
        """Render as a table in a notebook."""
        rows = [
            ("request", self.custom_id or self.request_id),
            ("state", self.state),
            ("position", "" if self.position is None else f"{self.position:,}"),
            ("waits for", self.waits_for or ""),
            ("starts in", duration_text(self.expected_start)),
        ]
        return as_html([Table("", ("", ""), rows)])


def _largest(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Return the twenty largest *counts* and the sum of the others."""
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    rest = sum(count for _, count in ordered[20:])
    return [*ordered[:20], *([(f"{len(ordered) - 20:,} others", rest)] if rest else [])]

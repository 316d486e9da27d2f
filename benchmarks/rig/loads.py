"""The loads of the study: what is limited, how large requests are, how the server behaves."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from groq_queue.simulator.calls import count_tokens

MODEL = "llama-3.1-8b-instant"
OTHER = "llama-3.3-70b-versatile"
WARM = "warm-up"  # a model without limits, for what a library does on its first call
SEED = 7
_PROMPT_FRAME = 7  # tokens the simulator adds to the words of one user message
_ALLOWANCE = 280


class Job(NamedTuple):
    """One request: its payload, and what the server will charge for it, which a tokenizer would tell."""

    payload: dict[str, Any]
    tokens: int


@dataclass(frozen=True)
class Load:
    """One row of the table.

    Args:
        limit: ``{"rpm": n}`` or ``{"tpm": n}``, for each minute.
        allowance: Completion tokens asked for, drawn for each request.
        used: The share of them that is used, so that the rest comes back.
        server: Further arguments of the simulator.
    """

    limit: dict[str, int]
    allowance: Callable[[random.Random], int] = lambda rng: _ALLOWANCE
    used: float = 1.0
    server: dict[str, Any] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        return next(iter(self.limit.values()))

    def units(self, requested: int, used: int) -> int:
        """Return what one admitted request takes from the limit in the end."""
        if "rpm" in self.limit:
            return 1
        return used if self.used < 1 else requested


def _lognormal(rng: random.Random) -> int:
    return max(1, min(4_000, round(rng.lognormvariate(5.3, 0.8))))


_TOKENS = {"tpm": 60_000}
_FAULTS = [{"status": 500, "probability": 0.07, "charge": True}]
LOADS = {
    "uniform requests": Load({"rpm": 300}, lambda rng: 10),
    "uniform tokens": Load(_TOKENS),
    "lognormal sizes": Load(_TOKENS, _lognormal),
    "real use 0.4 x": Load(_TOKENS, used=0.4),
    "jitter 5-60 ms": Load(_TOKENS, server={"arrival_delay": (0.005, 0.06)}),
    "7 % faults": Load({"rpm": 300}, lambda rng: 10, server={"faults": _FAULTS}),
}


def jobs_of(load: Load, capacities: float) -> list[Job]:
    """Return requests that together take *capacities* times what the bucket holds."""
    rng, jobs, total = random.Random(SEED), [], 0.0
    while total < capacities * load.capacity:
        text = f"Job {len(jobs)}: how far is it from {rng.randrange(1_000)} to the sea, and why?"
        allowance = load.allowance(rng)
        prompt = count_tokens(text) + _PROMPT_FRAME
        jobs.append(
            Job(
                {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_completion_tokens": allowance},
                prompt + allowance,
            )
        )
        total += load.units(prompt + allowance, prompt + round(allowance * load.used))
    return jobs

"""At the limit while things go wrong: no attempt without a lease, so no refusal; and the limit is used."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.simulator import Fault
from groq_queue.simulator.calls import ApiCall

PATIENCE_S = 60.0
MODEL = "llama-3.1-8b-instant"


class Trouble:
    """
    Which attempts go wrong: a share of all, drawn by a seed, but of one request at most two. After a third that may
    have been billed it is given up, as it should be; one in 5,000 would be, and the threads would say which.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._hits: Counter[str] = Counter()

    def hits(self, share: float):
        def match(call: ApiCall) -> bool:
            is_hit = self._hits[call.prompt] < 2 and self._rng.random() < share
            self._hits[call.prompt] += is_hit
            return is_hit

        return match


def resets() -> list[Fault]:
    return [Fault(reset="after", match=Trouble(seed=3).hits(0.04))]


def mixed() -> list[Fault]:
    match = Trouble(seed=3).hits(0.0175)
    return [
        Fault(status=500, match=match),
        Fault(status=503, match=match),
        Fault(reset="after", match=match),
        Fault(truncate=True, match=match),
    ]


@pytest.mark.parametrize(
    "faults", [resets, pytest.param(mixed, marks=pytest.mark.gate)], ids=["4 % resets", "7 % faults"]
)
def test_nothing_is_refused_and_nothing_lost_at_a_request_limit(faults):
    """
    A second send that had no lease would be one too many for the server.
    """
    limits = Limits(rpm=100, minute_s=0.5)
    with (
        GroqSimulator(limits=limits, faults=faults(), seed=3) as groq,
        GroqQueue(api_key="gsk_x", base_url=groq.base_url, model=MODEL, limits=limits, max_workers=16) as queue,
    ):
        futures = [queue.submit(f"{number}") for number in range(300)]
        lost = [error for future in futures if (error := future.exception(PATIENCE_S)) is not None]
        stats, seen = queue.stats(), groq.stats()

    assert ([], 0, 0) == (lost, stats.refused, seen.refused)
    assert 300 < stats.attempts, "things did go wrong"


@pytest.mark.gate
def test_the_limit_is_used_although_things_go_wrong():
    """
    7 % faults: attempts / (capacity + rate x T), with more waiting than is sent in T.
    """
    limits = Limits(rpm=300, minute_s=6)
    with (
        GroqSimulator(limits=limits, faults=mixed(), latency=(0.01, 0.03), seed=3) as groq,
        GroqQueue(api_key="gsk_x", base_url=groq.base_url, model=MODEL, limits=limits, max_workers=16) as queue,
    ):
        began = time.monotonic()
        futures = [queue.submit(f"{number}") for number in range(2_500)]
        futures[1_250].exception(PATIENCE_S)
        took_s, stats = time.monotonic() - began, queue.stats()
        queue.cancel_all()
        ended = [future for future in futures if not future.cancelled()]
        lost = [error for future in ended if (error := future.exception(PATIENCE_S)) is not None]
        refused = groq.stats().refused

    share = stats.attempts / (limits.rpm + limits.rpm / limits.minute_s * took_s)
    print(
        f"\n{stats.attempts} attempts in {took_s:.2f} s: {share:.4f} of the limit, {refused} refused, {len(lost)} lost"
    )
    assert ([], 0) == (lost, refused)
    assert share >= 0.995

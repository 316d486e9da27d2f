"""What a load will take, said before anything is sent."""

from __future__ import annotations

import heapq
import itertools
import json
import time
import tracemalloc

import pytest

import groq_queue
from groq_queue import ConfigurationError, GroqQueue, GroqSimulator, Limits, RequestTooLarge
from groq_queue.core.budget import Blocked, Lease
from groq_queue.core.request import build_payload
from groq_queue.core.token_estimate import PromptSize, size_of
from groq_queue.limiters.in_process import ProcessMeter

MODEL = "llama-3.1-8b-instant"
PROSE = (
    "Summarise the following customer review in one sentence and name its mood: The parcel came two days late, "
    "but the support answered within minutes and the shoes fit well, so I would order here again. Number "
)


def test_nothing_is_needed_to_estimate(monkeypatch):
    """
    No key, no network, no thread.
    """
    monkeypatch.delenv("GROQ_API_KEY", raising=False)

    told = groq_queue.estimate(["Why?"] * 10, model=MODEL, max_completion_tokens=100)

    assert 10 == told.requests
    assert 1_000 == told.completion_tokens
    assert told.cost == pytest.approx((told.prompt_tokens * 0.05 + 1_000 * 0.08) / 1e6)


@pytest.mark.parametrize(
    ("limits", "seconds", "bottleneck"),
    [
        (Limits(rpm=30), 2 + 60 * 2, "RPM"),  # 30 at once, 60 more at one in 2 s
        (Limits(rpm=90), 90 / 8, "workers"),
        (Limits(rpm=30, rpd=60), 2 + 30 * 1_440, "RPD"),  # 60 at once, 30 more at one in 24 min
    ],
)
def test_the_time_is_what_has_to_drain(limits, seconds, bottleneck):
    """
    A full bucket passes at once; the rest comes at limit / period.
    """
    told = groq_queue.estimate(["Why?"] * 90, model=MODEL, limits=limits, latency=1)

    assert seconds == pytest.approx(told.seconds)
    assert bottleneck == told.bottleneck


def test_models_run_side_by_side_and_the_slowest_tells():
    """
    Each has budgets of its own.
    """
    load = [{"model": model, "messages": [{"role": "user", "content": "x"}]} for model in ("fast", "slow") * 50]

    told = groq_queue.estimate(load, limits={"fast": Limits(rpm=60), "slow": Limits(rpm=10)}, latency=1)

    assert 2 + 40 * 6 == pytest.approx(told.seconds)
    assert ["slow", "fast"] == [each.name for each in told.models]
    assert "RPM" == told.bottleneck
    assert told.cost is None  # nobody knows their prices


def test_a_daily_limit_tells_how_many_fit_before():
    """
    The bucket drains all day, so a few more fit than it holds.
    """
    told = groq_queue.estimate(["x"] * 2_000, model=MODEL, limits=Limits(rpm=30, rpd=1_000), max_workers=64)

    (stop,) = told.daily
    drained = stop.after_s * 1_000 / 86_400
    assert stop.limit == "RPD"
    assert 1_000 + int(drained) == pytest.approx(stop.fits, abs=1)
    assert (stop.fits - 30) * 2 == pytest.approx(stop.after_s, abs=3)
    assert "limits per day" in str(told)


def test_what_never_fits_is_named_with_the_cure():
    """
    submit() would refuse the same requests with the same numbers.
    """
    limits = Limits(tpm=1_000)
    load = ["short", "word " * 2_000, "short"]

    told = groq_queue.estimate(load, model=MODEL, limits=limits, max_completion_tokens=100)

    (never,) = told.too_large
    assert (1, 1, "TPM") == (told.too_large_count, never.index, never.limit)
    assert 2 == told.requests
    with GroqQueue.simulated(limits=limits) as queue, pytest.raises(RequestTooLarge) as refused:
        queue.submit(load[1], max_completion_tokens=100)
    assert refused.value.cost - refused.value.capacity == never.lower_by


def test_a_load_is_read_once_and_not_kept():
    """
    3,000 long prompts of a generator take no more memory than a few; together they would be 1.5 MB.
    """

    def prompts():
        for number in range(3_000):
            yield f"{number} " * 100

    tracemalloc.start()
    try:
        told = groq_queue.estimate(prompts(), model=MODEL, limits=Limits(rpm=30, tpm=6_000, tpd=10**6))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 3_000 == told.requests
    assert peak < 300_000


def test_what_is_under_way_holds_its_whole_allowance():
    """
    Answers that use a tenth of it still keep the limit busy until they are in.
    """
    params = {"model": MODEL, "limits": Limits(tpm=60_000), "latency": 10, "max_completion_tokens": 1_000}

    told = groq_queue.estimate(["x"] * 1_000, output_share=0.1, max_workers=100, **params)

    each = told.tokens / 1_000
    unused = 8 + 5 + 1_000 - each  # by the byte rule: 8 a request, 4 a message, 1 a word
    drained_s = (told.tokens - 60_000) / 1_000 + 10 * unused / each
    assert 2 * 10 + drained_s == pytest.approx(told.seconds, rel=0.01)


def test_unknown_limits_are_told():
    """
    Then only the workers bound the time from below.
    """
    told = groq_queue.estimate(["x"] * 80, model=MODEL, latency=2, max_workers=8)

    assert (MODEL,) == told.unknown_limits
    assert 20 == told.seconds
    assert "at least 20 s" in str(told)


def test_an_empty_load_takes_nothing():
    """
    Nor does it fail.
    """
    told = groq_queue.estimate([], model=MODEL)

    assert (0, 0, 0.0, 0) == (told.requests, told.tokens, told.seconds, told.cost)
    assert str(told)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompts": "one prompt"}, "prompts="),
        ({"prompts": 7}, "prompts="),
        ({"prompts": ["fine", 7]}, r"prompts\[1\]"),
        ({"prompts": ["x"], "model": None}, r"prompts\[0\]: model="),
        ({"prompts": ["x"], "limits": {"rpm": 3}}, "limits"),
        ({"prompts": ["x"], "prices": 3}, "prices="),
        ({"prompts": ["x"], "latency": 0}, "latency="),
        ({"prompts": ["x"], "max_workers": 0}, "max_workers="),
        ({"prompts": ["x"], "output_share": 1.5}, "output_share="),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    """
    With the place of a prompt that cannot be used.
    """
    with pytest.raises(ConfigurationError, match=named):
        groq_queue.estimate(**({"model": MODEL} | arguments))


def test_an_estimate_is_json():
    """
    For whoever plans by machine.
    """
    told = groq_queue.estimate(["x", "word " * 9_000], model=MODEL, limits=Limits(tpm=500), max_completion_tokens=9)

    read = json.loads(json.dumps(told.to_dict()))

    assert 1 == read["requests"]
    assert read["too_large"][0]["lower_by"] == told.too_large[0].lower_by


LOADS = {
    "requests": (Limits(rpm=90, minute_s=2), 225, {"max_completion_tokens": 16}, {}),
    "tokens": (Limits(rpm=6_000, tpm=18_000, minute_s=2), 300, {"max_completion_tokens": 100}, {"output": 1.0}),
    "half the output": (
        Limits(tpm=18_000, minute_s=2), 420, {"max_completion_tokens": 100}, {"output": 0.5},
    ),
    "no cap": (Limits(tpm=60_000, minute_s=2), 130, {}, {"output": 1.0}),
}  # fmt: skip


def seconds_until_answered(
    meter: ProcessMeter, sizes: list[PromptSize], usage: tuple[int, int, int], latency_s: float, workers: int
) -> float:
    """Let the meter admit one request after the other, in time that is only counted, and return how long it took."""
    now_ns, waiting = 0, list(sizes)
    under_way: list[tuple[int, int, Lease]] = []
    while waiting or under_way:
        next_ns = [under_way[0][0]] if under_way else []
        while waiting and len(under_way) < workers:
            got = meter.lease(waiting[-1], now_ns)
            if isinstance(got, Blocked):
                next_ns += [] if got.wait_ns is None else [now_ns + got.wait_ns]
                break
            assert isinstance(got, Lease)
            waiting.pop()
            heapq.heappush(under_way, (now_ns + round(latency_s * 1e9), len(waiting), got))
            next_ns = [under_way[0][0]]
        now_ns = min(next_ns)
        while under_way and under_way[0][0] <= now_ns:
            meter.settle(heapq.heappop(under_way)[2], sizes[0], usage, (), now_ns)
    return now_ns / 1e9


@pytest.mark.parametrize(
    ("limits", "count", "workers", "bottleneck"),
    [
        (Limits(rpm=90), 225, 32, "RPM"),
        (Limits(rpm=6_000, tpm=18_000), 300, 32, "TPM"),
        (Limits(rpm=30, tpm=60_000, rpd=100), 150, 32, "RPD"),
        (Limits(rpm=6_000, tpm=1_000_000), 300, 4, "workers"),
    ],
)
def test_the_meters_admit_a_load_in_the_time_that_was_said(limits, count, workers, bottleneck):
    """
    One by one, as a queue would ask them; within a hundredth.
    """
    params = {"model": MODEL, "max_completion_tokens": 100}
    size = size_of(build_payload(PROSE, None, None, params, "chat/completions"), None, 0)

    said = groq_queue.estimate(
        [PROSE] * count, limits=limits, latency=2, max_workers=workers, output_share=1.0, **params
    )
    usage = (said.prompt_tokens // count, 100, 0)
    took = seconds_until_answered(ProcessMeter(limits), [size] * count, usage, 2, workers)

    assert bottleneck == said.bottleneck
    assert took == pytest.approx(said.seconds, rel=0.01)


@pytest.mark.gate
@pytest.mark.parametrize("load", LOADS)
def test_the_simulator_takes_as_long_as_was_said(load):
    """
    Within a tenth, before and after the queue has learnt from answers; the second time it knows the levels too.
    """
    limits, count, params, groq = LOADS[load]
    prompts = [PROSE + str(number) for number in range(count)]
    share = groq.get("output")

    said = groq_queue.estimate(
        prompts, model=MODEL, limits=limits, latency=0.1, max_workers=32, output_share=share, **params
    )
    with (
        GroqSimulator(limits=limits, models=[MODEL], latency=0.1, **groq) as simulator,
        GroqQueue(api_key="x", base_url=simulator.base_url, model=MODEL, limits=limits, max_workers=32) as queue,
    ):
        took = timed(queue, prompts, params)
        said_again = queue.estimate(itertools.islice(prompts, count // 3), **params)
        took_again = timed(queue, prompts[: count // 3], params)

    assert took == pytest.approx(said.seconds, rel=0.1)
    assert took_again == pytest.approx(said_again.seconds, rel=0.1)
    assert said.bottleneck == ("RPM" if load == "requests" else "TPM")


def timed(queue: GroqQueue, prompts, params) -> float:
    start_s = time.perf_counter()
    for future in [queue.submit(prompt, **params) for prompt in prompts]:
        future.result(30)
    return time.perf_counter() - start_s

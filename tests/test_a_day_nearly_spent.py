"""A limit per day that nearly is spent: one large request waits or fails, and everybody else goes on."""

from __future__ import annotations

import pytest

from groq_queue import DailyLimitReached, GroqQueue, GroqSimulator, Limits

MODEL = "llama-3.1-8b-instant"


@pytest.fixture(params=["in this process", "in a shared file"])
def options(request, tmp_path):
    return {} if request.param == "in this process" else {"limiter": f"sqlite:///{tmp_path}/budgets.db"}


@pytest.mark.parametrize("limits", [None, Limits(tpm=250_000), Limits(tpm=250_000, tpd=100_000)])
def test_one_large_request_does_not_end_the_day_of_the_others(options, limits):
    """
    97,050 of 100,000 tokens are spent elsewhere. 3,560 do not fit any more; twenty times 100 do.
    """
    with (
        GroqSimulator(tpm=250_000, tpd=100_000) as groq,
        GroqQueue(base_url=groq.base_url, api_key="gsk_test", model=MODEL, limits=limits, **options) as queue,
    ):
        assert groq.spend(MODEL, tokens=97_050)
        large = queue.submit("much", max_completion_tokens=3_500)
        with pytest.raises(DailyLimitReached) as refused:
            large.result(10)
        small = [queue.submit(f"{n}", max_completion_tokens=50, priority=n % 11) for n in range(20)]
        answers = [future.result(10) for future in small]

    assert 20 == len(answers)
    assert 480 < refused.value.resets_in < 560
    assert 1 == groq.stats().refused

"""Faults that were found by reading; each keeps the test that showed it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

from groq_queue.core.budget import Blocked, Budget, Lease
from groq_queue.core.headers import RateHeader, Refusal, parse_refusal
from groq_queue.core.limits import Limits
from groq_queue.core.request import build_payload
from groq_queue.core.response import Completion, usage_of
from groq_queue.core.token_estimate import PromptSize, TokenCost, size_of
from groq_queue.errors import ConfigurationError, MissingExtraError, RequestTooLarge, error_message
from groq_queue.limiters.in_process import ProcessLimiter, ProcessMeter

SECOND = 1_000_000_000
NOW = 5_000 * SECOND


def leased(giver: Any, cost: Any, now_ns: int = NOW) -> Lease:
    granted = giver.lease(cost, now_ns)
    assert isinstance(granted, Lease), granted
    return granted


# -- limiters/in_process.py


def test_a_queue_opened_after_another_has_closed_knows_what_that_used() -> None:
    """
    The server's RPM bucket is still full; sending 30 more at once is 30 refusals.
    """
    granted = []
    for _ in range(2):
        limiter = ProcessLimiter(Limits(rpm=30), "u", "one after the other", NOW)
        meter, count = limiter.meter("m", "m"), 0
        while isinstance(lease := meter.lease(PromptSize(10, 1), NOW), Lease):
            meter.settle(lease, PromptSize(10, 1), (10, 1, 0), None, NOW)
            count += 1
        granted.append(count)
        limiter.close(NOW)

    assert [30, 0] == granted


def test_other_periods_are_refused_where_they_are_given() -> None:
    first = ProcessLimiter(Limits(rpm=30), "u", "other periods")

    with pytest.raises(ConfigurationError, match="count in different periods"):
        ProcessLimiter(Limits(rpm=30, minute_s=2), "u", "other periods")

    assert first.meter("m", "m").levels(NOW)


def test_a_guessed_allowance_fits_every_limit_and_not_only_the_first() -> None:
    meter = ProcessMeter(Limits(tpm=8_000, itpm=7_000, otpm=1_000))
    meter._budget._buckets = {name: meter._budget._buckets[name] for name in ("TPM", "ITPM", "OTPM")}

    assert meter.too_large(PromptSize(6_995, None)) is None


def test_an_absurd_usage_is_no_usage() -> None:
    assert usage_of({"usage": {"prompt_tokens": 10**400, "completion_tokens": 1}}) is None


# -- core/budget.py

HASHED = """
from groq_queue.core.budget import Budget
from groq_queue.core.limits import Limits
budget = Budget(Limits(rpm=1, rpd=1, tpm=1, tpd=1, itpm=1, otpm=1, audio_hour=1, audio_day=1))
print(*(level.dimension for level in budget.levels(0)))
"""


def test_limits_are_looked_at_in_the_same_order_in_every_process() -> None:
    """
    Which limit ``too_large`` and ``levels`` name first must not depend on PYTHONHASHSEED.
    """
    orders = {
        subprocess.run(
            [sys.executable, "-c", HASHED],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
            timeout=60,
            text=True,
        ).stdout
        for seed in range(3)
    }

    assert {"RPM RPD TPM TPD ITPM OTPM ASPH ASPD\n"} == orders


def test_a_limit_learnt_while_others_are_on_their_way_counts_those() -> None:
    """
    Eight of 1,000 tokens are sent under an RPM limit alone; the first answer tells TPM 8,000 with 7,000 left.
    The other seven may all arrive after that: nothing more fits.
    """
    budget = Budget(Limits())
    leases = [leased(budget, TokenCost(1_000)) for _ in range(8)]
    budget.settle(leases[0], TokenCost(1_000), TokenCost(1_000), NOW)

    budget.observe(leases[0], [RateHeader("TPM", 8_000, 7_000)], NOW)

    assert isinstance(budget.lease(TokenCost(1_000), NOW), Blocked)


def test_a_refusal_under_a_larger_limit_of_the_server_fills_ours_only_by_what_is_left_there() -> None:
    """
    The server has 100 of 8,000 left and says 0.75 s; our 4,000 are not 3,900 in debt for a minute.
    """
    budget = Budget(Limits(tpm=4_000))
    refusal = Refusal(False, "TPM", 8_000, 7_900, 200, 750_000_000)

    budget.refused(leased(budget, TokenCost(200)), refusal, 750_000_000, NOW)

    assert 3_900 == budget.levels(NOW)[0].used


# -- core/token_estimate.py


@pytest.mark.parametrize("cap", [-1, -1_000_000])
def test_a_negative_cap_lends_no_budget(cap: int) -> None:
    """
    The API answers 400; but its lease must not empty the bucket for everybody else.
    """
    budget = Budget(Limits(tpm=1_000))
    full = TokenCost(1_000)
    budget.settle(leased(budget, full), full, full, NOW)
    size = size_of({"messages": [{"role": "user", "content": "x"}], "max_tokens": cap})
    cost = TokenCost(size.base, size.completion or 0)

    wrong = budget.lease(cost, NOW)

    assert size.completion is None  # as without a cap
    assert isinstance(wrong, Blocked)
    assert 1_000 == budget.levels(NOW)[0].used


@pytest.mark.parametrize(
    "payload",
    [
        {"messages": ({"role": "user", "content": "x" * 30_000},)},
        {"messages": [{"role": "user", "content": ({"type": "text", "text": "x" * 30_000},)}]},
        {"messages": [], "tools": ({"function": {"description": "x" * 30_000}},)},
        {"input": ("x" * 30_000,)},
    ],
)
def test_tuples_are_priced_as_the_lists_they_are_sent_as(payload: dict[str, Any]) -> None:
    as_sent = json.loads(json.dumps(payload))

    assert size_of(as_sent) == size_of(payload)
    assert 10_000 <= size_of(payload).base < 10_100


# -- core/headers.py


@pytest.mark.parametrize("tail", ["See https://groq.com", "More at https://groq.com", "Some text", "Must be paid"])
def test_the_wait_of_a_refusal_is_read_whatever_sentence_follows(tail: str) -> None:
    text = f"Rate limit reached on (TPM): Limit 6000, Used 5914, Requested 239. Please try again in 1.53s. {tail}"

    refusal = parse_refusal(text)

    assert refusal is not None
    assert 1_530_000_000 == refusal.wait_ns


def test_a_mis_decoded_micro_sign_is_read_in_a_refusal_too() -> None:
    text = (
        "Rate limit reached on (TPM): Limit 250000, Used 249999, Requested 2. Please try again in 240\u00c2\u00b5s. V"
    )

    refusal = parse_refusal(text)

    assert refusal is not None
    assert 240_000 == refusal.wait_ns


@pytest.mark.parametrize("limit", ["8,000", "1" * 17])
def test_a_figure_is_read_whole_or_not_at_all(limit: str) -> None:
    refusal = parse_refusal(
        f"Rate limit reached on (TPM): Limit {limit}, Used 1, Requested 2. Please try again in 1s. V"
    )

    assert Refusal(False, "TPM", None, 1, 2, 1_000_000_000) == refusal


# -- core/request.py


@pytest.mark.parametrize(
    ("wrap", "named"),
    [(lambda deep: [deep], r"messages\[0\]="), (lambda deep: [{"role": deep}], r"messages\[0\]\['role'\]=")],
)
def test_a_message_nested_a_hundred_thousand_deep_is_refused_like_any_other(wrap: Any, named: str) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(ConfigurationError, match=named):
        build_payload(wrap(deep), None, "m", {}, "chat/completions")


# -- core/response.py and errors.py


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [None]},
        {"choices": ["x"]},
        {"choices": {"a": 1}},
        {"choices": [{"message": "x"}]},
        {"choices": [{"message": {"content": [{"type": "text", "text": "x"}]}}]},
    ],
)
def test_text_is_a_str_for_any_shape_of_answer(body: dict[str, Any]) -> None:
    assert "" == Completion(body).text


def test_an_error_that_is_null_has_no_message() -> None:
    assert "" == error_message({"error": None})


def test_a_missing_extra_keeps_its_msg() -> None:
    twin = pickle.loads(pickle.dumps(MissingExtraError("install groq_queue[redis]")))

    assert "install groq_queue[redis]" == twin.msg == str(twin)


@pytest.mark.parametrize(
    ("limit", "cure"),
    [
        ("input tokens per minute (ITPM)", "shorten the prompt by 500 tokens"),
        ("seconds of audio per hour (ASPH)", "shorten the audio by 500 s"),
    ],
)
def test_no_lower_completion_is_advised_where_it_cannot_help(limit: str, cure: str) -> None:
    told = str(RequestTooLarge(7_500, 7_000, limit))

    assert f"request may use 7500 but {limit} never holds more than 7000: {cure}" == told

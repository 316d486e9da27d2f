"""The meter on its own, with a clock moved by hand and rows captured from the real service."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

import groq_queue.simulator
from groq_queue.simulator.calls import count_tokens
from groq_queue.simulator.meter import DIMENSIONS, CallCost, SimulatedBucket, SimulatedBudget, go_duration

S = 1_000_000_000
START = 5 * S


def budget(**limits: int) -> SimulatedBudget:
    return SimulatedBudget(SimpleNamespace(**{"minute_s": 60, "hour_s": 3600, "day_s": 86400, **limits}))


def one_bucket(dimension: str, limit: int) -> tuple[SimulatedBudget, SimulatedBucket, int]:
    """Return a budget of one dimension, its bucket, and the place of the unit in a Cost."""
    whole = budget(**{DIMENSIONS[dimension].limit_field: limit})
    return whole, whole.buckets[0], DIMENSIONS[dimension].unit


def cost(unit: int, amount: int) -> CallCost:
    return CallCost(*(amount if place == unit else 0 for place in range(5)))


# Refusals of the real service: dimension, limit, used, requested, seconds to wait.
WHOLE_LEVELS = [
    ("TPM", 6_000, 5_034, 1_443, 4.77),
    ("TPM", 12_000, 2_542, 9_855, 1.984999999),
    ("TPM", 8_000, 7_642, 7_536, 53.835),
    ("TPM", 250_000, 224_739, 88_828, 15.256079999),
    ("ITPM", 7_000, 6_635, 538, 1.482857142),
    ("OTPM", 1_000, 485, 800, 17.099999999),
    ("TPD", 100_000, 97_050, 3_619, 578.016),
    ("TPD", 200_000, 200_000, 73, 31.535999999),
    ("RPM", 30, 30, 1, 2),
    ("RPD", 1_000, 1_000, 1, 86.4),
    ("ASPH", 7_200, 6_619, 1_200, 309.5),
]

# The same where the level was no whole number; shown rounded, the wait is off by less than one unit.
BROKEN_LEVELS = [
    ("TPM", 6_000, 3_513, 3_166, 6.780999999),
    ("TPM", 5_000, 5_747, 4_251, 59.977),
    ("TPD", 500_000, 500_370, 252, 107.5854),
    ("ASPH", 7_200, 7_170, 230, 99.738),
]


@pytest.mark.parametrize(("dimension", "limit", "used", "requested", "wait_s"), WHOLE_LEVELS)
def test_quoted_waits_are_those_of_the_real_service(
    dimension: str, limit: int, used: int, requested: int, wait_s: float
) -> None:
    """
    The formula gives the captured wait to the nanosecond the service rounds down.
    """
    whole, bucket, unit = one_bucket(dimension, limit)
    bucket.drain(START)
    bucket.add(used)

    refusal = whole.admit(START, cost(unit, requested))

    assert refusal is not None
    assert refusal.wait_ns is not None
    assert abs(round(wait_s * S) - refusal.wait_ns) <= 1
    assert (used, requested) == (refusal.used, refusal.requested)


@pytest.mark.parametrize(("dimension", "limit", "used", "requested", "wait_s"), BROKEN_LEVELS)
def test_quoted_waits_differ_by_less_than_one_unit_when_the_level_was_fractional(
    dimension: str, limit: int, used: int, requested: int, wait_s: float
) -> None:
    """
    Refusals show a whole level; the captured wait was computed from the exact one.
    """
    _, bucket, _ = one_bucket(dimension, limit)
    bucket.drain(START)
    bucket.add(used)

    period_s = 3_600 if dimension == "ASPH" else 86_400 if dimension == "TPD" else 60

    assert abs(wait_s - bucket.wait_ns(requested) / S) * limit / period_s < 1


@pytest.mark.parametrize("limit", [7, 30, 6_000, 7_000, 250_000])
def test_quoted_wait_is_enough_and_one_nanosecond_less_is_not(limit: int) -> None:
    """
    A refused caller is admitted exactly when it was told to come back.
    """
    whole = budget(tpm=limit)
    assert whole.admit(START, CallCost(tokens=limit)) is None

    refusal = whole.admit(START + 12_345, CallCost(tokens=3))
    assert refusal is not None
    assert refusal.wait_ns is not None
    back_ns = START + 12_345 + refusal.wait_ns

    early = whole.admit(back_ns - 1, CallCost(tokens=3))
    assert early is not None
    assert 1 == early.wait_ns
    assert whole.admit(back_ns, CallCost(tokens=3)) is None
    assert limit == whole.buckets[0].used  # full to the brim, and not a fraction above it
    assert whole.admit(back_ns, CallCost(tokens=1)) is not None


def test_one_token_over_is_refused_and_none_over_is_admitted() -> None:
    """
    Admission is used + requested <= limit, to the unit.
    """
    whole = budget(tpd=200_000)
    whole.admit(START, CallCost(tokens=197_300))

    refusal = whole.admit(START, CallCost(tokens=2_701))

    assert refusal is not None
    assert 432_000_000 == refusal.wait_ns
    assert whole.admit(START, CallCost(tokens=2_700)) is None


def test_refused_call_charges_no_dimension() -> None:
    """
    All dimensions or none: what the day refuses, the minute keeps.
    """
    whole = budget(rpm=30, rpd=100, tpm=6_000, tpd=1_000)
    whole.admit(START, CallCost(1, 900))

    refusal = whole.admit(START, CallCost(1, 500))

    assert refusal is not None
    assert "TPD" == refusal.dimension.name
    assert [1, 1, 900, 900] == [bucket.used for bucket in whole.buckets]


def test_longest_wait_names_the_refusal() -> None:
    """
    When several dimensions refuse, the caller is told of the one that holds longest.
    """
    whole = budget(rpm=1, rpd=1, tpm=100)
    whole.admit(START, CallCost(1, 100))

    refusal = whole.admit(START, CallCost(1, 100))

    assert refusal is not None
    assert "RPD" == refusal.dimension.name
    assert 86_400 * S == refusal.wait_ns


def test_debt_stands_above_the_limit_and_drains_from_there() -> None:
    """
    Use settled above the limit is not clamped: the wait counts all of it.
    """
    whole = budget(tpm=30_000)
    whole.add(START, CallCost(tokens=73_124))

    refusal = whole.admit(START, CallCost(tokens=1_876))

    assert refusal is not None
    assert 73_124 == refusal.used
    assert 90 * S == refusal.wait_ns
    assert 0 == whole.buckets[0].remaining
    assert whole.admit(START + 90 * S, CallCost(tokens=1_876)) is None


def test_a_call_that_takes_no_tokens_is_not_refused_for_token_debt() -> None:
    """
    A dimension the call does not touch has no say.
    """
    whole = budget(rpm=30, tpm=100)
    whole.add(START, CallCost(tokens=500))

    assert whole.admit(START, CallCost(requests=1)) is None


def test_correction_never_empties_below_zero() -> None:
    """
    Giving back more than is left leaves an empty bucket, not credit.
    """
    whole = budget(tpm=600)
    whole.admit(START, CallCost(tokens=600))
    whole.add(START + 59 * S, CallCost(tokens=-500))

    assert 0 == whole.buckets[0].used
    assert whole.admit(START + 59 * S, CallCost(tokens=600)) is None
    assert whole.admit(START + 59 * S, CallCost(tokens=1)) is not None


@pytest.mark.parametrize(
    ("dimension", "status"), [("TPM", 413), ("ITPM", 413), ("ASPD", 413), ("OTPM", 429), ("TPD", 413)]
)
def test_what_never_fits_is_refused_without_a_wait(dimension: str, status: int) -> None:
    """
    Larger than the limit: another sentence, no Used, no wait; and 429 only for output tokens.
    """
    whole, _, unit = one_bucket(dimension, 1_000)

    refusal = whole.admit(START, cost(unit, 1_329))

    assert refusal is not None
    assert status == refusal.status
    assert refusal.wait_ns is None
    message = refusal.message("m", "o", "on_demand")
    start = "Request too large for model `m` in organization `o` service tier `on_demand` on "
    assert message.startswith(f"{start}{DIMENSIONS[dimension].text}: Limit 1000, Requested 1329")
    assert "Used" not in message
    assert "try again in" not in message


def test_refusal_says_everything_in_the_words_of_the_service() -> None:
    """
    Limit, Used, Requested and a Go duration, in the order parsers expect.
    """
    whole = budget(tpm=6_000)
    whole.admit(START, CallCost(tokens=5_034))

    refusal = whole.admit(START, CallCost(tokens=1_443))

    assert refusal is not None
    assert refusal.message("llama", "org_1", "on_demand").startswith(
        "Rate limit reached for model `llama` in organization `org_1` service tier `on_demand` on tokens per minute "
        "(TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s. "
    )


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (7, "7ns"),
        (1_500, "1.5µs"),
        (240_000, "240µs"),
        (38_880_000, "38.88ms"),
        (585_000_000, "585ms"),
        (S, "1s"),
        (6_780_999_999, "6.780999999s"),
        (90_002_000_000, "1m30.002s"),
        (179_560_000_000, "2m59.56s"),
        (2_764_800_000_000, "46m4.8s"),
        (3_600 * S, "1h0m0s"),
        (86_400 * S, "24h0m0s"),
    ],
)
def test_durations_are_written_as_go_writes_them(ns: int, text: str) -> None:
    """
    Units without spaces, decimals on the last one only.
    """
    assert text == go_duration(ns)


def test_english_has_about_four_characters_a_token_and_japanese_two() -> None:
    """
    The counter is near what real tokenizers say, so estimates can be tested against it.
    """
    english = (
        "The committee met on Tuesday to discuss the proposed changes, and after a long debate the members "
        "agreed that further information about the expected costs would be needed before any decision. "
    )
    japanese = "委員会は火曜日に開かれ、提案された変更について長い議論が行われた。"

    assert 3.8 < len(english) / count_tokens(english) < 4.8
    assert 1.5 < len(japanese) / count_tokens(japanese) < 2.5
    assert count_tokens("a b") == count_tokens("a" + " " * 10_000 + "b")


def test_simulator_imports_nothing_of_the_library_it_tests() -> None:
    """
    Its meter is independent: a mistake shared with the client would agree with itself.
    """
    room = Path(groq_queue.simulator.__file__).parent
    imported = set()
    for file in room.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert 0 == node.level, f"{file.name}: relative import"
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)

    ours = {name for name in imported if name.startswith("groq_queue")}
    assert 5 <= len(ours)
    assert [] == [name for name in ours if not name.startswith("groq_queue.simulator")]

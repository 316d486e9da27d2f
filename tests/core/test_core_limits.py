"""Published limits: their bounds, their names, their periods."""

from __future__ import annotations

from typing import Any

import pytest

from groq_queue.core.limits import DAILY, DIMENSIONS, Limits, tightest
from groq_queue.errors import ConfigurationError

FIELDS = ("rpm", "rpd", "tpm", "tpd", "itpm", "otpm", "audio_hour", "audio_day")


@pytest.mark.parametrize("field", FIELDS)
def test_a_limit_may_be_one_or_the_largest_that_a_header_can_tell(field: str) -> None:
    for limit in (1, 10**15 - 1):
        assert [limit] == list(Limits(**{field: limit}).by_dimension().values())
    with pytest.raises(ConfigurationError) as caught:
        Limits(**{field: 10**15})

    assert f"{field}=1000000000000000: a limit is a whole number >= 1, or None for unlimited" == str(caught.value)


@pytest.mark.parametrize("field", ["minute_s", "hour_s", "day_s"])
def test_a_period_is_between_a_millisecond_and_thirty_years(field: str) -> None:
    for period in (0.001, 0.5, 10**9):
        assert period == getattr(Limits(**{field: period}), field)  # type: ignore[arg-type]
    for period in (0.000_999, 1_000_000_001):
        with pytest.raises(ConfigurationError) as caught:
            Limits(**{field: period})  # type: ignore[arg-type]
        assert f"{field}={period!r}: a period is a number of seconds > 0" == str(caught.value)


def test_every_limit_that_is_wrong_is_found_and_the_first_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"^audio_day=0: "):
        Limits(rpm=1, audio_day=0)
    with pytest.raises(ConfigurationError, match=r"^rpm=0: "):
        Limits(rpm=0, audio_day=0)


def test_a_long_value_is_cut_in_what_is_told() -> None:
    wrong: Any = "9" * 400

    with pytest.raises(ConfigurationError) as caught:
        Limits(rpm=wrong)

    assert f"rpm='{'9' * 49}…: a limit is a whole number >= 1, or None for unlimited" == str(caught.value)


def test_limits_are_told_by_the_servers_names_and_unset_ones_not_at_all() -> None:
    assert {} == Limits().by_dimension()
    assert (
        dict(zip(DIMENSIONS, range(1, 9), strict=True))
        == Limits(
            **dict(zip(FIELDS, range(1, 9), strict=True))  # type: ignore[arg-type]
        ).by_dimension()
    )


def test_limits_cannot_be_changed_and_equal_ones_are_the_same_key() -> None:
    limits = Limits(rpm=30)

    with pytest.raises(AttributeError):
        limits.rpm = 60  # type: ignore[misc]
    assert 30 == limits.rpm
    assert {Limits(rpm=30): "known"}[limits] == "known"


def test_a_day_is_what_is_called_so() -> None:
    assert {name for name, words in DIMENSIONS.items() if words.endswith("per day")} == DAILY


@pytest.mark.parametrize("field", FIELDS)
def test_the_tightest_of_each_limit_is_the_smallest_that_anybody_set(field: str) -> None:
    limits = [Limits(), Limits(**{field: 7}), Limits(**{field: 5}), Limits(**{field: 6})]

    assert Limits(**{field: 5}) == tightest(iter(limits))


def test_the_tightest_keep_their_periods() -> None:
    limits = [Limits(rpm=number, minute_s=2, hour_s=3, day_s=5) for number in (9, 8)]

    assert Limits(rpm=8, minute_s=2, hour_s=3, day_s=5) == tightest(limits)


@pytest.mark.parametrize("field", ["minute_s", "hour_s", "day_s"])
def test_limits_that_count_in_different_periods_have_no_tightest(field: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^limits: open queues of one account count in different periods: "):
        tightest([Limits(rpm=1), Limits(rpm=1, **{field: 7})])  # type: ignore[arg-type]

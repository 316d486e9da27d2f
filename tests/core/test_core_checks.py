"""Arguments, checked where they come in."""

from __future__ import annotations

from typing import Any

import pytest

from groq_queue.core.checks import check_choice, check_count, check_seconds, check_text, check_timeout
from groq_queue.errors import ConfigurationError


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None, float("nan")])
def test_a_count_is_a_whole_number_from_one(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^rows=.*: use a whole number >= 1$"):
        check_count("rows", value)

    assert 1 == check_count("rows", 1)
    assert 10**15 - 1 == check_count("rows", 10**15 - 1)
    with pytest.raises(ConfigurationError, match=r"use a whole number >= 1 and <= 999,999,999,999,999$"):
        check_count("rows", 10**400)


def test_a_count_may_start_at_zero_or_be_left_out_where_that_is_said() -> None:
    assert 0 == check_count("retries", 0, least=0)
    assert check_count("rows", None, optional=True) is None
    with pytest.raises(ConfigurationError, match=r"retries=-1: use a whole number >= 0, or None"):
        check_count("retries", -1, least=0, optional=True)


@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), "5", True, 31_622_401, [1]])
def test_seconds_are_a_number_above_zero_and_within_a_year(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^max_wait=.*: use a number of seconds > 0, or None$"):
        check_seconds("max_wait", value)

    assert 0.001 == check_seconds("max_wait", 0.001)
    assert 31_622_400 == check_seconds("max_wait", 31_622_400)
    assert check_seconds("max_wait", None) is None
    with pytest.raises(ConfigurationError, match=r"> 0$"):
        check_seconds("timeout", None, optional=False)


@pytest.mark.parametrize("value", ["", " \n", "x" * 513, b"x", 5, None])
def test_a_text_has_1_to_512_characters(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)^client=.*: use a str of 1 to 512 characters$"):
        check_text("client", value)

    assert "x" * 512 == check_text("client", "x" * 512)
    assert check_text("client", None, optional=True) is None


def test_a_choice_is_one_of_those_named() -> None:
    assert "raise" == check_choice("when_full", "raise", {"raise", "block"})
    for value in ("explode", None, 5, ["raise"]):
        with pytest.raises(ConfigurationError, match=r"^when_full=.*: use one of block, raise$"):
            check_choice("when_full", value, {"raise", "block"})


def test_a_timeout_is_one_number_or_a_pair() -> None:
    assert (5, 5) == check_timeout(5)
    assert (3.5, 60) == check_timeout((3.5, 60))
    assert (3.5, 60) == check_timeout([3.5, 60])
    for value in (None, 0, (1,), (1, 2, 3), (1, None), (0, 1), (1, float("inf")), "5", {1, 2}):
        with pytest.raises(ConfigurationError, match=r"^timeout="):
            check_timeout(value)

"""Arguments, checked where they come in."""

from __future__ import annotations

from typing import Any

import pytest

from groq_queue.core.limits import Limits
from groq_queue.core.validation import (
    check_choice,
    check_count,
    check_dollars,
    check_flag,
    check_limits,
    check_nanoseconds,
    check_order,
    check_path,
    check_seconds,
    check_share,
    check_text,
    check_timeout,
    check_wait,
)
from groq_queue.errors import ConfigurationError


def refusal(check: Any, *arguments: Any, **options: Any) -> str:
    """Return what the caller is told whose argument is refused."""
    with pytest.raises(ConfigurationError) as caught:
        check(*arguments, **options)
    return str(caught.value)


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


@pytest.mark.parametrize("value", [0, 0.0, 0.25, 31_622_400, None])
def test_a_wait_may_be_none_at_all(value: Any) -> None:
    assert value == check_wait("timeout", value)


@pytest.mark.parametrize("value", [False, True, -1, 31_622_401, "0", float("nan")])
def test_anything_else_is_no_wait(value: Any) -> None:
    assert f"timeout={value!r}: use a number of seconds > 0, or None" == refusal(check_wait, "timeout", value)


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"), [(None, None), (2, 2_000_000_000), (0.25, 250_000_000), (1e-9, 1), (1e-12, 1)]
)
def test_seconds_become_whole_nanoseconds_and_never_none_of_them(seconds: Any, nanoseconds: Any) -> None:
    found = check_nanoseconds("ageing", seconds)

    assert nanoseconds == found
    assert type(nanoseconds) is type(found)


@pytest.mark.parametrize("value", [0, -1, True, "1"])
def test_what_is_no_number_of_seconds_has_no_nanoseconds(value: Any) -> None:
    assert refusal(check_nanoseconds, "ageing", value).startswith(f"ageing={value!r}: use a number of seconds > 0")


@pytest.mark.parametrize("times", [(None, 1, 1), (5, None, None), (5, 6, None), (5, None, 5.5), (5, 6, 7), (0, 1, 1)])
def test_a_start_before_both_ends_is_accepted(times: tuple[Any, Any, Any]) -> None:
    check_order(*times)


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ((5, 5, None), "not_before=5: max_wait=5 would be over by then; make it longer"),
        ((5, 4, 9), "not_before=5: max_wait=4 would be over by then; make it longer"),
        ((5, 9, 4.5), "not_before=5: deadline=4.5 would be over by then; make it longer"),
        ((5, None, 5), "not_before=5: deadline=5 would be over by then; make it longer"),
    ],
)
def test_a_start_after_the_end_is_refused_with_both(times: tuple[Any, Any, Any], told: str) -> None:
    assert told == refusal(check_order, *times)


@pytest.mark.parametrize("value", [None, 0.001, 1, 5.5, 999_999_999])
def test_dollars_are_an_amount_above_zero_or_none(value: Any) -> None:
    assert value == check_dollars("max_cost", value)


@pytest.mark.parametrize("value", [0, -1, True, False, "5", 1e9, float("inf"), float("nan"), [1]])
def test_anything_else_is_no_amount_of_dollars(value: Any) -> None:
    assert f"max_cost={value!r}: use an amount in USD > 0, or None" == refusal(check_dollars, "max_cost", value)


@pytest.mark.parametrize("value", [0, 0.0, 0.1, 0.999])
def test_a_share_starts_at_zero(value: Any) -> None:
    assert value == check_share("margin", value)


@pytest.mark.parametrize("value", [1, 1.0, -0.001, True, False, None, "0.5", float("nan")])
def test_a_share_is_below_one(value: Any) -> None:
    assert f"margin={value!r}: use a number from 0 to below 1" == refusal(check_share, "margin", value)


@pytest.mark.parametrize("value", ["", " \n", "x" * 513, b"x", 5, None])
def test_a_text_has_1_to_512_characters(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)^client=.*: use a str of 1 to 512 characters$"):
        check_text("client", value)

    assert "x" * 512 == check_text("client", "x" * 512)
    assert check_text("client", None, optional=True) is None
    with pytest.raises(ConfigurationError, match=r"^client='': use a str of 1 to 512 characters, or None$"):
        check_text("client", "", optional=True)


@pytest.mark.parametrize("value", ["\ud800", "caf\u00e9 \udfff", "\udc00x"])
def test_a_text_holds_no_half_of_a_surrogate_pair(value: str) -> None:
    assert refusal(check_text, "client", value).endswith(": holds half of a surrogate pair, which no file can hold")


@pytest.mark.parametrize("value", ["caf\u00e9", "\U0001f600", "\ue000\ud7ff"])
def test_a_text_may_hold_any_whole_character(value: str) -> None:
    assert value == check_text("client", value)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("chat/completions", "chat/completions"),
        ("/embeddings/", "embeddings"),
        ("//v1/x//", "v1/x"),
        ("a.b/c-d_e~f", "a.b/c-d_e~f"),
        ("A0", "A0"),
    ],
)
def test_a_path_stands_below_the_base_url_without_outer_slashes(value: str, path: str) -> None:
    assert path == check_path("endpoint", value)


@pytest.mark.parametrize("value", ["/", "../x", "a/../b", "a..b", "a//b", "a b", "a?b=c", "a#b", "http://x", "\u00e9"])
def test_a_path_that_leads_elsewhere_is_refused(value: str) -> None:
    assert f"endpoint={value!r}: use a path below the base URL, such as 'chat/completions'" == refusal(
        check_path, "endpoint", value
    )


@pytest.mark.parametrize("value", [None, "", 5])
def test_a_path_is_a_text(value: Any) -> None:
    assert f"endpoint={value!r}: use a str of 1 to 512 characters" == refusal(check_path, "endpoint", value)


def test_a_choice_is_one_of_those_named() -> None:
    assert "raise" == check_choice("when_full", "raise", {"raise", "block"})
    for value in ("explode", None, 5, ["raise"]):
        with pytest.raises(ConfigurationError, match=r"^when_full=.*: use one of block, raise$"):
            check_choice("when_full", value, {"raise", "block"})


@pytest.mark.parametrize("value", [True, False])
def test_a_flag_is_true_or_false(value: bool) -> None:
    assert value is check_flag("progress", value)


@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_anything_else_is_no_flag(value: Any) -> None:
    assert f"progress={value!r}: use True or False" == refusal(check_flag, "progress", value)


def test_a_timeout_is_one_number_or_a_pair() -> None:
    assert (5, 5) == check_timeout(5)
    assert (3.5, 60) == check_timeout((3.5, 60))
    assert (3.5, 60) == check_timeout([3.5, 60])
    for value in (None, 0, (1,), (1, 2, 3), (1, None), (0, 1), (1, float("inf")), "5", {1, 2}):
        with pytest.raises(ConfigurationError, match=r"^timeout="):
            check_timeout(value)


# -- limits


def test_limits_are_those_of_every_model_or_of_each() -> None:
    one, by_model = Limits(rpm=30), {"a": Limits(rpm=1), "b": Limits()}

    taken = check_limits(by_model)

    assert check_limits(None) is None
    assert one is check_limits(one)
    assert by_model == taken
    assert by_model is not taken  # what the caller does to his dict later changes nothing


@pytest.mark.parametrize("value", [30, "30", ["rpm"], {"rpm"}, True])
def test_anything_else_is_no_limits(value: Any) -> None:
    assert f"limits={value!r}: use Limits(...), a dict of them by model, or None" == refusal(check_limits, value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": Limits(), "b": 30}, "limits['b']=30: use model names and Limits(...)"),
        ({"a": {"rpm": 30}}, "limits['a']={'rpm': 30}: use model names and Limits(...), as in {'a': Limits(rpm=30)}"),
        ({"a": None}, "limits['a']=None: use model names and Limits(...)"),
        ({5: Limits()}, "limits[5]=5: use a str of 1 to 512 characters"),
        ({"": Limits()}, "limits['']='': use a str of 1 to 512 characters"),
    ],
)
def test_limits_by_model_are_refused_with_the_model_that_is_wrong(value: Any, told: str) -> None:
    assert told == refusal(check_limits, value)


def test_a_long_name_of_a_model_is_cut_in_what_is_told() -> None:
    told = refusal(check_limits, {"m" * 400: 5})

    assert f"limits['{'m' * 49}…]=5: use model names and Limits(...)" == told

"""What a request will cost, guessed from its bytes and learnt from answers."""

from __future__ import annotations

from typing import Any

import pytest

from groq_queue.core.pricing import Backlog, Cost, Estimator, Size, quantile, size_of


def backlog_of(sizes: list[Size]) -> Backlog:
    backlog = Backlog()
    for size in sizes:
        backlog = backlog.plus(size)
    return backlog


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def taught(size: Size, prompt: int, completion: int, times: int = 1) -> Estimator:
    estimator = Estimator()
    for _ in range(times):
        estimator.learn(size, prompt, completion)
    return estimator


# -- the byte rule


def test_english_prose_is_priced_above_its_real_count() -> None:
    """
    3,075 real tokens, template included, where characters / 4 had said 3,311.
    """
    text = ("The quick brown fox jumps over the lazy dog. " * 400)[: 3_311 * 4]

    assert 3_075 < size_of(chat(text)).base


def test_japanese_is_priced_above_its_real_count() -> None:
    """
    25,982 characters in 46,577 bytes were 13,789 tokens; characters / 4 would be half of that.
    """
    wide = (46_577 - 25_982) // 2
    text = "\u3042" * wide + "a" * (25_982 - wide)

    assert 46_577 - 1 <= len(text.encode()) <= 46_577
    assert 13_789 < size_of(chat(text)).base


def test_bytes_count_and_not_characters() -> None:
    latin, kana = size_of(chat("a" * 3_000)).base, size_of(chat("\u3042" * 3_000)).base

    assert 1_000 < latin < 1_020
    assert 3_000 < kana < 3_020


def test_half_a_surrogate_pair_is_priced_and_not_raised_over() -> None:
    assert 0 < size_of(chat("\ud800" * 10)).base


@pytest.mark.parametrize("kind", ["image_url", "image", "input_image"])
def test_an_image_costs_a_constant_whatever_its_size(kind: str) -> None:
    def with_images(*sizes: int) -> int:
        parts = [{"type": kind, "image_url": {"url": "data:image/png;base64," + "A" * size}} for size in sizes]
        return size_of(chat([{"type": "text", "text": "what is this?"}, *parts])).base

    assert with_images(10) == with_images(3_000_000)
    assert 1_810 == with_images(10, 10) - with_images(10)


@pytest.mark.parametrize("key", ["tools", "functions", "response_format", "documents"])
def test_what_the_server_puts_into_the_prompt_is_priced(key: str) -> None:
    plain = size_of(chat("hi")).base

    with_it = size_of(chat("hi", **{key: [{"type": "function", "description": "x" * 3_000}]})).base

    assert 1_000 <= with_it - plain <= 1_040


def test_tool_calls_of_earlier_messages_are_priced() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "x" * 3_000}}

    size = size_of({"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]})

    assert 1_000 < size.base


def test_what_the_server_does_not_read_costs_nothing() -> None:
    assert size_of(chat("hi")) == size_of(chat("hi", user="u" * 9_000, temperature=0.5, stop=["a"]))


@pytest.mark.parametrize(
    ("caps", "completion"),
    [
        ({"max_completion_tokens": 50}, 50),
        ({"max_tokens": 60}, 60),
        ({"max_completion_tokens": 50, "max_tokens": 60}, 50),
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "50"}, None),
        ({"max_tokens": 50.0}, None),
    ],
)
def test_the_cap_of_the_payload_is_the_allowance(caps: dict[str, Any], completion: int | None) -> None:
    assert completion == size_of(chat("hi", **caps)).completion


def test_embeddings_and_speech_have_no_completion() -> None:
    size = size_of({"model": "m", "input": ["a" * 300, "b" * 300]})

    assert 0 == size.completion
    assert 200 < size.base < 240


@pytest.mark.parametrize(
    ("tokens", "caps", "size"),
    [
        (500, {}, Size(500, 0, is_exact=True)),
        (500, {"max_tokens": 200}, Size(300, 200, is_exact=True)),
        (500, {"max_tokens": 900}, Size(0, 500, is_exact=True)),
    ],
)
def test_the_callers_own_count_overrides_the_estimate(tokens: int, caps: dict[str, Any], size: Size) -> None:
    assert size == size_of(chat("hi", **caps), tokens)


# -- units


def test_a_cost_counts_against_each_dimension_in_its_own_units() -> None:
    cost = Cost(prompt=20, completion=30, audio_s=7)

    assert 50 == cost.tokens
    assert {"RPM": 1, "RPD": 1, "TPM": 50, "TPD": 50, "ITPM": 20, "OTPM": 30, "ASPH": 7, "ASPD": 7} == {
        name: cost.units(name) for name in ("RPM", "RPD", "TPM", "TPD", "ITPM", "OTPM", "ASPH", "ASPD")
    }


# -- learning


def test_before_any_answer_the_byte_rule_and_a_default_allowance_hold() -> None:
    assert Cost(300, 1_024) == Estimator().price(Size(300, None))
    assert Cost(300, 50, 9) == Estimator().price(Size(300, 50, 9))
    assert Cost(1, 5) == Estimator().price(Size(0, 5))


def test_an_exact_price_is_neither_scaled_nor_learnt_from() -> None:
    exact = Size(300, 50, is_exact=True)
    estimator = taught(Size(300, None), 900, 77)

    estimator.learn(exact, 10**6, 10**6)

    assert Cost(300, 50) == estimator.price(exact)
    assert Estimator().price(Size(300, None)) == taught(exact, 10**6, 10**6).price(Size(300, None))


def test_a_price_covers_what_was_seen_with_a_margin_that_shrinks() -> None:
    """
    The real count is 1.5 times the estimate, always: the price stays above it and comes closer.
    """
    size = Size(1_000, 10)

    prices = [taught(size, 1_500, 5, times).price(size).prompt for times in (1, 4, 20, 60)]

    assert [2_000, 1_750, 1_569, 1_525] == prices


def test_a_ratio_below_one_lowers_the_price() -> None:
    assert 400 < taught(Size(1_000, 10), 400, 5, 50).price(Size(1_000, 10)).prompt < 420


def test_the_worst_recent_ratio_counts_and_not_the_mean() -> None:
    estimator = taught(Size(1_000, 10), 500, 5, 30)
    estimator.learn(Size(1_000, 10), 1_400, 5)

    assert 1_400 <= estimator.price(Size(1_000, 10)).prompt


def test_a_bad_ratio_is_forgotten_after_two_windows() -> None:
    estimator = taught(Size(1_000, 10), 3_000, 5)
    for _ in range(2 * 64):
        estimator.learn(Size(1_000, 10), 500, 5)

    assert 500 <= estimator.price(Size(1_000, 10)).prompt < 520


def test_a_bad_ratio_is_remembered_for_at_least_a_window() -> None:
    estimator = taught(Size(1_000, 10), 500, 5, 60)
    estimator.learn(Size(1_000, 10), 3_000, 5)
    for _ in range(64):
        estimator.learn(Size(1_000, 10), 500, 5)

    assert 3_000 <= estimator.price(Size(1_000, 10)).prompt


def test_short_and_long_prompts_learn_apart() -> None:
    """
    A template of 100 tokens triples a short prompt and hardly touches a long one.
    """
    estimator = taught(Size(50, 10), 150, 5, 40)
    for _ in range(40):
        estimator.learn(Size(8_000, 10), 8_100, 5)

    assert 150 <= estimator.price(Size(50, 10)).prompt < 170
    assert 8_100 <= estimator.price(Size(8_000, 10)).prompt < 8_400


def test_small_answers_do_not_lower_what_the_server_is_taken_to_count_for_a_request_without_a_cap() -> None:
    """
    The server may count a whole default allowance however short the answers are; only its refusals tell.
    """
    estimator = taught(Size(100, None), 100, 10, 200)

    assert 1_024 == estimator.price(Size(100, None)).completion
    assert 7 == estimator.price(Size(100, 7)).completion


def test_a_refusal_tells_the_allowance_of_a_request_without_a_cap() -> None:
    estimator = taught(Size(100, None), 100, 10, 20)

    estimator.learn_requested(Size(100, None), 100 + 400)

    assert 390 <= estimator.price(Size(100, None)).completion <= 410


def test_large_answers_raise_the_allowance_of_requests_without_a_cap() -> None:
    """
    From 95 of 100 answers on the allowance is enough.
    """
    estimator = Estimator()
    for number in range(1, 201):
        estimator.learn(Size(100, None), 100, 10 * number)

    assert 1_900 <= estimator.price(Size(100, None)).completion <= 1_920


def test_answers_with_a_cap_say_nothing_of_those_without() -> None:
    assert 1_024 == taught(Size(100, 5), 100, 5, 50).price(Size(100, None)).completion


def test_the_allowance_forgets_large_answers_after_two_hundred_others() -> None:
    estimator = taught(Size(100, None), 100, 5_000, 50)
    for _ in range(200):
        estimator.learn(Size(100, None), 100, 10)

    assert 1_024 == estimator.price(Size(100, None)).completion


def test_an_answer_without_prompt_tokens_teaches_no_ratio() -> None:
    assert 1_000 == taught(Size(1_000, 5), 0, 5).price(Size(1_000, 5)).prompt


@pytest.mark.parametrize("values", [[7], [1, 2], list(range(1, 101)), [3] * 50, [9, 1, 5, 7, 3]])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.95, 1.0])
def test_a_quantile_is_one_of_the_values_and_enough_of_them_do_not_exceed_it(
    values: list[int], fraction: float
) -> None:
    found = quantile(values, fraction)

    assert found in values
    assert fraction * len(values) <= sum(value <= found for value in values)
    assert sum(value < found for value in values) <= fraction * len(values)


# -- backlogs


def test_a_backlog_adds_up_what_is_estimated_exact_capped_and_uncapped() -> None:
    sizes = [Size(100, 10), Size(200, None), Size(300, 30, is_exact=True), Size(8, 0, 60)]

    assert Backlog(requests=4, base=308, exact=300, capped=40, uncapped=1, audio_s=60) == backlog_of(sizes)
    assert Backlog() == backlog_of([])


def test_expected_cost_before_any_answer_is_three_quarters_of_the_byte_rule_and_the_full_allowance() -> None:
    backlog = backlog_of([Size(100, 10), Size(200, None), Size(300, 30, is_exact=True)])

    assert Cost(225 + 300, 40 + 1_024) == Estimator().expect(backlog, credits=False)
    assert Cost(225 + 300, 40 + 1_024) == Estimator().expect(backlog, credits=True)


def test_expected_cost_is_of_the_mean_where_allowance_is_given_back_and_of_the_allowance_where_it_is_not() -> None:
    estimator = Estimator()
    for _ in range(30):
        estimator.learn(Size(100, 1_000), 150, 100)
        estimator.learn(Size(100, None), 150, 60)
    backlog = backlog_of([Size(100, 1_000), Size(100, None), Size(50, 0, is_exact=True)])

    strict, credited = (estimator.expect(backlog, credits=credits) for credits in (False, True))

    assert Cost(300 + 50, 1_000 + 1_024) == strict
    assert Cost(300 + 50, 100 + 60) == credited


def test_the_mean_forgets_old_answers() -> None:
    estimator = taught(Size(100, None), 100, 1_000, 20)
    for _ in range(200):
        estimator.learn(Size(100, None), 100, 10)

    assert 10 == estimator.expect(backlog_of([Size(1, None)]), credits=True).completion

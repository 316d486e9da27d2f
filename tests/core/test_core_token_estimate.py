"""What a request will cost, guessed from its bytes and learnt from answers."""

from __future__ import annotations

import types
from typing import Any

import pytest

from groq_queue.core.headers import Refusal
from groq_queue.core.token_estimate import (
    MOST_UNITS,
    Backlog,
    Estimator,
    PromptSize,
    TokenCost,
    corrected,
    cost_of,
    quantile,
    size_of,
)


def backlog_of(sizes: list[PromptSize]) -> Backlog:
    backlog = Backlog()
    for size in sizes:
        backlog = backlog.plus(size)
    return backlog


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


def taught(size: PromptSize, prompt: int, completion: int, times: int = 1) -> Estimator:
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

    assert 3_075 < size_of(chat(text)).base < 1.5 * 3_075


def test_japanese_is_priced_above_its_real_count() -> None:
    """
    25,982 characters in 46,577 bytes were 13,789 tokens; characters / 4 would be half of that.
    """
    wide = (46_577 - 25_982) // 2
    text = "\u3042" * wide + "a" * (25_982 - wide)

    assert 46_577 - 1 <= len(text.encode()) <= 46_577
    assert 13_789 < size_of(chat(text)).base < 1.5 * 13_789


def test_bytes_count_and_not_characters() -> None:
    latin, kana = size_of(chat("a" * 3_000)).base, size_of(chat("\u3042" * 3_000)).base

    assert 1_000 < latin < 1_020
    assert 3_000 < kana < 3_020


def test_half_a_surrogate_pair_is_priced_and_not_raised_over() -> None:
    assert 8 + 4 + 30 // 3 + 1 == size_of(chat("\ud800" * 10)).base


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

    assert 1_000 < size.base < 1_050


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
        (500, {}, PromptSize(500, 0, is_exact=True)),
        (500, {"max_tokens": 200}, PromptSize(300, 200, is_exact=True)),
        (500, {"max_tokens": 900}, PromptSize(0, 500, is_exact=True)),
    ],
)
def test_the_callers_own_count_overrides_the_estimate(tokens: int, caps: dict[str, Any], size: PromptSize) -> None:
    assert size == size_of(chat("hi", **caps), tokens)


# -- units


def test_a_cost_counts_against_each_dimension_in_its_own_units() -> None:
    cost = TokenCost(prompt=20, completion=30, audio_s=7)

    assert 50 == cost.tokens
    assert {"RPM": 1, "RPD": 1, "TPM": 50, "TPD": 50, "ITPM": 20, "OTPM": 30, "ASPH": 7, "ASPD": 7} == {
        name: cost.units(name) for name in ("RPM", "RPD", "TPM", "TPD", "ITPM", "OTPM", "ASPH", "ASPD")
    }


# -- learning


def test_before_any_answer_the_byte_rule_and_a_default_allowance_hold() -> None:
    assert TokenCost(300, 1_024) == Estimator().price(PromptSize(300, None))
    assert TokenCost(300, 50, 9) == Estimator().price(PromptSize(300, 50, 9))
    assert TokenCost(1, 5) == Estimator().price(PromptSize(0, 5))


def test_an_exact_price_is_neither_scaled_nor_learnt_from() -> None:
    exact = PromptSize(300, 50, is_exact=True)
    estimator = taught(PromptSize(300, None), 900, 77)

    estimator.learn(exact, 10**6, 10**6)

    assert TokenCost(300, 50) == estimator.price(exact)
    assert Estimator().price(PromptSize(300, None)) == taught(exact, 10**6, 10**6).price(PromptSize(300, None))


def test_a_price_covers_what_was_seen_with_a_margin_that_shrinks() -> None:
    """
    The real count is 1.5 times the estimate, always: the price stays above it and comes closer.
    """
    size = PromptSize(1_000, 10)

    prices = [taught(size, 1_500, 5, times).price(size).prompt for times in (1, 4, 20, 60)]

    assert [2_000, 1_750, 1_569, 1_525] == prices


def test_a_ratio_below_one_lowers_the_price() -> None:
    assert 400 < taught(PromptSize(1_000, 10), 400, 5, 50).price(PromptSize(1_000, 10)).prompt < 420


def test_the_worst_recent_ratio_counts_and_not_the_mean() -> None:
    estimator = taught(PromptSize(1_000, 10), 500, 5, 30)
    estimator.learn(PromptSize(1_000, 10), 1_400, 5)

    assert 1_400 <= estimator.price(PromptSize(1_000, 10)).prompt


def test_a_bad_ratio_is_forgotten_after_two_windows() -> None:
    estimator = taught(PromptSize(1_000, 10), 3_000, 5)
    for _ in range(2 * 64):
        estimator.learn(PromptSize(1_000, 10), 500, 5)

    assert 500 <= estimator.price(PromptSize(1_000, 10)).prompt < 520


def test_a_bad_ratio_is_remembered_for_at_least_a_window() -> None:
    estimator = taught(PromptSize(1_000, 10), 500, 5, 60)
    estimator.learn(PromptSize(1_000, 10), 3_000, 5)
    for _ in range(64):
        estimator.learn(PromptSize(1_000, 10), 500, 5)

    assert 3_000 <= estimator.price(PromptSize(1_000, 10)).prompt


def test_short_and_long_prompts_learn_apart() -> None:
    """
    A template of 100 tokens triples a short prompt and hardly touches a long one.
    """
    estimator = taught(PromptSize(50, 10), 150, 5, 40)
    for _ in range(40):
        estimator.learn(PromptSize(8_000, 10), 8_100, 5)

    assert 150 <= estimator.price(PromptSize(50, 10)).prompt < 170
    assert 8_100 <= estimator.price(PromptSize(8_000, 10)).prompt < 8_400


def test_small_answers_do_not_lower_what_the_server_is_taken_to_count_for_a_request_without_a_cap() -> None:
    """
    The server may count a whole default allowance however short the answers are; only its refusals tell.
    """
    estimator = taught(PromptSize(100, None), 100, 10, 200)

    assert 1_024 == estimator.price(PromptSize(100, None)).completion
    assert 7 == estimator.price(PromptSize(100, 7)).completion


def test_a_refusal_tells_the_allowance_of_a_request_without_a_cap() -> None:
    estimator = taught(PromptSize(100, None), 100, 10, 20)

    estimator.learn_requested(PromptSize(100, None), 100 + 400)

    assert 390 <= estimator.price(PromptSize(100, None)).completion <= 410


def test_large_answers_raise_the_allowance_of_requests_without_a_cap() -> None:
    """
    From 95 of 100 answers on the allowance is enough.
    """
    estimator = Estimator()
    for number in range(1, 201):
        estimator.learn(PromptSize(100, None), 100, 10 * number)

    assert 1_900 <= estimator.price(PromptSize(100, None)).completion <= 1_920


def test_answers_with_a_cap_say_nothing_of_those_without() -> None:
    assert 1_024 == taught(PromptSize(100, 5), 100, 5, 50).price(PromptSize(100, None)).completion


def test_the_allowance_forgets_large_answers_after_two_hundred_others() -> None:
    estimator = taught(PromptSize(100, None), 100, 5_000, 50)
    for _ in range(200):
        estimator.learn(PromptSize(100, None), 100, 10)

    assert 1_024 == estimator.price(PromptSize(100, None)).completion


def test_an_answer_without_prompt_tokens_teaches_no_ratio() -> None:
    assert 1_000 == taught(PromptSize(1_000, 5), 0, 5).price(PromptSize(1_000, 5)).prompt


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
    sizes = [PromptSize(100, 10), PromptSize(200, None), PromptSize(300, 30, is_exact=True), PromptSize(8, 0, 60)]

    assert Backlog(requests=4, base=308, exact=300, capped=40, uncapped=1, audio_s=60) == backlog_of(sizes)
    assert Backlog() == backlog_of([])


def test_expected_cost_before_any_answer_is_three_quarters_of_the_byte_rule_and_the_full_allowance() -> None:
    backlog = backlog_of([PromptSize(100, 10), PromptSize(200, None), PromptSize(300, 30, is_exact=True)])

    assert TokenCost(225 + 300, 40 + 1_024) == Estimator().expect(backlog, refunds_unused=False)
    assert TokenCost(225 + 300, 40 + 1_024) == Estimator().expect(backlog, refunds_unused=True)


def test_expected_cost_is_of_the_mean_where_allowance_is_given_back_and_of_the_allowance_where_it_is_not() -> None:
    estimator = Estimator()
    for _ in range(30):
        estimator.learn(PromptSize(100, 1_000), 150, 100)
        estimator.learn(PromptSize(100, None), 150, 60)
    backlog = backlog_of([PromptSize(100, 1_000), PromptSize(100, None), PromptSize(50, 0, is_exact=True)])

    strict, credited = (estimator.expect(backlog, refunds_unused=refunds_unused) for refunds_unused in (False, True))

    assert TokenCost(300 + 50, 1_000 + 1_024) == strict
    assert TokenCost(300 + 50, 100 + 60) == credited


def test_the_mean_forgets_old_answers() -> None:
    estimator = taught(PromptSize(100, None), 100, 1_000, 20)
    for _ in range(200):
        estimator.learn(PromptSize(100, None), 100, 10)

    assert 10 == estimator.expect(backlog_of([PromptSize(1, None)]), refunds_unused=True).completion


# -- the byte rule, to the token


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **more}]}


@pytest.mark.parametrize(
    ("payload", "base"),
    [
        (user("hi"), 8 + 4 + 1),
        (user(""), 8 + 4 + 1),
        (user("abc"), 8 + 4 + 2),
        (user("abcde"), 8 + 4 + 2),
        (user("\u3042"), 8 + 4 + 2),
        (user("\ud800\ud800"), 8 + 4 + 3),
        (user("hi", name="bob"), 8 + 4 + 1 + 2),
        (user(None), 8 + 4 + 1),
        (user([]), 8 + 4),
        (user(["abc", "abcdef"]), 8 + 4 + 2 + 3),
        (user([{"type": "text", "text": "abcdef"}]), 8 + 4 + 3),
        (user([{"type": "text", "text": 5}]), 8 + 4 + 27 // 3 + 1),
        (user([{"type": "image_url"}, {"type": "text", "text": ""}]), 8 + 4 + 1_810 + 1),
        (user([{"type": "input_audio", "data": "x" * 60}]), 8 + 4 + 95 // 3 + 1),
        ({"messages": [*user("hi")["messages"], {"role": "assistant", "content": "abc"}]}, 8 + 4 + 1 + 4 + 2),
        ({"messages": [{"content": "no role"}]}, 8 + 4 + 22 // 3 + 1),
        ({"messages": [], "tools": [{"a": "\u00e9"}]}, 8 + 4 + 11 // 3 + 1),
        ({"messages": [], "response_format": {"type": "json_object"}}, 8 + 23 // 3 + 1),
        ({"messages": [types.MappingProxyType({"role": "user", "content": "abc"})]}, 8 + 4 + 2),
        (user(({"type": "text", "text": "abc"}, types.MappingProxyType({"text": "abcdef"}))), 8 + 4 + 2 + 3),
        ({"prompt": "abc"}, 8 + 2),
        ({"prompt": "", "messages": None}, 8),
        ({"input": "abc"}, 8 + 2),
        ({"input": [101, 102, 103]}, 8 + 3 * (4 + 1)),
        ({"messages": [], "user": "u" * 99}, 8),
        ({}, 8),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_payload_is_priced_by_its_bytes_its_messages_and_its_images(payload: dict[str, Any], base: int) -> None:
    assert base == size_of(payload).base


@pytest.mark.parametrize(
    ("caps", "completion"),
    [
        ({"max_completion_tokens": 1}, 1),
        ({"max_completion_tokens": 0}, None),
        ({"max_completion_tokens": 0, "max_tokens": 7}, 7),
        ({"max_completion_tokens": -1}, None),
        ({"max_completion_tokens": MOST_UNITS}, 10**15 - 1),
        ({"max_completion_tokens": 10**400}, 10**15 - 1),
    ],
)
def test_an_allowance_is_one_token_or_more_and_no_more_than_can_be_counted(caps: Any, completion: int | None) -> None:
    assert completion == size_of(chat("hi", **caps)).completion


@pytest.mark.parametrize(
    ("payload", "audio_s", "size"),
    [
        ({"file": "x"}, 61, PromptSize(0, 0, 61, is_exact=True)),
        ({"file": "x"}, 61.2, PromptSize(0, 0, 62, is_exact=True)),
        ({"file": "x"}, 0.001, PromptSize(0, 0, 1, is_exact=True)),
        ({"input": "abc"}, 7, PromptSize(0, 0, 7, is_exact=True)),
        ({"messages": [], "max_tokens": 5}, 7, PromptSize(8, 5, 7)),
        ({"input": "abc"}, 0, PromptSize(10, 0)),
        ({"input": "abc", "max_tokens": 5}, 0, PromptSize(10, 5)),
        ({"prompt": "abc"}, 0, PromptSize(10, None)),
    ],
)
def test_audio_is_counted_in_whole_seconds_alone_unless_messages_go_with_it(
    payload: dict[str, Any], audio_s: float, size: PromptSize
) -> None:
    assert size == size_of(payload, audio_s=audio_s)


def test_the_callers_own_count_keeps_the_seconds() -> None:
    assert PromptSize(495, 5, 7, is_exact=True) == size_of({"max_tokens": 5}, 500, 6.5)


# -- the server's own count


REFUSED = Refusal(True, "TPM", 1_000, None, 700, None)


@pytest.mark.parametrize("dimension", ["TPM", "TPD"])
def test_a_refusal_corrects_the_price_of_its_request(dimension: str) -> None:
    told = REFUSED._replace(dimension=dimension)

    assert PromptSize(650, 50, 9, is_exact=True) == corrected(PromptSize(300, 50, 9), told)
    assert PromptSize(700, 0, is_exact=True) == corrected(PromptSize(300, None), told)
    assert PromptSize(0, 700, is_exact=True) == corrected(PromptSize(300, 900), told)


@pytest.mark.parametrize(
    "refusal",
    [None, REFUSED._replace(requested=None), *(REFUSED._replace(dimension=d) for d in ("", "ITPM", "OTPM", "RPM"))],
)
def test_a_refusal_that_names_no_tokens_corrects_nothing(refusal: Refusal | None) -> None:
    size = PromptSize(300, 50, 9)

    assert size is corrected(size, refusal)


def test_a_refusal_of_a_request_with_a_cap_teaches_the_ratio_of_its_prompt() -> None:
    """
    750 requested, 50 of them allowance: 700 for an estimate of 1,000, and a third more for want of experience.
    """
    estimator = Estimator()

    estimator.learn_requested(PromptSize(1_000, 50), 750)

    assert TokenCost(934, 50) == estimator.price(PromptSize(1_000, 50))


def test_a_refusal_that_counted_no_more_than_the_allowance_teaches_nothing() -> None:
    estimator = Estimator()

    estimator.learn_requested(PromptSize(1_000, 50), 50)

    assert TokenCost(1_000, 50) == estimator.price(PromptSize(1_000, 50))
    estimator.learn_requested(PromptSize(1_000, 50), 51)
    assert TokenCost(2, 50) == estimator.price(PromptSize(1_000, 50))


def test_a_refusal_of_an_exact_price_teaches_nothing() -> None:
    estimator = Estimator()

    estimator.learn_requested(PromptSize(1_000, None, is_exact=True), 5_000)
    estimator.learn_requested(PromptSize(1_000, 50, is_exact=True), 5_000)

    assert TokenCost(1_000, 1_024) == estimator.price(PromptSize(1_000, None))


def test_the_allowance_that_refusals_told_is_the_largest_of_the_last_eight() -> None:
    """
    750 of each are its prompt: three quarters of the estimate, before any answer.
    """
    estimator = Estimator()
    allowances = []
    for requested in (1_750, 5_750, *[2_750] * 7, 3_250):
        estimator.learn_requested(PromptSize(1_000, None), requested)
        allowances.append(estimator.price(PromptSize(1_000, None)).completion)

    assert [1_000, *[5_000] * 8, 2_500] == allowances


def test_an_allowance_is_at_least_one_token() -> None:
    estimator = taught(PromptSize(1_000, None), 750, 0)

    estimator.learn_requested(PromptSize(1_000, None), 500)

    assert 1 == estimator.price(PromptSize(1_000, None)).completion


# -- learning, by its figures


def test_a_larger_answer_is_believed_at_once_and_a_smaller_one_after_ten() -> None:
    """
    Until a refusal tells another, the allowance is not below 1,024.
    """
    estimator = taught(PromptSize(100, None), 100, 3_000)
    at_once = [estimator.price(PromptSize(100, None)).completion]
    for _ in range(200):
        estimator.learn(PromptSize(100, None), 100, 2_000)
        at_once.append(estimator.price(PromptSize(100, None)).completion)

    assert [3_000] * 20 == at_once[:20]
    assert 2_000 == at_once[20] == at_once[-1]


def test_the_usual_output_is_what_a_twentieth_of_the_last_two_hundred_answers_reach() -> None:
    estimator = taught(PromptSize(100, None), 100, 2_000, 300)
    allowances = []
    for _ in range(11):
        estimator.learn(PromptSize(100, None), 100, 9_000)
        allowances.append(estimator.price(PromptSize(100, None)).completion)

    assert [2_000] * 9 + [9_000] * 2 == allowances


def test_an_answer_of_no_prompt_or_no_completion_teaches_the_other_alone() -> None:
    backlog = backlog_of([PromptSize(100, 100), PromptSize(0, None)])

    no_prompt, no_completion = taught(PromptSize(100, 100), 0, 25), taught(PromptSize(100, 100), 25, 0)

    assert TokenCost(75, 25 + 1_024) == no_prompt.expect(backlog, refunds_unused=True)
    assert TokenCost(25, 0 + 1_024) == no_completion.expect(backlog, refunds_unused=True)


def test_a_prompt_of_one_token_teaches_as_any_other() -> None:
    assert 2 == taught(PromptSize(1_000, 5), 1, 5).price(PromptSize(1_000, 5)).prompt


def test_a_cap_of_nothing_teaches_no_share() -> None:
    estimator = taught(PromptSize(100, 0), 50, 0)

    assert TokenCost(50, 100) == estimator.expect(backlog_of([PromptSize(100, 100)]), refunds_unused=True)


def test_a_mean_is_of_all_answers_up_to_twenty_and_then_forgets_a_twentieth_with_each() -> None:
    estimator = Estimator()
    means = []
    for completion in (*range(1_000, 21_000, 1_000), 30_500):
        estimator.learn(PromptSize(100, None), 75, completion)
        means.append(estimator.expect(backlog_of([PromptSize(0, None)]), refunds_unused=True).completion)

    assert [1_000, 1_500, 2_000] == means[:3]
    assert 10_500 == means[19]
    assert 10_500 + 20_000 // 20 == means[20]


def test_the_margin_above_the_worst_ratio_shrinks_with_each_answer_of_its_size() -> None:
    """
    A third after one answer, a quarter after two, a fifth after three.
    """
    prices = [
        taught(PromptSize(1_000, 10), 600, 5, times).price(PromptSize(1_000, 10)).prompt for times in (1, 2, 3, 58)
    ]

    assert [800, 750, 720, 610] == prices


def test_prompts_are_as_long_as_each_other_if_neither_is_twice_the_other() -> None:
    estimator = taught(PromptSize(512, 10), 1_024, 5, 98)

    prices = [estimator.price(PromptSize(base, 10)).prompt for base in (511, 512, 1_023, 1_024)]

    assert [511, -(-512 * 202 // 100), -(-1_023 * 202 // 100), 1_024] == prices


@pytest.mark.parametrize("answers", [63, 64, 65, 127])
def test_a_bad_ratio_is_remembered_for_one_window_and_forgotten_with_the_second(answers: int) -> None:
    """
    The first of a window of 64 is remembered until the end of the next.
    """
    estimator = taught(PromptSize(1_000, 10), 3_000, 5)
    for _ in range(answers):
        estimator.learn(PromptSize(1_000, 10), 500, 5)
    remembered = estimator.price(PromptSize(1_000, 10)).prompt
    for _ in range(128 - answers):
        estimator.learn(PromptSize(1_000, 10), 500, 5)

    assert 3_000 < remembered
    assert 500 < estimator.price(PromptSize(1_000, 10)).prompt < 510


def test_a_price_is_one_token_at_least() -> None:
    assert [TokenCost(1, 5), TokenCost(1, 5), TokenCost(2, 5)] == [
        Estimator().price(PromptSize(base, 5)) for base in (0, 1, 2)
    ]
    assert TokenCost(0, 0, 9) == Estimator().price(PromptSize(0, None, 9, is_exact=True))


# -- many at once


def test_a_backlog_counts_a_size_as_often_as_it_is_told() -> None:
    backlog = (
        Backlog()
        .plus(PromptSize(100, 10, 2), 3)
        .plus(PromptSize(7, None, 1, is_exact=True), 2)
        .plus(PromptSize(5, None))
    )

    assert Backlog(requests=6, base=305, exact=14, capped=30, uncapped=3, audio_s=8) == backlog


def test_expected_cost_keeps_the_seconds_of_audio() -> None:
    assert TokenCost(300, 0, 60) == Estimator().expect(
        backlog_of([PromptSize(300, 0, 60, is_exact=True)]), refunds_unused=False
    )


@pytest.mark.parametrize(
    ("fraction", "value"), [(0.0, 1), (0.24, 1), (0.25, 3), (0.5, 5), (0.75, 9), (0.99, 9), (1.0, 9)]
)
def test_a_quantile_of_four_values_is_the_one_at_its_quarter(fraction: float, value: int) -> None:
    assert value == quantile([9, 1, 5, 3], fraction)


def test_a_cost_without_a_completion_is_of_its_prompt_alone() -> None:
    assert (20, 0, 0, 20) == (*TokenCost(20), TokenCost(20).tokens)
    assert TokenCost(1, 2, 3) == cost_of((1, 2, 3))
    assert isinstance(cost_of((1, 2, 3)), TokenCost)

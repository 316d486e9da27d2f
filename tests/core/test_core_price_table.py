"""What tokens cost, and a purse that is never overdrawn."""

from __future__ import annotations

import pytest

from groq_queue.core.price_table import PRICES, PriceTable, SpendCap
from groq_queue.core.token_estimate import TokenCost
from groq_queue.errors import ConfigurationError


def test_a_price_is_exact_to_the_picodollar():
    assert 10 * 50_000 + 3 * 80_000 == PriceTable().price("llama-3.1-8b-instant", TokenCost(10, 3))


def test_an_unknown_model_has_no_price_and_not_a_price_of_zero():
    assert PriceTable().price("mystery", TokenCost(10, 3)) is None


def test_own_prices_override_and_extend_the_table():
    price_table = PriceTable({"mystery": (1, 2), "llama-3.1-8b-instant": (0, 0)})

    assert 10 * 1_000_000 + 3 * 2_000_000 == price_table.price("mystery", TokenCost(10, 3))
    assert 0 == price_table.price("llama-3.1-8b-instant", TokenCost(10, 3))
    assert set(PRICES) <= set(price_table._per_token)


@pytest.mark.parametrize("pair", [(1,), (1, 2, 3), 5, ("a", "b"), (-1, 0), (float("nan"), 1), (float("inf"), 1), None])
def test_a_price_is_a_pair_of_numbers(pair):
    with pytest.raises(ConfigurationError, match=r"prices\['m'\]"):
        PriceTable({"m": pair})


def test_a_purse_holds_its_cap_and_not_a_picodollar_more():
    spend_cap = SpendCap(0.01)

    assert spend_cap.reserve(10**10)
    assert not spend_cap.reserve(1)
    spend_cap.settle(10**10, 4 * 10**9)
    assert spend_cap.reserve(6 * 10**9)
    assert not spend_cap.can_ever_hold(6 * 10**9 + 1)
    assert 0.004 == spend_cap.spent_usd


def test_a_real_cost_above_its_reservation_is_counted_in_full():
    spend_cap = SpendCap(0.01)
    spend_cap.reserve(10**9)

    spend_cap.settle(10**9, 2 * 10**10)

    assert 0.02 == spend_cap.spent_usd
    assert not spend_cap.reserve(1)


def test_a_purse_without_a_cap_only_counts():
    spend_cap = SpendCap(None)

    assert spend_cap.reserve(10**18)
    assert not spend_cap.is_capped
    assert spend_cap.can_ever_hold(10**30)
    assert SpendCap(0.01).is_capped


PUBLISHED = {
    "llama-3.1-8b-instant": (0.05, 0.08),
    "llama-3.3-70b-versatile": (0.59, 0.79),
    "openai/gpt-oss-120b": (0.15, 0.60),
    "openai/gpt-oss-20b": (0.075, 0.30),
    "openai/gpt-oss-safeguard-20b": (0.075, 0.30),
    "meta-llama/llama-4-scout-17b-16e-instruct": (0.11, 0.34),
    "meta-llama/llama-4-maverick-17b-128e-instruct": (0.20, 0.60),
    "moonshotai/kimi-k2-instruct-0905": (1.00, 3.00),
    "qwen/qwen3-32b": (0.29, 0.59),
}  # USD per million prompt and completion tokens, https://groq.com/pricing as quoted in 2026-06


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_million_tokens_cost_what_was_published(model):
    price_table, prices = PriceTable(), PUBLISHED[model]

    told = price_table.price(model, TokenCost(10**6, 0)), price_table.price(model, TokenCost(0, 10**6))

    assert PUBLISHED.keys() == PRICES.keys()
    assert tuple(round(price * 1_000_000) * 10**6 for price in prices) == told


def test_audio_has_no_price_beside_its_tokens():
    assert 0 == PriceTable({"m": (1, 2)}).price("m", TokenCost(0, 0, 500))


def test_a_price_may_be_zero_for_one_kind_of_token():
    price_table = PriceTable({"in": (0, 2), "out": [3, 0]})

    assert [0, 2_000_000, 3_000_000, 0] == [
        price_table.price("in", TokenCost(1)),
        price_table.price("in", TokenCost(0, 1)),
        price_table.price("out", TokenCost(1)),
        price_table.price("out", TokenCost(0, 1)),
    ]


@pytest.mark.parametrize(
    "pair", [(1, -0.001), (-0.001, 1), (-2, -2), "12", {1, 2}, (True, 1), (1, False), ("1", 2), [1]]
)
def test_a_pair_that_only_looks_like_prices_is_refused_with_the_cure(pair):
    with pytest.raises(ConfigurationError) as caught:
        PriceTable({"m": pair})

    assert str(caught.value) == (
        f"prices['m']={pair!r}: use a pair of numbers >= 0, USD per million prompt and completion tokens"
    )


@pytest.mark.parametrize("prices", [5, "m", [("m", (1, 2))], {("m", 1, 2)}])
def test_prices_are_a_mapping(prices):
    with pytest.raises(ConfigurationError) as caught:
        PriceTable(prices)

    assert f"prices={prices!r}: use {{model: (prompt, completion)}}, USD per million tokens" == str(caught.value)


@pytest.mark.parametrize("model", [5, None, ("m",)])
def test_a_model_is_named_by_a_str(model):
    with pytest.raises(ConfigurationError) as caught:
        PriceTable({model: (1, 2)})

    assert f"prices[{model!r}]: use the name of a model, a str" == str(caught.value)


def test_a_long_name_of_a_model_is_cut_in_what_is_told():
    with pytest.raises(ConfigurationError) as caught:
        PriceTable({"m" * 400: 5})

    assert str(caught.value).startswith(f"prices['{'m' * 49}…]=5: use a pair")


def test_what_is_reserved_and_what_is_spent_both_count_against_the_cap():
    spend_cap = SpendCap(0.000_000_000_010)

    assert [True, True, False, True, False] == [spend_cap.reserve(amount) for amount in (4, 3, 4, 3, 1)]
    spend_cap.settle(4, 1)
    spend_cap.settle(3, 3)
    assert (4, 3) == (spend_cap.spent, spend_cap.reserved)
    assert [False, True, False] == [spend_cap.reserve(amount) for amount in (4, 3, 1)]


def test_what_may_ever_fit_is_judged_by_what_is_spent_and_not_by_what_is_reserved():
    spend_cap = SpendCap(0.000_000_000_010)
    spend_cap.reserve(10)

    assert spend_cap.can_ever_hold(10)
    spend_cap.settle(10, 4)
    assert spend_cap.can_ever_hold(6)
    assert not spend_cap.can_ever_hold(7)


def test_a_purse_that_takes_over_counts_as_spent_whatever_the_other_may_still_be_charged():
    before, after = SpendCap(0.000_000_000_010), SpendCap(0.000_000_000_010)
    before.reserve(7)
    before.settle(4, 2)

    after.inherit(before)

    assert (2 + 3, 0) == (after.spent, after.reserved)
    assert not after.reserve(6)
    assert after.reserve(5)


def test_a_fresh_purse_has_spent_nothing():
    assert (0, 0, 0.0) == (SpendCap(1).spent, SpendCap(1).reserved, SpendCap(1).spent_usd)

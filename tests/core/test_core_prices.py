"""What tokens cost, and a purse that is never overdrawn."""

from __future__ import annotations

import pytest

from groq_queue.core.prices import PRICES, Purse, Tariff
from groq_queue.core.pricing import Cost
from groq_queue.errors import ConfigurationError


def test_a_price_is_exact_to_the_picodollar():
    assert 10 * 50_000 + 3 * 80_000 == Tariff().price("llama-3.1-8b-instant", Cost(10, 3))


def test_an_unknown_model_has_no_price_and_not_a_price_of_zero():
    assert Tariff().price("mystery", Cost(10, 3)) is None


def test_own_prices_override_and_extend_the_table():
    tariff = Tariff({"mystery": (1, 2), "llama-3.1-8b-instant": (0, 0)})

    assert 10 * 1_000_000 + 3 * 2_000_000 == tariff.price("mystery", Cost(10, 3))
    assert 0 == tariff.price("llama-3.1-8b-instant", Cost(10, 3))
    assert set(PRICES) <= set(tariff._per_token)


@pytest.mark.parametrize("pair", [(1,), (1, 2, 3), 5, ("a", "b"), (-1, 0), (float("nan"), 1), (float("inf"), 1), None])
def test_a_price_is_a_pair_of_numbers(pair):
    with pytest.raises(ConfigurationError, match=r"prices\['m'\]"):
        Tariff({"m": pair})


def test_a_purse_holds_its_cap_and_not_a_picodollar_more():
    purse = Purse(0.01)

    assert purse.reserve(10**10)
    assert not purse.reserve(1)
    purse.settle(10**10, 4 * 10**9)
    assert purse.reserve(6 * 10**9)
    assert not purse.can_ever_hold(6 * 10**9 + 1)
    assert 0.004 == purse.spent_usd


def test_a_real_cost_above_its_reservation_is_counted_in_full():
    purse = Purse(0.01)
    purse.reserve(10**9)

    purse.settle(10**9, 2 * 10**10)

    assert 0.02 == purse.spent_usd
    assert not purse.reserve(1)


def test_a_purse_without_a_cap_only_counts():
    purse = Purse(None)

    assert purse.reserve(10**18)
    assert not purse.is_capped

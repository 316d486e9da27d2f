"""Laws of a bucket and of a budget that hold for every limit, period, cost and history."""

from __future__ import annotations

from extras import needs

from groq_queue.core.bucket import Bucket
from groq_queue.core.budget import Budget, Lease
from groq_queue.core.limits import Limits
from groq_queue.core.token_estimate import TokenCost

needs("hypothesis", is_module=True)

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

limits = st.integers(1, 10**7)
periods = st.sampled_from([0.001, 0.7, 1, 7, 60, 3_600, 86_400])
instants = st.integers(0, 10**18)
shares = st.floats(0, 1)
histories = st.lists(
    st.tuples(
        st.sampled_from(["hold", "settle", "refund", "resize", "at most", "at least"]),
        shares,
        shares,
        st.integers(0, 10**11),
    ),
    max_size=25,
)


def lived_through(limit: int, period_s: float, now_ns: int, history: list[tuple[str, float, float, int]]) -> Bucket:
    """Return a bucket after *history*, and leave its open leases open."""
    bucket = Bucket(limit, period_s)
    open_leases: list[int] = []
    for act, one, two, after_ns in history:
        now_ns += after_ns
        if act == "hold":
            open_leases.append(round(one * bucket.limit))
            bucket.hold(open_leases[-1])
        elif act == "resize":
            bucket.resize(max(1, round(one * 10**7)), now_ns)
        elif act == "at most":
            bucket.at_most(round(one * bucket.limit), now_ns)
        elif act == "at least":
            bucket.at_least(round(one * bucket.limit), round(two * 10**10), now_ns)
        elif open_leases:
            cost = open_leases.pop(int(two * 0.999 * len(open_leases)))
            if act == "settle":
                bucket.settle(cost, round(one * cost), round(two * 2 * cost), now_ns)
            else:
                bucket.refund(cost)
    return bucket


@settings(max_examples=300, deadline=None)
@given(limit=limits, period_s=periods, now_ns=instants, history=histories, share=shares, refunds_unused=st.booleans())
def test_for_every_history_a_quoted_wait_is_enough_and_one_nanosecond_less_is_not(
    limit: int,
    period_s: float,
    now_ns: int,
    history: list[tuple[str, float, float, int]],
    share: float,
    refunds_unused: bool,
) -> None:
    bucket = lived_through(limit, period_s, now_ns, history)
    now_ns += sum(after_ns for *_, after_ns in history)
    cost = round(share * bucket.limit)

    wait_ns = bucket.wait_ns(cost, now_ns, refunds_unused=refunds_unused)

    if wait_ns is None:
        assert bucket.held + cost > bucket.limit
        assert bucket.wait_ns(cost, now_ns + 10**20, refunds_unused=refunds_unused) is None
    else:
        assert 0 == bucket.wait_ns(cost, now_ns + wait_ns, refunds_unused=refunds_unused)
        assert wait_ns == 0 or bucket.wait_ns(cost, now_ns + wait_ns - 1, refunds_unused=refunds_unused) == 1


@settings(max_examples=200, deadline=None)
@given(limit=limits, period_s=periods, now_ns=instants, history=histories)
def test_for_every_history_what_was_leased_is_settled_refunded_or_held(
    limit: int, period_s: float, now_ns: int, history: list[tuple[str, float, float, int]]
) -> None:
    bucket = lived_through(limit, period_s, now_ns, history)

    assert bucket.leased == bucket.settled + bucket.refunded + bucket.held
    assert 0 <= bucket.held


@settings(max_examples=150, deadline=None)
@given(limit=limits, period_s=periods, now_ns=instants, used=st.integers(0, 3 * 10**7), ahead_ns=st.integers(0, 10**14))
def test_a_settled_debt_drains_to_the_unit_and_is_shown_rounded_up(
    limit: int, period_s: float, now_ns: int, used: int, ahead_ns: int
) -> None:
    bucket = Bucket(limit, period_s)
    bucket.hold(1)
    bucket.settle(1, 0, used, now_ns)

    left = used * bucket.period_ns - ahead_ns * limit  # in units times period_ns, exactly

    assert max(0, -(-left // bucket.period_ns)) == bucket.used(now_ns + ahead_ns)


@settings(max_examples=150, deadline=None)
@given(limit=limits, other=limits, period_s=periods, now_ns=instants, history=histories)
def test_resizing_keeps_the_units_of_both_levels(
    limit: int, other: int, period_s: float, now_ns: int, history: list[tuple[str, float, float, int]]
) -> None:
    bucket = lived_through(limit, period_s, now_ns, history)
    now_ns += sum(after_ns for *_, after_ns in history)
    before = bucket.used(now_ns), bucket.used(now_ns, refunds_unused=True)

    bucket.resize(other, now_ns)

    assert before == (bucket.used(now_ns), bucket.used(now_ns, refunds_unused=True))


@settings(max_examples=150, deadline=None)
@given(
    moves=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from("lsrd"), st.integers(0, 9)), max_size=60
    )
)
def test_a_budgets_books_always_balance(moves: list[tuple[int, int, str, int]]) -> None:
    """
    Random leases, settlements above and below the price, refunds, and second ends of what has ended.
    """
    budget = Budget(Limits(rpm=7, rpd=500, tpm=300, tpd=9_000, itpm=200, otpm=150, audio_hour=10, audio_day=100))
    leases: list[Lease] = []
    now_ns = 0
    for prompt, completion, act, which in moves:
        now_ns += completion * 10**8
        if act == "l":
            granted = budget.lease(TokenCost(prompt, completion, prompt % 3), now_ns)
            if isinstance(granted, Lease):
                leases.append(granted)
        elif leases:
            lease = leases[which % len(leases)]
            if act == "r":
                budget.refund(lease)
            else:
                budget.settle(lease, TokenCost(prompt, completion), TokenCost(prompt, 0), now_ns)

        ledger = budget.accounting()
        still_open = [lease for lease in leases if lease.is_open]
        assert 8 == len(ledger)
        for dimension, (leased, settled, refunded, held) in ledger.items():
            assert leased == settled + refunded + held
            assert held == sum(lease.cost.units(dimension) for lease in still_open)

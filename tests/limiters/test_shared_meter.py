"""A meter that shares: what it asks the store and when, what it gives back, and what it does without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from organisation import Organisation
from stores import SqliteStore

from groq_queue.clock import NS_PER_S
from groq_queue.core.budget import Blocked, Lease
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import Limits
from groq_queue.core.priority import LeaseApplicant
from groq_queue.core.token_estimate import Backlog, PromptSize
from groq_queue.engine.lane import Lane
from groq_queue.errors import LimiterUnavailable

TPM = Limits(tpm=1_000)
LANE = "https://api org m"


def exact(tokens: int) -> PromptSize:
    return PromptSize(tokens, 0, is_exact=True)


class Watched:
    """A store whose calls are counted, and fail while it is ``down``; ``loses`` a reply after it was done."""

    def __init__(self, budgets: Any) -> None:
        self._store = budgets
        self.calls: Counter[str] = Counter()
        self.down = False
        self.loses = 0

    def __getattr__(self, name: str) -> Any:
        known = getattr(self._store, name)
        if not callable(known):
            return known

        def call(*args: Any) -> Any:
            self.calls[name] += 1
            if self.down and name != "close":
                raise LimiterUnavailable("away", address="x")
            reply = known(*args)
            if self.loses:
                self.loses -= 1
                raise LimiterUnavailable("the reply was lost", address="x")
            return reply

        return call


@pytest.fixture
def org(tmp_path: Path) -> Iterator[Organisation]:
    store = SqliteStore(tmp_path)
    organisation = Organisation(store)
    yield organisation
    organisation.close()
    store.close()


@pytest.fixture
def watched(org: Organisation) -> Callable[..., tuple[Any, Watched]]:
    def make(limits: Any = TPM, **options: Any) -> tuple[Any, Watched]:
        processes: list[Watched] = []

        def wrap(budgets: Any) -> Watched:
            processes.append(Watched(budgets))
            return processes[-1]

        return org.process(limits, wrap=wrap, **options), processes[0]

    return make


def leased(org: Organisation, meter: Any, tokens: int = 100, **turn: Any) -> Lease:
    granted = org.ask(meter, exact(tokens), **turn)
    assert isinstance(granted, Lease), granted
    return granted


def waiting(org: Organisation) -> int:
    db = org.store._alive[0]._db
    return int(db.execute("SELECT count(*) FROM waiters").fetchone()[0])


def held(org: Organisation) -> int:
    """Return the tokens that the store holds or counts."""
    levels = org.store._alive[0].status(LANE).levels
    return levels[0].used if levels else 0


# -- asking


def test_nothing_is_asked_of_the_store_under_the_engines_lock(org: Organisation, watched: Any) -> None:
    meter, budgets = watched()

    meter.price(exact(5))
    meter.too_large(exact(5))
    first = meter.lease(exact(100), org.now_ns(), LeaseApplicant("r"))
    meter.blocks(exact(5), org.now_ns())
    meter.levels(org.now_ns())
    meter.forecast(Backlog(), exact(5), 0, org.now_ns())
    meter.withdraw()

    assert Blocked("asking", None) == first
    assert Counter() == budgets.calls


def test_what_is_granted_is_told_to_those_who_wait(org: Organisation) -> None:
    meter, heard = org.process(TPM), []
    meter.subscribe(lambda: heard.append(meter.lease(exact(100), org.now_ns(), LeaseApplicant("r"))))

    meter.lease(exact(100), org.now_ns(), LeaseApplicant("r"))
    org.pump()

    assert [Lease] == [type(each) for each in heard]


def test_a_more_urgent_head_takes_the_place_of_the_claim(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    leased(org, one, 1_000)
    org.ask(two, exact(500), request_id="low", priority=8)
    org.ask(two, exact(500), request_id="high", priority=1)

    rows = org.store._alive[0]._db.execute("SELECT priority FROM waiters").fetchall()

    assert [(1,)] == rows


def test_asking_again_for_the_same_head_keeps_its_place(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    leased(org, one, 1_000)
    for _ in range(5):
        org.ask(two, exact(500), request_id="same")

    org.ask(two, exact(495), request_id="same")
    kept = org.store._alive[0]._db.execute("SELECT count(*), max(arrival) FROM waiters").fetchone()
    org.ask(two, exact(300), request_id="same")
    replaced = org.store._alive[0]._db.execute("SELECT count(*), max(arrival) FROM waiters").fetchone()

    assert (1, 1) == (kept[0], replaced[0])
    assert kept[1] < replaced[1]


def test_a_lane_without_requests_stands_in_nobodys_way(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    lease = leased(org, one, 1_000)
    org.ask(two, exact(500), priority=0)
    before = waiting(org)

    two.withdraw()
    one.refund(lease)
    org.pump()

    assert (1, 0) == (before, waiting(org))
    leased(org, one, 1_000, priority=10)


def test_while_our_own_side_is_blocked_we_leave_the_line(org: Organisation) -> None:
    """
    After a server's refusal nothing of ours can be sent; a claim in line would keep others from what is free.
    """
    one, two = org.process(TPM), org.process(TPM)
    leased(org, one, 1_000)
    org.ask(two, exact(500))
    two.refused(Lease(two.price(exact(1)), org.now_ns(), {}), exact(1), None, 60 * NS_PER_S, org.now_ns())

    blocked = org.ask(two, exact(500))

    assert "hold" == blocked.reason
    assert 0 == waiting(org)


def test_a_reservation_that_nobody_takes_goes_back(org: Organisation) -> None:
    """
    The engine's workers may all have found other work; half a second later the others have it.
    """
    one, two = org.process(TPM), org.process(TPM)
    heard: list[int] = []
    one.subscribe(lambda: heard.append(1))
    one.lease(exact(1_000), org.now_ns(), LeaseApplicant("r"))
    org.pump()
    before = held(org)

    org.advance(0.6)

    assert (1_000, 0) == (before, held(org))
    assert 2 == len(heard)  # once for the grant, once because it is gone
    leased(org, two, 1_000)


def test_a_reservation_that_came_too_late_is_not_used(org: Organisation) -> None:
    """
    This process may have been suspended, and be taken for dead: its reservation may be charged and drain already.
    """
    meter = org.process(TPM)
    meter.lease(exact(500), org.now_ns(), LeaseApplicant("r"))
    org.pump()
    org.store.clock.advance(0.6)

    assert isinstance(meter.lease(exact(500), org.now_ns(), LeaseApplicant("r")), Blocked)


def test_what_is_granted_to_a_claim_that_was_given_up_goes_back(org: Organisation) -> None:
    """
    1. The reservation client takes the claim to the store.
    2. Meanwhile its request is cancelled, and the lane is empty.
    3. The store grants it.
    """
    meter = org.process(TPM)
    meter.lease(exact(500), org.now_ns(), LeaseApplicant("r"))
    claim, limits = meter.pending_claim()
    meter.withdraw()
    reply = org.store._alive[0].reserve(claim, limits)

    meter.deliver(claim, reply, org.now_ns())
    between = held(org)
    org.pump()

    assert (500, 0) == (between, held(org))
    assert isinstance(meter.lease(exact(500), org.now_ns(), LeaseApplicant("next")), Blocked)


def test_credit_that_one_process_has_proven_is_believed_by_all(org: Organisation) -> None:
    """
    The other one's own answers bring no headers; with a strict level of its own it would stand still.
    """
    one, two = org.process(TPM), org.process(TPM)
    size = PromptSize(0, 200, is_exact=True)
    for number in range(5):
        lease = org.ask(one, size, request_id=str(number))
        org.settle(one, lease, (0, 1, 0), [RateHeader("TPM", 1_000, 999 - number)], size)
    assert org.store._alive[0].status(LANE).refunds_unused

    for number in range(20):
        lease = org.ask(two, size, request_id=str(number))
        assert isinstance(lease, Lease), number
        org.settle(two, lease, (0, 1, 0), size=size)
        org.advance(1 if number == 0 else 0)


def test_a_reservation_serves_the_next_head_if_it_fits(org: Organisation) -> None:
    meter = org.process(TPM)
    meter.lease(exact(500), org.now_ns(), LeaseApplicant("gone"))
    org.pump()

    assert isinstance(meter.lease(exact(400), org.now_ns(), LeaseApplicant("next")), Lease)


def test_a_reservation_that_is_too_small_is_given_back_for_one_that_fits(org: Organisation) -> None:
    meter = org.process(TPM)
    meter.lease(exact(500), org.now_ns(), LeaseApplicant("gone"))
    org.pump()

    assert isinstance(org.ask(meter, exact(900), request_id="next"), Lease)
    assert 900 == held(org)


def test_a_spent_day_is_told_to_the_engine_with_its_wait(org: Organisation) -> None:
    limits = Limits(rpd=1)
    one, two = org.process(limits), org.process(limits)
    org.settle(one, leased(org, one), (100, 0, 0), size=exact(100))

    blocked = org.ask(two, exact(100))

    assert isinstance(blocked, Blocked)
    assert ("limit", "RPD", 86_400 * NS_PER_S, 1, 1) == (
        blocked.reason,
        blocked.dimension,
        blocked.wait_ns,
        blocked.used,
        blocked.limit,
    )


# -- how often


def test_a_waiting_process_looks_at_most_twenty_times_a_second(org: Organisation, watched: Any) -> None:
    one = org.process(TPM)
    two, budgets = watched()
    leased(org, one, 1_000)
    org.ask(two, exact(500))
    budgets.calls.clear()

    org.advance(10)

    assert 100 < budgets.calls["has_changed"] <= 200
    assert budgets.calls["reserve"] <= 12
    assert budgets.calls["heartbeat"] <= 15


def test_a_long_wait_is_looked_at_less_often(org: Organisation, watched: Any) -> None:
    limits = Limits(rpd=10)
    one = org.process(limits)
    two, budgets = watched(limits)
    for _ in range(10):
        org.settle(one, leased(org, one), (100, 0, 0), size=exact(100))
    org.ask(two, exact(500))
    budgets.calls.clear()

    org.advance(10)

    assert budgets.calls["has_changed"] <= 11
    assert 0 == budgets.calls["reserve"]


def test_an_idle_process_does_nothing_at_all(org: Organisation, watched: Any) -> None:
    meter, budgets = watched()
    org.settle(meter, leased(org, meter), (100, 0, 0), size=exact(100))
    org.advance(2)
    budgets.calls.clear()

    org.advance(3_600)

    assert Counter() == budgets.calls
    assert [None] == [desk.due_ns for desk in org.desks]


def test_freed_budget_is_taken_within_a_look(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    lease = leased(org, one, 1_000)
    org.ask(two, exact(500))
    one.refund(lease)

    org.advance(0.05)

    assert isinstance(two.lease(exact(500), org.now_ns(), LeaseApplicant("r")), Lease)


# -- what is shown


def test_levels_are_everybodys(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    leased(org, one, 300)
    leased(org, two, 200)
    org.advance(1)

    assert all(490 <= meter.levels(org.now_ns())[0].used <= 500 for meter in (one, two))
    assert {"m": two.levels(org.now_ns())} == org.limiters[1].levels(org.now_ns())


def test_the_forecast_knows_what_others_use(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    org.settle(one, leased(org, one, 1_000), (1_000, 0, 0), size=exact(1_000))
    org.ask(two, exact(100))
    org.advance(1)

    assert 3 * NS_PER_S < two.forecast(Backlog(), exact(100), 0, org.now_ns()) <= 6 * NS_PER_S


@pytest.mark.parametrize("is_told", ["in the answer to its claim", "with the state of the lane"])
def test_a_wait_that_the_server_set_for_another_process_is_foretold(org: Organisation, is_told: str) -> None:
    """
    The first process was told it. The second learns of it as soon as it asks, or while it waits already.
    """
    one, two = org.process(TPM), org.process(TPM)
    lease = leased(org, one, 10)
    if is_told == "with the state of the lane":
        org.settle(one, leased(org, one, 990), (990, 0, 0), size=exact(990))
        org.ask(two, exact(100))
    one.refused(lease, exact(10), None, 30 * NS_PER_S, org.now_ns())
    org.pump()
    org.ask(two, exact(100))
    org.advance(1.5)

    blocked = two.blocks(exact(100), org.now_ns())

    assert 28 * NS_PER_S < two.forecast(Backlog(), exact(100), 0, org.now_ns()) <= 30 * NS_PER_S
    assert blocked is not None
    assert blocked.wait_ns is not None
    assert ("hold", True) == (blocked.reason, 28 * NS_PER_S < blocked.wait_ns <= 30 * NS_PER_S)


def test_a_process_that_waits_says_for_what(org: Organisation) -> None:
    one, two, three = (org.process(TPM) for _ in range(3))
    org.settle(one, leased(org, one, 1_000), (1_000, 0, 0), size=exact(1_000))
    org.ask(two, exact(100), priority=1)
    org.ask(three, exact(100))

    limit, behind = (meter.blocks(exact(100), org.now_ns()) for meter in (two, three))

    assert "tokens per minute, 1,000 of 1,000 used" == str(limit)
    assert "requests that go first" == str(behind)


# -- the store is away


def test_no_end_of_a_lease_is_lost(org: Organisation, watched: Any) -> None:
    meter, budgets = watched()
    lease = leased(org, meter, 600)
    budgets.down = True
    meter.settle(lease, exact(600), (600, 0, 0), None, org.now_ns())
    org.advance(5)
    during = held(org)
    budgets.down = False
    org.advance(2)

    assert 600 == during  # still open there
    assert 450 < held(org) < 600  # it drains since


def test_an_end_that_breaks_holds_up_no_other(
    org: Organisation, watched: Any, caplog: pytest.LogCaptureFixture
) -> None:
    meter, _ = watched()
    lease = leased(org, meter, 600)

    def broken(budgets: Any) -> None:
        raise ZeroDivisionError

    org.desks[0].client.send([broken])
    meter.refund(lease)
    org.pump()

    assert 0 == held(org)
    assert "the outcome of a request could not be reported" in caplog.text


def test_a_lost_reply_reserves_nothing_twice(org: Organisation, watched: Any) -> None:
    meter, budgets = watched()
    budgets.loses = 1
    meter.lease(exact(600), org.now_ns(), LeaseApplicant("r"))
    org.pump()
    org.advance(1)

    assert isinstance(org.ask(meter, exact(600)), Lease)
    assert 600 == held(org)
    assert 2 <= budgets.calls["reserve"]


def go_down(org: Organisation, budgets: Watched, meter: Any) -> None:
    budgets.down = True
    meter.lease(exact(100), org.now_ns(), LeaseApplicant("while away"))
    org.advance(2)


def test_in_an_outage_requests_wait(org: Organisation, watched: Any, caplog: pytest.LogCaptureFixture) -> None:
    meter, budgets = watched(on_outage="wait")
    go_down(org, budgets, meter)

    blocked = meter.lease(exact(100), org.now_ns(), LeaseApplicant("while away"))
    budgets.down = False
    org.advance(2)
    afterwards = meter.lease(exact(100), org.now_ns(), LeaseApplicant("while away"))

    assert Blocked("outage", None) == blocked
    assert Blocked("asking", None) == afterwards
    assert isinstance(org.ask(meter, exact(100), request_id="while away"), Lease)
    assert "the shared budget cannot be reached" in caplog.text
    assert "can be reached again" in caplog.text


def test_in_an_outage_requests_fail_if_so_wished(org: Organisation, watched: Any) -> None:
    meter, budgets = watched(on_outage="raise")
    go_down(org, budgets, meter)

    error = meter.lease(exact(100), org.now_ns(), LeaseApplicant("while away"))
    meter.withdraw()
    org.advance(5)
    still = meter.lease(exact(100), org.now_ns(), LeaseApplicant("later"))
    meter.withdraw()
    budgets.down = False
    org.advance(2)

    assert isinstance(error, LimiterUnavailable)
    assert isinstance(still, LimiterUnavailable)
    assert isinstance(org.ask(meter, exact(100)), Lease)


def test_in_an_outage_each_process_goes_by_its_share(org: Organisation, watched: Any) -> None:
    """
    Two processes were known, the budget was 400 of 1,000 full: each counts 200 of 500.
    """
    other = org.process(TPM)
    meter, budgets = watched(on_outage="local_share")
    mine, others = leased(org, meter, 100), leased(org, other, 300)
    org.advance(1)
    org.settle(meter, mine, (100, 0, 0), size=exact(100))
    org.settle(other, others, (300, 0, 0), size=exact(300))
    org.advance(0.1)
    meter._status = budgets._store.status(LANE)
    meter._status_ns = org.now_ns()
    go_down(org, budgets, meter)

    too_much = meter.lease(exact(350), org.now_ns(), LeaseApplicant("a"))
    fits = meter.lease(exact(280), org.now_ns(), LeaseApplicant("b"))
    too_much_for_a_share = meter.lease(exact(900), org.now_ns(), LeaseApplicant("c"))
    never_too_large = meter.too_large(exact(900))
    meter.refund(fits)
    budgets.down = False
    org.advance(2)

    assert isinstance(too_much, Blocked)
    assert "limit" == too_much.reason
    assert isinstance(fits, Lease)
    assert Blocked("outage", None) == too_much_for_a_share
    assert never_too_large is None
    assert 1_000 == meter._budget.capacities()["TPM"][0]


def test_in_an_outage_who_never_heard_of_the_others_waits(org: Organisation, watched: Any) -> None:
    meter, budgets = watched(on_outage="local_share")

    go_down(org, budgets, meter)

    assert Blocked("outage", None) == meter.lease(exact(100), org.now_ns(), LeaseApplicant("r"))


def test_what_was_spent_in_an_outage_is_charged_afterwards(org: Organisation, watched: Any) -> None:
    meter, budgets = watched(on_outage="local_share")
    org.settle(meter, leased(org, meter, 10), (10, 0, 0), size=exact(10))
    go_down(org, budgets, meter)
    lease = meter.lease(exact(600), org.now_ns(), LeaseApplicant("a"))
    assert isinstance(lease, Lease)
    meter.settle(lease, exact(600), (600, 0, 0), None, org.now_ns())
    meter.withdraw()
    before = held(org)
    budgets.down = False
    org.advance(1.1)

    assert before <= 10
    assert 580 <= held(org) <= 610
    assert 1_000 == meter.levels(org.now_ns())[0].limit


def test_a_store_that_lost_everything_cannot_make_one_process_pass_the_limit(org: Organisation) -> None:
    meter = org.process(TPM)
    org.settle(meter, leased(org, meter, 900), (900, 0, 0), size=exact(900))
    org.store._alive[0]._db.execute("DELETE FROM lanes")

    assert isinstance(org.ask(meter, exact(500)), Blocked)


# -- what the server says


def test_a_refusals_figures_reach_everybody(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    lease = leased(org, one, 10)
    one.refused(lease, exact(10), Refusal(False, "TPM", 1_000, 990, 100, NS_PER_S), NS_PER_S, org.now_ns())
    org.pump()
    org.advance(1.1)

    blocked = org.ask(two, exact(500))
    told = two.blocks(exact(500), org.now_ns())

    assert isinstance(blocked, Blocked)
    assert 20 * NS_PER_S < told.wait_ns <= 30 * NS_PER_S


def test_what_one_learns_of_a_limit_all_go_by(org: Organisation) -> None:
    one, two = org.process(None), org.process(None)
    org.settle(one, leased(org, one, 10), (10, 0, 0), [RateHeader("TPM", 1_000, 100)], exact(10))

    assert isinstance(org.ask(two, exact(500)), Blocked)


def test_a_margin_is_left_in_the_shared_budget_too(org: Organisation) -> None:
    one, two = org.process(TPM, margin=0.5), org.process(TPM, margin=0.5)
    leased(org, one, 300)

    assert isinstance(org.ask(two, exact(300)), Blocked)
    assert isinstance(org.ask(two, exact(200), request_id="smaller"), Lease)


def test_closing_gives_back_what_nobody_used_and_counts_what_is_open(org: Organisation) -> None:
    one, two = org.process(TPM), org.process(TPM)
    one.lease(exact(400), org.now_ns(), LeaseApplicant("r"))
    org.pump()

    org.limiters[0].close(org.now_ns())

    assert isinstance(org.ask(two, exact(1_000)), Lease)


def test_a_lane_that_is_cleared_stands_in_nobodys_way(org: Organisation) -> None:
    """
    As when a rejected key stops the queue, which stays open.
    """
    one, two = org.process(TPM), org.process(TPM)
    leased(org, one, 1_000)
    lane = Lane("m", "m", two, lambda lane: None)
    org.ask(two, exact(500))
    before = waiting(org)

    lane.clear()
    org.pump()

    assert (1, 0) == (before, waiting(org))


def test_having_nothing_to_ask_does_not_prove_that_the_store_is_back(org: Organisation, watched: Any) -> None:
    meter, budgets = watched(on_outage="raise")
    go_down(org, budgets, meter)
    with meter._lock:
        meter._claim = None  # without a word to the store

    org.advance(5)
    during = meter.lease(exact(100), org.now_ns(), LeaseApplicant("r"))
    budgets.down = False
    org.advance(2)

    assert isinstance(during, LimiterUnavailable)
    assert isinstance(org.ask(meter, exact(100)), Lease)

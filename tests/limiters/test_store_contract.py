"""What every store of shared budgets promises: one law, each claim counted once, nobody passed, nobody waited for."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from stores import Store
from waiting import wait_until

from groq_queue.clock import NS_PER_S
from groq_queue.core.budget import Blocked, TooLarge
from groq_queue.limiters.store import LEASE_S, BudgetStore, KnownLimits, ReservationRequest, Reserved, ServerLimit

MINUTE = 60 * NS_PER_S
DAY = 86_400 * NS_PER_S
LANE = "https://api org model"
TPM: KnownLimits = {"TPM": (6_000, MINUTE)}
STILL: KnownLimits = {"TPM": (6_000, DAY)}  # what drains while a test runs does not show
FOUR: KnownLimits = {"RPM": (10, MINUTE), "RPD": (1_000, DAY), "TPM": (6_000, MINUTE), "TPD": (100_000, DAY)}
_numbers = itertools.count(1)


def claim(budgets: BudgetStore, tokens: int = 100, **facts: Any) -> ReservationRequest:
    cost = {"RPM": 1, "RPD": 1, "TPM": tokens, "TPD": tokens}
    return ReservationRequest(f"{budgets.token}-{next(_numbers)}", facts.pop("lane", LANE), cost, **facts)


def ask(budgets: BudgetStore, tokens: int = 100, limits: KnownLimits = TPM, **facts: Any) -> Any:
    return budgets.reserve(claim(budgets, tokens, **facts), limits)


def granted(budgets: BudgetStore, tokens: int = 100, limits: KnownLimits = TPM, **facts: Any) -> ReservationRequest:
    asked = claim(budgets, tokens, **facts)
    assert Reserved(asked.id) == budgets.reserve(asked, limits)
    return asked


def settle(
    budgets: BudgetStore,
    asked: ReservationRequest,
    used: int | None = None,
    limits: KnownLimits = TPM,
    **seen: ServerLimit,
) -> None:
    """End a reservation whose request was charged in full, or used *used* tokens."""
    real = dict(asked.cost) if used is None else {**asked.cost, "TPM": used, "TPD": used}
    budgets.settle(asked.lane, asked.id, asked.cost, real, seen, limits)


def spend(budgets: BudgetStore, tokens: int, limits: KnownLimits = TPM, **facts: Any) -> None:
    settle(budgets, granted(budgets, tokens, limits, **facts), limits=limits)


def used(budgets: BudgetStore, dimension: str = "TPM") -> int:
    return {level.dimension: level.used for level in budgets.status(LANE).levels}.get(dimension, 0)


def assert_wait(store: Store, expected_s: float, blocked: Any) -> None:
    assert isinstance(blocked, Blocked), blocked
    assert blocked.wait_ns is not None
    assert round(expected_s * NS_PER_S) - store.slack_ns <= blocked.wait_ns <= round(expected_s * NS_PER_S)


# -- the law


@pytest.mark.parametrize(
    ("dimension", "limit", "period_ns", "in_use", "requested", "wait_s"),
    [
        ("TPD", 100_000, DAY, 97_050, 3_619, 578.016),
        ("TPM", 6_000, MINUTE, 5_914, 1_822, 17.36),
        ("TPM", 6_000, MINUTE, 3_513, 3_166, 6.79),
        ("TPD", 500_000, DAY, 500_370, 1_000, (500_370 + 1_000 - 500_000) * 86_400 / 500_000),
    ],
)
def test_the_wait_is_what_the_server_would_say(
    store: Store, dimension: str, limit: int, period_ns: int, in_use: int, requested: int, wait_s: float
) -> None:
    """
    Figures of real refusals: wait = (used + requested - limit) / (limit / period). Used may pass the limit.
    """
    budgets, limits = store.open(), {dimension: (limit, period_ns)}
    first = granted(budgets, min(in_use, limit), limits)
    settle(budgets, first, in_use, limits)

    blocked = ask(budgets, requested, limits)

    assert_wait(store, wait_s, blocked)
    assert ("limit", dimension, limit) == (blocked.reason, blocked.dimension, blocked.limit)


def test_a_told_wait_is_enough(store: Store) -> None:
    budgets = store.open()
    spend(budgets, 6_000)
    asked = claim(budgets, 150)

    blocked = budgets.reserve(asked, TPM)
    assert_wait(store, 1.5, blocked)
    store.advance(blocked.wait_ns / NS_PER_S)

    assert Reserved(asked.id) == budgets.reserve(asked, TPM)


def test_all_dimensions_are_taken_or_none(store: Store) -> None:
    """
    The request limit is spent; what is denied takes no token.
    """
    budgets, limits = store.open(), {**FOUR, "RPM": (1, MINUTE)}
    spend(budgets, 100, limits)

    denied = ask(budgets, 3_000, limits)

    assert isinstance(denied, Blocked)
    assert "RPM" == denied.dimension
    assert used(budgets, "TPM") <= 100  # a store of its own time has drained some
    assert (100, 1) == (used(budgets, "TPD"), used(budgets, "RPD"))


def test_denied_tries_burn_no_request(store: Store) -> None:
    budgets = store.open()
    spend(budgets, 6_000, FOUR)
    waiting = claim(budgets, 6_000)

    for _ in range(20):
        assert isinstance(budgets.reserve(waiting, FOUR), Blocked)

    assert (1, 1) == (used(budgets, "RPM"), used(budgets, "RPD"))


def test_a_reservation_does_not_drain_until_it_ends(store: Store) -> None:
    """
    Nobody knows when its request arrived, so no time can be told at which the next one fits.
    """
    budgets = store.open()
    held = granted(budgets, 4_000)
    store.advance(2)
    waiting = claim(budgets, 4_000)

    assert Blocked("limit", None, "TPM", 4_000, 6_000) == budgets.reserve(waiting, TPM)

    settle(budgets, held)
    assert_wait(store, 20, budgets.reserve(waiting, TPM))


def test_what_costs_more_than_the_limit_is_too_large(store: Store) -> None:
    budgets = store.open()

    assert TooLarge(6_001, 6_000, "TPM") == ask(budgets, 6_001)
    assert isinstance(ask(budgets, 6_000), Reserved)


def test_a_limit_of_which_it_takes_nothing_does_not_block(store: Store) -> None:
    budgets, limits = store.open(), {**TPM, "ASPH": (100, 3_600 * NS_PER_S)}
    budgets.charge(LANE, {"ASPH": 500}, limits)

    assert isinstance(ask(budgets, 100, limits), Reserved)


def test_lanes_have_budgets_of_their_own(store: Store) -> None:
    budgets = store.open()
    granted(budgets, 6_000, lane="one")

    assert isinstance(ask(budgets, 6_000, lane="other"), Reserved)


def test_what_one_process_took_another_cannot(store: Store) -> None:
    one, two = store.open(), store.open()
    granted(one, 4_000)

    assert isinstance(ask(two, 4_000), Blocked)
    assert isinstance(ask(two, 2_000), Blocked)  # behind the first, which is its own claim of equal rank
    assert [4_000, 4_000] == [used(one), used(two)]


def test_a_dimension_that_is_learnt_later_holds_what_is_open(store: Store) -> None:
    one, two = store.open(), store.open()
    granted(one, 500, limits={})
    granted(one, 700, limits={})

    spend(two, 100, STILL)

    assert 1_300 == used(one)
    assert isinstance(ask(one, 5_000, limits={}), Blocked)


def test_a_limit_that_changes_keeps_the_units_in_use(store: Store) -> None:
    budgets = store.open()
    spend(budgets, 6_000, STILL)

    blocked = ask(budgets, 100, {"TPM": (12_000, DAY)})

    assert isinstance(blocked, Reserved)
    assert 6_090 < used(budgets) <= 6_100


# -- every claim counts once


def test_a_claim_that_is_repeated_is_granted_once(store: Store) -> None:
    budgets = store.open()
    asked = granted(budgets, 1_000)

    again = budgets.reserve(asked, TPM)

    assert Reserved(asked.id) == again
    assert 1_000 == used(budgets)


def test_a_reservation_ends_once(store: Store) -> None:
    budgets = store.open()
    one, two = granted(budgets, 1_000), granted(budgets, 500)

    settle(budgets, one)
    settle(budgets, one)
    budgets.refund(LANE, one.id)
    budgets.refund(LANE, two.id)
    budgets.refund(LANE, two.id)
    settle(budgets, two)
    budgets.refund(LANE, "nobody-1")

    assert 0 <= 1_000 - used(budgets) <= store.slack_ns // 10_000_000


def test_a_refund_frees_at_once(store: Store) -> None:
    budgets = store.open()
    budgets.refund(LANE, granted(budgets, 6_000).id)

    assert isinstance(ask(budgets, 6_000), Reserved)


def test_real_use_may_pass_the_limit(store: Store) -> None:
    budgets = store.open()
    settle(budgets, granted(budgets, 6_000), used=9_000)

    assert_wait(store, 31, ask(budgets, 100))


# -- strict, until the server's headers disprove it


def test_unused_allowance_counts_until_the_server_is_seen_to_give_it_back(store: Store) -> None:
    budgets = store.open()
    settle(budgets, granted(budgets, 1_000), used=100)
    before = budgets.status(LANE).refunds_unused, used(budgets)

    for _ in range(4):
        asked = granted(budgets, 1_000)
        settle(budgets, asked, 100, TPM, TPM=ServerLimit(6_000, 5_900, lowers=True))

    assert not before[0]
    assert 900 < before[1] <= 1_000
    assert budgets.status(LANE).refunds_unused
    assert used(budgets) <= 500


def test_a_users_own_smaller_limit_is_not_loosened_by_headers(store: Store) -> None:
    budgets = store.open()

    for _ in range(4):
        settle(budgets, granted(budgets, 1_000), 100, TPM, TPM=ServerLimit(60_000, 59_900, lowers=False))

    assert not budgets.status(LANE).refunds_unused
    assert 3_900 <= used(budgets) <= 4_000


def test_headers_tell_what_others_spent(store: Store) -> None:
    budgets = store.open()
    settle(budgets, granted(budgets, 100), 100, TPM, TPM=ServerLimit(6_000, 1_000, lowers=True))

    assert 4_900 <= used(budgets) <= 5_000
    assert isinstance(ask(budgets, 3_000), Blocked)


def test_a_limit_learnt_from_an_answer_begins_where_the_answer_says(store: Store) -> None:
    budgets = store.open()
    settle(budgets, granted(budgets, 100, limits={}), 100, TPM, TPM=ServerLimit(6_000, 2_000, lowers=True))

    assert 3_900 <= used(budgets) <= 4_000


def test_proof_of_a_level_raises_and_never_lowers(store: Store) -> None:
    budgets = store.open()
    spend(budgets, 3_000)

    budgets.at_least(LANE, "TPM", 1_000, 0, TPM)
    lower = used(budgets)
    budgets.at_least(LANE, "TPM", 5_000, 5 * NS_PER_S, TPM)
    higher = used(budgets)

    assert 2_900 <= lower <= 3_000
    assert 4_400 <= higher <= 4_500


def test_what_was_spent_without_asking_is_charged(store: Store) -> None:
    budgets = store.open()
    budgets.charge(LANE, {"TPM": 7_000, "RPM": 3}, FOUR)

    assert 6_900 <= used(budgets) <= 7_000
    assert 3 == used(budgets, "RPM")


# -- pauses


def test_a_pause_is_everybodys(store: Store) -> None:
    one, two = store.open(), store.open()

    one.hold(LANE, 2 * NS_PER_S, "TPM")
    asked = claim(two)
    blocked = two.reserve(asked, TPM)
    store.advance(2)

    assert_wait(store, 2, blocked)
    assert ("hold", "TPM") == (blocked.reason, blocked.dimension)
    assert Reserved(asked.id) == two.reserve(asked, TPM)


def test_a_shorter_pause_does_not_end_a_longer_one(store: Store) -> None:
    budgets = store.open()
    for seconds in (30, 600, 1):
        budgets.hold(LANE, seconds * NS_PER_S, "TPD" if seconds == 600 else "TPM")

    blocked = ask(budgets)

    assert_wait(store, 600, blocked)
    assert "TPD" == blocked.dimension
    assert blocked.wait_ns - 1 * NS_PER_S <= budgets.status(LANE).held_ns <= blocked.wait_ns


def test_a_limit_that_a_denied_claim_was_the_first_to_name_is_known_from_then_on(store: Store) -> None:
    budgets, other = store.open(), store.open()
    budgets.hold(LANE, 60 * NS_PER_S, "")

    blocked = ask(budgets, 100, TPM)

    assert isinstance(blocked, Blocked)
    assert "hold" == blocked.reason
    assert [("TPM", 0, 6_000, 60.0)] == [tuple(level) for level in other.status(LANE).levels]


# -- the line


def test_priorities_are_strict_across_processes(store: Store) -> None:
    """
    The LOW one came first and would fit, but the HIGH one goes first.
    """
    one, two = store.open(), store.open()
    held = granted(one, 5_000)
    low, high = claim(one, 2_000, priority=8), claim(two, 2_000, priority=1)
    blocked = [one.reserve(low, TPM), two.reserve(high, TPM)]

    behind = one.reserve(low, TPM)
    one.refund(LANE, held.id)
    still_behind = one.reserve(low, TPM)

    assert ["limit", "limit"] == [each.reason for each in blocked]
    assert [Blocked("behind", None)] * 2 == [behind, still_behind]
    assert Reserved(high.id) == two.reserve(high, TPM)
    assert Reserved(low.id) == one.reserve(low, TPM)


def test_equals_go_by_arrival(store: Store) -> None:
    one, two = store.open(), store.open()
    held = granted(one, 6_000)
    first, second = claim(two, 3_000), claim(one, 3_000)
    two.reserve(first, TPM)
    one.reserve(second, TPM)
    one.refund(LANE, held.id)

    assert Blocked("behind", None) == one.reserve(second, TPM)
    assert Reserved(first.id) == two.reserve(first, TPM)
    assert Reserved(second.id) == one.reserve(second, TPM)


def order_of(store: Store, budgets: BudgetStore, waiting: list[ReservationRequest]) -> list[str]:
    """Return the clients in the order in which their claims are granted, one at a time."""
    order = []
    while waiting:
        for each in list(waiting):
            if isinstance(budgets.reserve(each, TPM), Reserved):
                order.append(each.client)
                waiting.remove(each)
                budgets.refund(LANE, each.id)
                break
    return order


def queue_up(budgets: BudgetStore, clients: str, **facts: Any) -> list[ReservationRequest]:
    held = granted(budgets, 6_000)
    waiting = [claim(budgets, 6_000, client=client, **facts) for client in clients]
    for each in waiting:
        budgets.reserve(each, TPM)
    budgets.refund(LANE, held.id)
    return waiting


def test_clients_of_one_priority_take_turns(store: Store) -> None:
    budgets = store.open()
    waiting = queue_up(budgets, "XXXXXXYYY")

    assert "XYXYXYXXX" == "".join(order_of(store, budgets, waiting))


def test_a_client_of_more_weight_has_more_turns(store: Store) -> None:
    budgets = store.open()
    held = granted(budgets, 6_000)
    waiting = [claim(budgets, 6_000, client=client, weight=2.0 if client == "X" else 1.0) for client in "XXXXXXYYY"]
    for each in waiting:
        budgets.reserve(each, TPM)
    budgets.refund(LANE, held.id)

    order = "".join(order_of(store, budgets, waiting))

    assert (4, 2) == (order[:6].count("X"), order[:6].count("Y"))


def test_a_client_that_was_away_has_no_turns_saved_up(store: Store) -> None:
    budgets = store.open()
    order_of(store, budgets, queue_up(budgets, "XXXX"))

    assert "YYXYX" == "".join(order_of(store, budgets, queue_up(budgets, "YYYXX")))


def test_who_leaves_the_line_has_its_turn_back(store: Store) -> None:
    budgets = store.open()
    held = granted(budgets, 6_000)
    for _ in range(3):
        gone = claim(budgets, 6_000, client="X")
        budgets.reserve(gone, TPM)
        budgets.refund(LANE, gone.id)
    waiting = [claim(budgets, 6_000, client=client) for client in "YYX"]
    for each in waiting:
        budgets.reserve(each, TPM)
    budgets.refund(LANE, held.id)

    assert "YXY" == "".join(order_of(store, budgets, waiting))


def test_who_leaves_the_line_lets_others_pass(store: Store) -> None:
    one, two = store.open(), store.open()
    held = granted(one, 6_000)
    gone, next_one = claim(one, 6_000), claim(two, 6_000)
    one.reserve(gone, TPM)
    two.reserve(next_one, TPM)

    one.refund(LANE, gone.id)
    one.refund(LANE, held.id)

    assert Reserved(next_one.id) == two.reserve(next_one, TPM)


def test_a_claim_that_never_fits_keeps_nobody(store: Store) -> None:
    budgets = store.open()
    held = granted(budgets, 6_000)
    large = claim(budgets, 5_000, priority=0)
    budgets.reserve(large, TPM)
    budgets.refund(LANE, held.id)

    shrunk: KnownLimits = {"TPM": (1_000, MINUTE)}
    assert isinstance(budgets.reserve(large, shrunk), TooLarge)

    assert isinstance(ask(budgets, 500, shrunk), Reserved)


# -- the dead


def test_what_a_dead_process_reserved_is_charged_in_full_and_drains(store: Store) -> None:
    """
    Its requests may have been sent; from its death on they count as if they had arrived at its last moment.
    """
    dead, alive = store.open(), store.open()
    for _ in range(3):
        granted(dead, 2_000)
    waiting = claim(alive, 100)
    assert Blocked("limit", None, "TPM", 6_000, 6_000) == alive.reserve(waiting, TPM)

    store.kill(dead)
    store.advance(LEASE_S + 1)
    blocked = alive.reserve(waiting, TPM)
    store.advance(1)

    assert_wait(store, 1, blocked)
    assert Reserved(waiting.id) == alive.reserve(waiting, TPM)


def test_a_dead_process_stands_in_nobodys_way(store: Store) -> None:
    dead, alive = store.open(), store.open()
    held = granted(alive, 6_000)
    best, next_one = claim(dead, 6_000, priority=0), claim(alive, 6_000)
    dead.reserve(best, TPM)
    alive.reserve(next_one, TPM)
    alive.refund(LANE, held.id)
    assert Blocked("behind", None) == alive.reserve(next_one, TPM)

    store.kill(dead)
    store.advance(LEASE_S + 1)

    assert Reserved(next_one.id) == alive.reserve(next_one, TPM)


def test_who_beats_keeps_what_it_has(store: Store) -> None:
    one, two = store.open(), store.open()
    granted(one, 6_000)
    store.advance(LEASE_S + 1)

    assert Blocked("limit", None, "TPM", 6_000, 6_000) == ask(two, 100)


def test_an_end_that_comes_after_death_counts_nothing_twice(store: Store) -> None:
    late, alive = store.open(), store.open()
    asked = granted(late, 6_000)
    store.kill(late)
    store.advance(LEASE_S + 1)
    ask(alive, 100)

    settle(late, asked)

    assert 5_900 <= used(alive) <= 6_000


def test_who_closes_leaves_the_line_and_is_charged(store: Store) -> None:
    one, two = store.open(), store.open()
    granted(one, 6_000)
    one.reserve(claim(one, 100, priority=0), TPM)

    store.kill(one)
    one.close()

    assert_wait(store, 1, ask(two, 100))


def test_the_living_are_counted(store: Store) -> None:
    one, two = store.open(), store.open()
    ask(one)
    ask(two)
    both = one.status(LANE).processes
    store.kill(two)
    store.advance(LEASE_S + 1)

    assert (2, 1) == (both, one.status(LANE).processes)


# -- news


def test_a_waiter_hears_that_budget_was_freed(store: Store) -> None:
    one, two = store.open(), store.open()
    held = granted(one, 6_000)
    two.reserve(claim(two), TPM)
    two.has_changed()  # its first look, which may be one for the sake of looking
    before = two.has_changed()

    one.refund(LANE, held.id)

    assert not before
    wait_until(two.has_changed)


def test_denied_tries_wake_nobody(store: Store) -> None:
    one, two = store.open(), store.open()
    granted(one, 6_000)
    first, second = claim(one), claim(two)
    for _ in range(2):
        one.reserve(first, TPM)
        two.reserve(second, TPM)
    two.has_changed()
    two.reserve(second, TPM)

    for _ in range(3):
        one.reserve(first, TPM)
        one.heartbeat()

    assert not two.has_changed()


# -- random histories


@pytest.mark.parametrize("seed", range(5))
def test_no_history_ever_passes_the_limit(store: Store, seed: int) -> None:
    """
    The oracle is a server that meters each request at a random moment between its grant and its end, and keeps
    what was requested; three processes take, settle, give back and wait in whatever order.
    """
    rng = random.Random(seed)
    processes = [store.open() for _ in range(3)]
    limits: KnownLimits = {"TPM": (1_000, 10 * NS_PER_S), "RPM": (20, 10 * NS_PER_S)}
    waiting: dict[int, ReservationRequest] = {}
    running: list[tuple[BudgetStore, ReservationRequest, float]] = []
    arrivals: list[tuple[float, int]] = []
    for _ in range(400):
        number = rng.randrange(len(processes))
        act = rng.random()
        if act < 0.4:
            budgets = processes[number]
            asked = waiting.pop(number, None) or claim(budgets, rng.randint(1, 400), priority=rng.choice((1, 5, 8)))
            if isinstance(budgets.reserve(asked, limits), Reserved):
                running.append((budgets, asked, store.now_s()))
            else:
                waiting[number] = asked
        elif act < 0.65 and running:
            owner, asked, since_s = running.pop(rng.randrange(len(running)))
            arrivals.append((rng.uniform(since_s, store.now_s()), asked.cost["TPM"]))
            settle(owner, asked, rng.randint(1, asked.cost["TPM"]), limits)
        elif act < 0.7 and running:
            owner, asked, _ = running.pop(rng.randrange(len(running)))
            owner.refund(LANE, asked.id)
        else:
            store.advance(rng.uniform(0.01, store.longest_step_s))

    assert 30 < len(arrivals)
    assert highest(arrivals, 1_000, 10.0) <= 1_000.001
    assert highest([(when_s, 1) for when_s, _ in arrivals], 20, 10.0) <= 20.001


def highest(arrivals: list[tuple[float, int]], limit: int, period_s: float) -> float:
    """Return the highest level of a bucket that meters *arrivals*, by an arithmetic of its own."""
    level = last_s = most = 0.0
    for when_s, units in sorted(arrivals):
        level = max(0.0, level - (when_s - last_s) * limit / period_s) + units
        last_s, most = when_s, max(most, level)
    return most

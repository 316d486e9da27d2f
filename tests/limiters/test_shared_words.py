"""A sharing meter alone: every word that it says to a played store, and what it makes of the store's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Blocked, Lease, Level, TooLarge
from groq_queue.core.headers import RateHeader, Refusal
from groq_queue.core.limits import Limits
from groq_queue.core.priority import LeaseApplicant
from groq_queue.core.token_estimate import Backlog, PromptSize
from groq_queue.errors import LimiterUnavailable
from groq_queue.limiters.reservation_client import ReservationClient
from groq_queue.limiters.shared import SharedLimiter, SharedMeter
from groq_queue.limiters.store import LaneStatus, Reserved, ServerLimit

S = NS_PER_S
MS = 1_000_000
TPM = Limits(tpm=1_000)
KNOWN = {"TPM": (1_000, 60 * S)}
AWAY = LimiterUnavailable("away", address="x")
TURN = LeaseApplicant("r")


def exact(tokens: int, completion: int = 0) -> PromptSize:
    return PromptSize(tokens, completion, is_exact=True)


class Recorder:
    """A store that takes down every word, and grants what is asked for unless told to answer something else."""

    address = "played"

    def __init__(self) -> None:
        self.words: list[tuple[Any, ...]] = []
        self.reply: Any = None
        self.token = "token"
        self.stands = LaneStatus([])

    def reserve(self, claim: Any, limits: Any) -> Any:
        self.words.append(("reserve", claim, limits))
        return self.reply or Reserved(claim.id)

    def status(self, lane: str) -> LaneStatus:
        return self.stands

    def has_changed(self) -> bool:
        return False

    def heartbeat(self) -> None: ...

    def reset_after_fork(self) -> None:
        self.token = "child"

    def close(self) -> None:
        self.words.append(("close",))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.words.append((name, *arguments))

    def ends(self) -> list[tuple[Any, ...]]:
        return [word for word in self.words if word[0] != "reserve"]


class Desk:
    """A thread whose calls are counted."""

    def __init__(self) -> None:
        self.started = self.stirred = 0
        self.closed: list[float] = []

    def start(self) -> None:
        self.started += 1

    def wake(self) -> None:
        self.stirred += 1

    def close(self, timeout_s: float) -> None:
        self.closed.append(timeout_s)


class Bench:
    """A limiter whose reservation client runs when the test says so."""

    def __init__(self, limits: Any = TPM, **options: Any) -> None:
        self.clock = FakeClock()
        self.budgets = Recorder()
        self.clients: list[ReservationClient] = []
        self.desk = Desk()
        self.limiter = SharedLimiter(
            self.budgets,  # type: ignore[arg-type]
            limits,
            "https://api",
            "org",
            self.clock,
            self._hire,
            **options,
        )
        self.meter = self.limiter.meter("m (flex)", "m")
        self.heard = 0
        self.meter.subscribe(self._hear)

    def _hire(self, client: ReservationClient) -> Desk:
        self.clients.append(client)
        return self.desk

    def _hear(self) -> None:
        self.heard += 1

    def now_ns(self) -> int:
        return self.clock.now_ns()

    def ask(self, size: PromptSize, turn: LeaseApplicant | None = TURN) -> Any:
        return self.meter.lease(size, self.now_ns(), turn)

    def run(self) -> None:
        self.clients[-1].run()

    def leased(self, size: PromptSize) -> Lease:
        self.ask(size)
        self.run()
        lease = self.ask(size)
        assert isinstance(lease, Lease), lease
        return lease

    def claims(self) -> list[Any]:
        return [word[1] for word in self.budgets.words if word[0] == "reserve"]

    def told(self) -> list[tuple[Any, ...]]:
        """Have the reservation client tell what there is to tell, and return it."""
        self.budgets.words.clear()
        self.run()
        return self.budgets.ends()


# -- the limiter


def test_each_lane_has_one_meter_with_the_limits_of_its_model() -> None:
    by_model = Bench({"m": Limits(tpm=100), "n": Limits(rpm=7)}).limiter
    for_all = Bench(Limits(tpm=50)).limiter

    assert by_model.meter("m (flex)", "m") is by_model.meter("m (flex)", "m")
    assert by_model.meter("m (flex)", "m") is not by_model.meter("m", "m")
    assert {"m (flex)": [("TPM", 100)], "m": [("TPM", 100)], "n": [("RPM", 7)], "other": []} == {
        lane: [(level.dimension, level.limit) for level in by_model.meter(lane, model).levels(0)]
        for lane, model in (("m (flex)", "m"), ("m", "m"), ("n", "n"), ("other", "other"))
    }
    assert [50, 50] == [for_all.meter(lane, lane).levels(0)[0].limit for lane in "ab"]
    assert [] == Bench(None).meter.levels(0)
    assert {"m (flex)", "a", "b"} == set(for_all.levels(0))


def test_one_thread_serves_all_lanes_and_is_started_by_the_first_use_of_each() -> None:
    one = Bench()
    for _ in range(3):
        one.limiter.meter("other", "m")

    one.limiter.close(0)

    assert (1, 2, [5.0]) == (len(one.clients), one.desk.started, one.desk.closed)


def test_claims_of_all_lanes_have_names_of_their_own_that_begin_with_the_token() -> None:
    one = Bench()
    other = one.limiter.meter("other", "m")
    one.ask(exact(1))
    other.lease(exact(1), one.now_ns(), TURN)
    one.run()

    assert ["https://api org m (flex)", "https://api org other"] == [claim.lane for claim in one.claims()]
    assert 2 == len({claim.id for claim in one.claims()})
    assert all(claim.id.startswith("token-") for claim in one.claims())


def test_in_a_forked_child_everything_begins_anew_under_another_token() -> None:
    one = Bench()
    one.leased(exact(600))

    one.limiter.reset_after_fork()
    meter = one.limiter.meter("m (flex)", "m")
    meter.lease(exact(600), one.now_ns(), TURN)
    one.budgets.words.clear()
    one.run()

    assert meter is not one.meter
    assert 2 == len(one.clients)
    assert ["child"] == [claim.id.partition("-")[0] for claim in one.claims()]


# -- claims


def test_a_claim_says_whose_turn_it_is_and_what_it_costs_in_every_dimension() -> None:
    one = Bench()

    first = one.ask(exact(100, 50), LeaseApplicant("r", 3, "acme", 4.0, 9))
    one.run()

    assert Blocked("asking", None) == first
    [claim] = one.claims()
    assert ("https://api org m (flex)", 3, "acme", 4.0, 9) == claim[1:2] + claim[3:]
    assert {"RPM": 1, "RPD": 1, "TPM": 150, "TPD": 150, "ITPM": 100, "OTPM": 50} == claim.cost
    assert KNOWN == one.budgets.words[0][2]


def test_who_does_not_say_whose_turn_it_is_has_the_usual_one() -> None:
    one = Bench()
    one.ask(exact(100), None)
    one.run()

    assert [(5, "default", 1.0, 1)] == [claim[3:] for claim in one.claims()]
    assert isinstance(one.ask(exact(100), None), Lease)


def test_the_thread_is_woken_once_for_a_claim_until_it_is_answered() -> None:
    one = Bench()
    one.ask(exact(100))
    after_first = one.desk.stirred
    one.budgets.reply = Blocked("behind", None)
    one.run()
    one.ask(exact(100))
    after_answer = one.desk.stirred
    one.ask(exact(100), LeaseApplicant("other"))

    assert (1, 1) == (after_first, after_answer)
    assert 1 < one.desk.stirred


@pytest.mark.parametrize(
    ("first", "then", "is_kept"),
    [(500, 500, True), (500, 450, True), (500, 449, False), (500, 501, False)],
)
def test_a_head_keeps_its_claim_while_it_needs_nine_tenths_of_it_and_no_more(
    first: int, then: int, is_kept: bool
) -> None:
    one = Bench()
    one.budgets.reply = Blocked("behind", None)
    one.ask(exact(first))
    one.run()

    one.ask(exact(then))
    told = one.told()

    assert is_kept == (told == [])
    if not is_kept:
        assert [("refund", "https://api org m (flex)", "token-1")] == told
        assert ["token-2"] == [claim.id for claim in one.claims()]


def test_another_head_replaces_the_claim_even_at_the_same_price() -> None:
    one = Bench()
    one.budgets.reply = Blocked("behind", None)
    one.ask(exact(500), LeaseApplicant("a"))
    one.run()

    one.ask(exact(500), LeaseApplicant("b", 1))

    assert [("refund", "https://api org m (flex)", "token-1")] == one.told()
    assert [1] == [claim.priority for claim in one.claims()]


def test_withdrawing_gives_up_the_claim_or_the_grant_and_nothing_twice() -> None:
    one = Bench()
    one.ask(exact(500))
    one.meter.withdraw()
    one.meter.withdraw()
    claim = one.told()
    one.ask(exact(500))
    one.run()
    one.meter.withdraw()

    assert [("refund", "https://api org m (flex)", "token-1")] == claim
    assert [("refund", "https://api org m (flex)", "token-2")] == one.told()
    assert not one.meter.is_open()
    assert one.meter.pending_claim() is None


def test_while_a_lease_is_open_the_lane_is() -> None:
    one = Bench()
    states = [one.meter.is_open()]
    one.ask(exact(500))
    states.append(one.meter.is_open())
    one.run()
    states.append(one.meter.is_open())
    lease = one.ask(exact(500))
    states.append(one.meter.is_open())
    one.meter.refund(lease)

    assert [False, True, True, True, False] == [*states, one.meter.is_open()]


# -- grants


@pytest.mark.parametrize(("tokens", "fits"), [(500, True), (499, True), (501, False)])
def test_a_grant_serves_whoever_needs_no_more_than_it_holds(tokens: int, fits: bool) -> None:
    one = Bench()
    one.ask(exact(500))
    one.run()

    assert fits == isinstance(one.ask(exact(tokens), LeaseApplicant("next")), Lease)


def test_a_grant_does_not_serve_whoever_needs_one_unit_of_what_it_has_none_of() -> None:
    one = Bench()
    one.ask(exact(500))
    one.run()

    assert isinstance(one.ask(exact(499, 1), LeaseApplicant("next")), Blocked)


@pytest.mark.parametrize(("after_ns", "is_used"), [(500 * MS, True), (500 * MS + 1, False)])
def test_a_grant_is_good_for_half_a_second(after_ns: int, is_used: bool) -> None:
    one = Bench()
    one.ask(exact(500))
    one.run()
    one.clock.advance(after_ns / S)

    result = one.ask(exact(500))

    assert is_used == isinstance(result, Lease)
    assert is_used or [("refund", "https://api org m (flex)", "token-1")] == one.told()


def test_a_grant_that_nobody_took_is_given_back_at_its_last_instant_and_the_listeners_hear_of_it() -> None:
    one = Bench()
    one.ask(exact(500))
    one.run()
    heard, late_ns = one.heard, one.now_ns() + 500 * MS

    early = one.meter.give_back_late(late_ns - 1)
    held = one.meter.is_open()
    late = one.meter.give_back_late(late_ns)

    assert (late_ns, True, None, False) == (early, held, late, one.meter.is_open())
    assert 1 == heard == one.heard - 1
    assert [("refund", "https://api org m (flex)", "token-1")] == one.told()
    assert one.meter.give_back_late(late_ns) is None
    assert 2 == one.heard


def test_a_lease_uses_its_grant_up() -> None:
    one = Bench()
    one.leased(exact(100))

    assert Blocked("asking", None) == one.ask(exact(100), LeaseApplicant("next"))
    one.run()
    assert ["token-1", "token-2"] == [claim.id for claim in one.claims()]


def test_an_answer_to_a_claim_that_was_given_up_is_not_taken() -> None:
    one = Bench()
    one.ask(exact(500), LeaseApplicant("a"))
    old, _ = one.meter.pending_claim()
    one.ask(exact(600), LeaseApplicant("b"))

    one.meter.deliver(old, Reserved(old.id), one.now_ns())

    assert 0 == one.heard
    assert isinstance(one.ask(exact(600), LeaseApplicant("b")), Blocked)


# -- refusals of the store


@pytest.mark.parametrize(
    ("reply", "told", "news"),
    [
        (Blocked("limit", 5 * S, "TPM", 1_000, 1_000), Blocked("limit", None, "TPM", 1_000, 1_000), 0),
        (Blocked("behind", None), Blocked("behind", None), 0),
        (Blocked("hold", 5 * S, "TPM"), Blocked("hold", None, "TPM"), 0),
        (Blocked("limit", 5 * S, "TPD", 9, 9), Blocked("limit", 3 * S, "TPD", 9, 9), 1),
        (Blocked("limit", 1 * S, "RPD", 9, 9), Blocked("limit", 0, "RPD", 9, 9), 1),
        (Blocked("limit", None, "TPD", 9, 9), Blocked("limit", None, "TPD", 9, 9), 1),
        (TooLarge(500, 400, "TPM"), TooLarge(500, 400, "TPM"), 1),
    ],
)
def test_the_engine_hears_waits_of_days_and_lets_the_reservation_client_wait_for_the_others(
    reply: Any, told: Any, news: int
) -> None:
    """
    Two seconds after the store has answered.
    """
    one = Bench()
    one.budgets.reply = reply
    one.ask(exact(500))
    one.run()
    one.clock.advance(2)

    assert (told, news) == (one.ask(exact(500)), one.heard)


def test_a_claim_that_is_too_large_is_news_once() -> None:
    one = Bench()
    one.ask(exact(500))
    claim, _ = one.meter.pending_claim()

    for _ in range(3):
        one.meter.deliver(claim, TooLarge(500, 400, "TPM"), one.now_ns())

    assert 1 == one.heard


def test_whoever_asks_what_is_in_the_way_is_told_the_wait_that_is_left() -> None:
    one = Bench()
    one.budgets.reply = Blocked("limit", 5 * S, "TPM", 1_000, 1_000)
    nothing = one.meter.blocks(exact(500), one.now_ns())
    one.ask(exact(500))
    one.run()
    told = []
    for passed_s in (0, 2, 4):
        one.clock.advance(passed_s)
        told.append(one.meter.blocks(exact(500), one.now_ns()))

    assert nothing is None
    assert [5 * S, 3 * S, 0] == [blocked.wait_ns for blocked in told]
    assert {("limit", "TPM", 1_000, 1_000)} == {(each[0], *each[2:]) for each in told}


def test_what_the_server_said_comes_before_what_the_store_said() -> None:
    one = Bench()
    lease = one.leased(exact(10))
    one.budgets.reply = Blocked("limit", 60 * S, "TPM", 1_000, 1_000)
    one.ask(exact(500))
    one.run()
    one.meter.refused(lease, exact(10), None, 9 * S, one.now_ns())

    shown = one.meter.blocks(exact(500), one.now_ns())

    assert ("hold", 9 * S) == (shown.reason, shown.wait_ns)
    assert ("hold", 9 * S) == one.ask(exact(500))[:2]


def test_what_this_process_has_open_blocks_without_a_word_of_the_store() -> None:
    one = Bench()
    one.leased(exact(900))

    assert Blocked("limit", None, "TPM", 900, 1_000) == one.meter.blocks(exact(500), one.now_ns())
    assert Blocked("limit", None, "TPM", 900, 1_000) == one.ask(exact(500), LeaseApplicant("next"))


def test_what_never_fits_is_told_without_asking() -> None:
    one = Bench()

    assert TooLarge(1_001, 1_000, "TPM") == one.ask(exact(1_001)) == one.meter.too_large(exact(1_001))
    assert one.meter.too_large(exact(1_000)) is None
    assert (None, 0) == (one.meter.pending_claim(), one.desk.stirred)


# -- how leases end


def test_a_settlement_tells_what_was_requested_and_used_and_what_the_headers_said() -> None:
    one = Bench(Limits(tpm=1_000, rpm=10))
    lease = one.leased(exact(100, 50))

    headers = [RateHeader("TPM", 2_000, 700), RateHeader("RPM", 10, 9)]
    notices = one.meter.settle(lease, exact(100, 50), (90, 20, 30), headers, one.now_ns())

    assert ["tokens per minute: the server's limit is 2,000, yours is 1,000; keeping 1,000"] == notices
    assert [
        (
            "settle",
            "https://api org m (flex)",
            "token-1",
            {"RPM": 1, "RPD": 1, "TPM": 140, "TPD": 140, "ITPM": 90, "OTPM": 50},
            {"RPM": 1, "RPD": 1, "TPM": 80, "TPD": 80, "ITPM": 60, "OTPM": 20},
            {"TPM": ServerLimit(2_000, 700, False), "RPM": ServerLimit(10, 9, True)},
            {"TPM": (1_000, 60 * S), "RPM": (10, 60 * S)},
        )
    ] == one.told()


def test_an_answer_without_headers_tells_none() -> None:
    for seen in (None, []):
        one = Bench()
        one.meter.settle(one.leased(exact(100)), exact(100), None, seen, one.now_ns())

        [(_, _, _, requested, used, headers, limits)] = one.told()

        assert requested == used
        assert ({}, KNOWN) == (headers, limits)


def test_the_second_end_of_a_lease_tells_nothing_but_its_notices() -> None:
    one = Bench()
    lease = one.leased(exact(100))
    one.meter.refund(lease)
    first = one.told()

    one.meter.refund(lease)
    notices = one.meter.settle(lease, exact(100), (100, 0, 0), None, one.now_ns())
    one.meter.refused(lease, exact(100), None, 0, one.now_ns())

    assert [("refund", "https://api org m (flex)", "token-1")] == first
    assert [] == one.told() == notices


@pytest.mark.parametrize(
    ("refusal", "wait_s", "told"),
    [
        (None, 0, []),
        (None, 3, [("hold", 3 * S, "")]),
        (Refusal(False, "TPM", 1_000, 950, 100, S), 1, [("at_least", "TPM", 950), ("hold", S, "TPM")]),
        (Refusal(False, "TPM", 5_000, 4_900, 100, S), 1, [("at_least", "TPM", 900), ("hold", S, "TPM")]),
        (Refusal(False, "TPM", 1_000, 0, 100, S), 0, [("at_least", "TPM", 0)]),
        (Refusal(False, "TPM", None, 950, 100, S), 1, [("hold", S, "TPM")]),
        (Refusal(False, "TPM", 1_000, None, 100, S), 1, [("hold", S, "TPM")]),
        (Refusal(False, "", 1_000, 950, 100, S), 1, [("hold", S, "")]),
    ],
)
def test_a_refusal_tells_the_level_and_the_pause(refusal: Any, wait_s: int, told: list[Any]) -> None:
    """
    The level is put against the process's own limit: what was left at the server is left here. It is as old as
    the lease, here two seconds.
    """
    one = Bench()
    lease = one.leased(exact(100))
    one.clock.advance(2)

    notices = one.meter.refused(lease, exact(100), refusal, wait_s * S, one.now_ns())

    assert isinstance(notices, list)
    first, *rest = one.told()
    assert ("refund", "https://api org m (flex)", "token-1") == first
    assert {"https://api org m (flex)"} <= {word[1] for word in [first, *rest]}
    assert told == [(word[0], *word[2:4]) for word in rest]
    assert all((2 * S, KNOWN) == word[4:] for word in rest if word[0] == "at_least")


def test_a_refusals_notices_reach_the_engine() -> None:
    one = Bench(Limits(tpm=1_000, otpm=5_000))
    refusal = Refusal(True, "OTPM", 1_000, None, 1_329, None)

    notices = one.meter.refused(one.leased(exact(100)), exact(100), refusal, 0, one.now_ns())

    assert ["output tokens per minute: the server's limit is 1,000, yours is 5,000; keeping 1,000"] == notices


# -- what is shown


def stand(one: Bench, used: int, *, limit: int = 1_000, processes: int = 1, refunds_unused: bool = False) -> None:
    status = LaneStatus([Level("TPM", used, limit, 60.0)], refunds_unused, processes)
    one.meter.on_status(status, one.now_ns())


def test_the_stores_level_drains_since_it_was_heard_and_ones_own_counts_if_it_is_higher() -> None:
    one = Bench(Limits(tpm=1_000, rpm=10))
    before = one.meter.levels(one.now_ns())
    stand(one, 600)
    shown = []
    for passed_s in (0, 6, 60):
        one.clock.advance(passed_s)
        shown.append({level.dimension: level.used for level in one.meter.levels(one.now_ns())})
    one.leased(exact(100))

    assert {"TPM": 0, "RPM": 0} == {level.dimension: level.used for level in before}
    assert [600, 500, 0] == [levels["TPM"] for levels in shown]
    assert {0} == {levels["RPM"] for levels in shown}
    assert {"TPM": 100, "RPM": 1} == {level.dimension: level.used for level in one.meter.levels(one.now_ns())}


def test_a_limit_that_only_the_store_knows_is_shown_too() -> None:
    one = Bench(Limits(rpm=10))
    stand(one, 600)

    assert {("TPM", 600, 1_000), ("RPM", 0, 10)} == {level[:3] for level in one.meter.levels(one.now_ns())}


def test_a_word_from_the_future_does_not_fill_the_level_up() -> None:
    one = Bench()
    now_ns = one.now_ns()
    one.clock.advance(6)
    stand(one, 600)

    assert [600] == [level.used for level in one.meter.levels(now_ns)]


def test_the_forecast_adds_what_goes_first_to_what_all_have_used() -> None:
    """
    Of 1,000 a minute 900 are in use: 100 more fit at once, 400 when 300 have drained.
    """
    one = Bench()
    stand(one, 900)
    ahead = Backlog().plus(exact(300))

    assert 0 == one.meter.forecast(Backlog(), exact(100), 0, one.now_ns())
    assert 18 * S == one.meter.forecast(ahead, exact(100), 0, one.now_ns())
    assert 60 * S <= one.meter.forecast(Backlog().plus(exact(900), 2), exact(100), 0, one.now_ns())


@pytest.mark.parametrize(("ahead", "wait_s"), [(0, 0), (1, 6), (4, 24)])
def test_requests_are_counted_by_the_forecast_as_requests(ahead: int, wait_s: int) -> None:
    one = Bench(Limits(rpm=10))
    one.meter.on_status(LaneStatus([Level("RPM", 9, 10, 60.0)]), one.now_ns())

    backlog = Backlog() if not ahead else Backlog().plus(exact(1), ahead)

    assert wait_s * S == one.meter.forecast(backlog, exact(1), 0, one.now_ns())


def test_credit_that_the_store_believes_is_believed_here() -> None:
    believer, doubter = Bench(), Bench()
    for one in (believer, doubter):
        lease = one.leased(exact(0, 900))
        one.meter.settle(lease, exact(0, 900), (0, 1, 0), None, one.now_ns())
        stand(one, 1, refunds_unused=one is believer)

    assert [1, 900] == [one.meter.levels(one.now_ns())[0].used for one in (believer, doubter)]


# -- outages


def away(one: Bench) -> None:
    one.meter.on_outage(AWAY, one.now_ns())


def test_the_listeners_hear_of_an_outage_and_of_its_end() -> None:
    for on_outage in ("wait", "raise", "local_share"):
        one = Bench(on_outage=on_outage)
        away(one)
        lost = one.heard
        one.meter.on_recovered(one.now_ns())

        assert (1, 2) == (lost, one.heard)


def test_whoever_waits_in_an_outage_is_told_so_and_whoever_does_not_gets_the_error() -> None:
    waits, fails = Bench(on_outage="wait"), Bench(on_outage="raise")
    for one in (waits, fails):
        stand(one, 0, processes=1)
        away(one)

    assert Blocked("outage", None) == waits.ask(exact(100))
    assert AWAY is fails.ask(exact(100))
    assert Blocked("outage", None) == waits.meter.blocks(exact(100), waits.now_ns())
    waits.meter.on_recovered(waits.now_ns())
    assert Blocked("asking", None) == waits.ask(exact(100))
    assert waits.meter.blocks(exact(100), waits.now_ns()) is None


def test_in_an_outage_a_share_is_spent_and_the_whole_afterwards() -> None:
    """
    Four processes were known, 402 of 1,000 in use six seconds ago, of which 100 have drained: each has 250, of
    which a quarter, rounded up, is in use.
    """
    one = Bench(on_outage="local_share")
    stand(one, 402, processes=4)
    one.clock.advance(6)
    away(one)

    assert [(250, 76)] == [(level.limit, level.used) for level in ProcessView(one.meter).levels(one.now_ns())]
    assert isinstance(one.ask(exact(174)), Lease)
    assert Blocked("limit", None, "TPM", 249, 250) == one.ask(exact(80))._replace(used=249)
    assert Blocked("outage", None) == one.ask(exact(251))
    assert TooLarge(1_001, 1_000, "TPM") == one.ask(exact(1_001)) == one.meter.too_large(exact(1_001))
    assert one.meter.too_large(exact(1_000)) is None
    one.meter.on_recovered(one.now_ns())
    assert [1_000] == [level.limit for level in ProcessView(one.meter).levels(one.now_ns())]


def test_what_is_learnt_after_an_outage_is_told_and_goes() -> None:
    one = Bench(on_outage="local_share")
    stand(one, 0, processes=2)
    away(one)
    one.meter.on_recovered(one.now_ns())

    one.meter.settle(one.leased(exact(100)), exact(100), (100, 0, 0), [RateHeader("TPM", 500, 400)], one.now_ns())

    assert [{"TPM": (500, 60 * S)}] == [word[-1] for word in one.told()]
    assert TooLarge(501, 500, "TPM") == one.meter.too_large(exact(501))


class ProcessView:
    """What a sharing meter's own budget shows, without the store's word."""

    def __init__(self, meter: SharedMeter) -> None:
        self._meter = meter

    def levels(self, now_ns: int) -> list[Level]:
        return super(SharedMeter, self._meter).levels(now_ns)


def test_a_margin_is_left_of_a_share_too() -> None:
    one = Bench(on_outage="local_share", margin=0.5)
    stand(one, 0, limit=500, processes=4)
    away(one)

    assert [125] == [level.limit for level in ProcessView(one.meter).levels(one.now_ns())]
    one.meter.on_recovered(one.now_ns())
    assert [500] == [level.limit for level in ProcessView(one.meter).levels(one.now_ns())]


def test_a_share_of_little_is_one_at_least() -> None:
    one = Bench(Limits(rpm=2), on_outage="local_share")
    one.meter.on_status(LaneStatus([Level("RPM", 0, 2, 60.0)], processes=5), one.now_ns())
    away(one)

    assert [1] == [level.limit for level in ProcessView(one.meter).levels(one.now_ns())]
    assert isinstance(one.ask(exact(1)), Lease)
    assert isinstance(one.ask(exact(1)), Blocked)


def test_who_never_heard_of_the_others_has_no_share() -> None:
    one = Bench(on_outage="local_share")
    away(one)

    assert Blocked("outage", None) == one.ask(exact(1)) == one.meter.blocks(exact(1), one.now_ns())


def test_in_an_outage_a_share_blocks_by_itself() -> None:
    one = Bench(on_outage="local_share")
    stand(one, 0, processes=2)
    away(one)
    one.ask(exact(400))

    assert Blocked("limit", None, "TPM", 400, 500) == one.meter.blocks(exact(200), one.now_ns())


@pytest.mark.parametrize(("usage", "charged"), [((100, 0, 0), 150), ((100, 300, 0), 400), (None, 150)])
def test_what_was_leased_without_the_store_is_charged_there_by_the_larger_of_both(usage: Any, charged: int) -> None:
    """
    With the whole limits, not those of the share.
    """
    one = Bench(on_outage="local_share")
    stand(one, 0, processes=2)
    away(one)
    lease = one.ask(exact(100, 50))

    one.meter.settle(lease, exact(100, 50), usage, None, one.now_ns())
    one.meter.withdraw()
    [(word, lane, most, limits)] = one.told()

    assert ("charge", "https://api org m (flex)", KNOWN) == (word, lane, limits)
    assert (charged, charged, 1) == (most["TPM"], most["TPD"], most["RPM"])


def test_what_was_leased_without_the_store_and_not_sent_is_not_told() -> None:
    one = Bench(on_outage="local_share")
    stand(one, 0, processes=2)
    away(one)
    for end in ("refund", "refuse"):
        lease = one.ask(exact(100))
        if end == "refund":
            one.meter.refund(lease)
        else:
            one.meter.refused(lease, exact(100), None, 0, one.now_ns())

    assert [] == one.told()


def test_a_refusal_in_an_outage_speaks_of_the_whole_limits() -> None:
    one = Bench(on_outage="local_share")
    stand(one, 0, processes=2)
    away(one)
    lease = one.ask(exact(100))

    one.meter.refused(lease, exact(100), Refusal(False, "TPM", 1_000, 950, 100, S), S, one.now_ns())

    assert ("at_least", "https://api org m (flex)", "TPM", 950, 0, KNOWN) == one.told()[0]

"""The reservation client between meters and a store: what it asks, tells and looks at, and when; both are played."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Blocked, TooLarge
from groq_queue.errors import LimiterUnavailable
from groq_queue.limiters.reservation_client import ReservationClient
from groq_queue.limiters.store import LaneStatus, ReservationRequest, Reserved

TPM = {"TPM": (1_000, 60 * NS_PER_S)}
MS = 1_000_000
NEVER_FREE = Blocked("limit", None, "TPM", 1_000, 1_000)


class PlayedStore:
    """Says what it is told to say, and notes when it was asked for what."""

    address = "played"

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.asked: list[tuple[str, int, tuple[Any, ...]]] = []
        self.reply: Any = NEVER_FREE
        self.changes = False
        self.is_down = False
        self.told: list[str] = []

    def _ask(self, name: str, *arguments: Any) -> None:
        self.asked.append((name, self._clock.now_ns(), arguments))
        if self.is_down:
            raise LimiterUnavailable("away", address="played")

    def reserve(self, claim: ReservationRequest, limits: Any) -> Any:
        self._ask("reserve", claim, limits)
        return self.reply

    def has_changed(self) -> bool:
        self._ask("has_changed")
        return self.changes

    def heartbeat(self) -> None:
        self._ask("heartbeat")

    def status(self, lane: str) -> LaneStatus:
        self._ask("status", lane)
        return LaneStatus([], processes=7)

    def close(self) -> None:
        self.asked.append(("close", self._clock.now_ns(), ()))

    def tell(self, what: str) -> None:
        self._ask("told", what)
        self.told.append(what)

    def when(self, name: str) -> list[int]:
        return [at_ns for asked, at_ns, _ in self.asked if asked == name]

    def count(self, name: str) -> int:
        return len(self.when(name))


class PlayedMeter:
    """One lane that wants what the test says."""

    def __init__(self, lane: str = "lane") -> None:
        self.lane = lane
        self.claim: ReservationRequest | None = None
        self.open = False
        self.late_ns: int | None = None
        self.heard: list[Any] = []

    def want(self, number: int = 1) -> None:
        self.claim, self.open = ReservationRequest(f"{self.lane}-{number}", self.lane, {"TPM": 10}), True

    def pending_claim(self) -> Any:
        return None if self.claim is None else (self.claim, TPM)

    def deliver(self, claim: ReservationRequest, reply: Any, now_ns: int) -> None:
        self.heard.append((claim.id, reply, now_ns))
        if not isinstance(reply, Blocked):
            self.claim = None

    def give_back_late(self, now_ns: int) -> int | None:
        if self.late_ns is not None and now_ns >= self.late_ns:
            self.heard.append(("given back", now_ns))
            self.late_ns = None
        return self.late_ns

    def is_open(self) -> bool:
        return self.open

    def on_status(self, status: LaneStatus, now_ns: int) -> None:
        self.heard.append(("stands", status.processes, now_ns))

    def on_outage(self, error: LimiterUnavailable, now_ns: int) -> None:
        self.heard.append(("outage", str(error), now_ns))

    def on_recovered(self, now_ns: int) -> None:
        self.heard.append(("recovered", now_ns))

    def withdraw(self) -> None:
        self.heard.append("withdrawn")


class Office:
    """A reservation client, its store and its meters, on a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.budgets = PlayedStore(self.clock)
        self.client = ReservationClient(self.budgets, self.clock)  # type: ignore[arg-type]

    def meter(self, lane: str = "lane", *, wants: bool = True) -> PlayedMeter:
        meter = PlayedMeter(lane)
        if wants:
            meter.want()
        self.client.add(meter)
        return meter

    def run_for(self, seconds: float) -> int | None:
        """Run the client whenever it said that it would have to be run; return when it would be run next."""
        end_ns = self.clock.now_ns() + round(seconds * NS_PER_S)
        while (due_ns := self.client.run()) is not None and due_ns <= end_ns:
            assert due_ns > self.clock.now_ns(), "the client turns on the spot"
            self.clock.advance((due_ns - self.clock.now_ns()) / NS_PER_S)
        self.clock.advance((end_ns - self.clock.now_ns()) / NS_PER_S)
        return due_ns


@pytest.fixture
def office() -> Office:
    return Office()


def telling(*texts: str) -> list[Any]:
    """Return an end for each text."""
    return [lambda budgets, text=text: budgets.tell(text) for text in texts]


def gaps(instants: list[int]) -> set[int]:
    return {after - before for before, after in itertools.pairwise(instants)}


# -- when it asks


def test_where_nothing_is_open_nothing_is_asked_and_nothing_is_due(office: Office) -> None:
    office.meter(wants=False)

    due_ns = office.run_for(10)

    assert due_ns is None
    assert [] == office.budgets.asked


def test_a_claim_is_taken_to_the_store_and_its_answer_brought_back(office: Office) -> None:
    meter = office.meter()
    wanted = meter.claim
    office.budgets.reply = Reserved("lane-1")

    office.client.run()

    assert [(wanted, TPM)] == [arguments for name, _, arguments in office.budgets.asked if name == "reserve"]
    assert [("lane-1", Reserved("lane-1"), office.clock.now_ns())] == meter.heard[:1]


def test_a_claim_that_is_too_large_is_not_asked_for_again(office: Office) -> None:
    meter = office.meter()
    office.budgets.reply = TooLarge(10, 5, "TPM")

    office.run_for(10)

    assert 1 == office.budgets.count("reserve")
    assert "lane-1" == meter.heard[0][0]


@pytest.mark.parametrize(
    ("wait_s", "look_ms", "again_s"),
    [(None, 50, 1.0), (0.1, 50, 0.1), (2.0, 100, 2.0), (10.0, 500, 10.0), (20.0, 1_000, 20.0), (600.0, 1_000, 600.0)],
)
def test_a_twentieth_of_the_wait_passes_between_two_looks_within_bounds(
    office: Office, wait_s: float | None, look_ms: int, again_s: float
) -> None:
    """
    At most 20 looks a second, at least one; the store is asked again when the wait it told is over.
    """
    office.meter()
    office.budgets.reply = Blocked("limit", None if wait_s is None else round(wait_s * NS_PER_S), "TPM", 1_000, 1_000)

    office.run_for(3 * again_s + 0.001)

    assert {round(again_s * NS_PER_S)} == gaps(office.budgets.when("reserve"))
    assert 4 == office.budgets.count("reserve")
    looks = office.budgets.when("has_changed")
    assert look_ms * MS == min(gaps(looks))
    assert len(looks) >= 3 * again_s * 1_000 / look_ms - 4


def test_a_wait_of_nothing_does_not_make_it_turn_on_the_spot(office: Office) -> None:
    office.meter()
    office.budgets.reply = Blocked("limit", 0, "TPM", 1_000, 1_000)

    due_ns = office.client.run()

    assert due_ns is not None
    assert due_ns > office.clock.now_ns()


def test_what_has_changed_is_a_reason_to_ask_at_once(office: Office) -> None:
    office.meter()
    office.run_for(0.2)
    before = office.budgets.count("reserve")
    office.budgets.changes = True

    office.run_for(0.101)

    assert 1 == before
    assert office.budgets.count("reserve") in (3, 4)


def test_an_own_end_is_a_reason_to_ask_at_once_and_without_a_look(office: Office) -> None:
    office.meter()
    office.run_for(0.02)
    office.budgets.asked.clear()

    office.client.send(telling("end"))
    office.client.run()

    assert ["told", "reserve"] == [name for name, _, _ in office.budgets.asked]


def test_a_new_claim_is_asked_for_at_once_and_the_same_one_is_not(office: Office) -> None:
    meter = office.meter()
    office.run_for(0.01)
    office.client.run()
    before = office.budgets.count("reserve")

    meter.want(2)
    office.client.run()

    assert (1, 2) == (before, office.budgets.count("reserve"))
    assert "lane-2" == meter.heard[-1][0]


def test_the_lane_that_is_in_the_greatest_hurry_sets_the_pace(office: Office) -> None:
    office.meter("slow")
    office.budgets.reply = Blocked("limit", 600 * NS_PER_S, "TPD", 1, 1)
    office.run_for(2)
    office.budgets.reply = NEVER_FREE
    office.meter("quick")
    office.run_for(0.001)
    office.budgets.asked.clear()

    office.run_for(2)

    assert {50 * MS} == gaps(office.budgets.when("has_changed"))
    assert {"quick-1"} == {arguments[0].id for name, _, arguments in office.budgets.asked if name == "reserve"}


def test_once_a_claim_is_met_nothing_is_due_but_the_beat(office: Office) -> None:
    office.meter()
    office.client.run()
    office.budgets.reply, office.budgets.changes = Reserved("lane-1"), True
    office.clock.advance(0.05)

    due_ns = office.client.run()

    assert 2 == office.budgets.count("reserve")
    assert office.clock.now_ns() + 700 * MS == due_ns


def test_a_lane_that_wants_nothing_any_more_is_looked_at_no_more(office: Office) -> None:
    meter = office.meter()
    office.run_for(1)
    office.budgets.asked.clear()

    meter.claim = None
    office.run_for(2)

    assert {"heartbeat", "status"} == {name for name, _, _ in office.budgets.asked}


# -- heart-beats


def test_it_beats_four_times_a_lease_while_something_is_open(office: Office) -> None:
    meter = office.meter(wants=False)
    meter.open = True

    office.run_for(3.001)

    assert {750 * MS} == gaps(office.budgets.when("heartbeat"))
    assert 5 == office.budgets.count("heartbeat")


def test_with_each_beat_the_open_lanes_hear_how_they_stand(office: Office) -> None:
    opened, closed = office.meter("open"), office.meter("closed", wants=False)
    began_ns = office.clock.now_ns()

    office.run_for(0.75)

    assert [("stands", 7, began_ns), ("stands", 7, began_ns + 750 * MS)] == [
        each for each in opened.heard if each[0] == "stands"
    ]
    assert [] == closed.heard
    assert {("open",)} == {arguments for name, _, arguments in office.budgets.asked if name == "status"}


def test_it_comes_when_a_reservation_has_to_go_back(office: Office) -> None:
    meter = office.meter(wants=False)
    meter.open = True
    office.run_for(0.1)
    meter.late_ns = office.clock.now_ns() + 123 * MS

    due_ns = office.client.run()
    office.run_for(0.2)

    assert office.clock.now_ns() - 77 * MS == due_ns
    assert [("given back", due_ns)] == [each for each in meter.heard if each[0] == "given back"]


def test_what_goes_back_goes_before_anything_is_asked(office: Office) -> None:
    meter = office.meter()
    meter.late_ns = office.clock.now_ns()

    office.client.run()

    assert ["given back", "lane-1"] == [each[0] for each in meter.heard[:2]]


# -- ends


def test_ends_are_told_in_their_order_and_once(office: Office) -> None:
    office.meter(wants=False)
    office.client.send(telling("one", "two"))
    office.client.send(telling("three"))

    office.client.run()
    office.client.run()

    assert ["one", "two", "three"] == office.budgets.told


def test_an_end_that_cannot_be_told_now_is_told_later_before_the_next(office: Office) -> None:
    office.budgets.is_down = True
    office.client.send(telling("one"))
    office.client.run()
    office.client.send(telling("two"))
    office.run_for(5)
    during = [*office.budgets.told]

    office.budgets.is_down = False
    office.run_for(1)

    assert [] == during
    assert ["one", "two"] == office.budgets.told


def test_an_end_that_breaks_is_logged_with_its_traceback_and_left_out(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(budgets: Any) -> None:
        raise ZeroDivisionError("broken end")

    office.client.send([broken, *telling("next")])
    office.client.run()
    office.client.run()

    assert ["next"] == office.budgets.told
    assert 1 == caplog.text.count("the outcome of a request could not be reported")
    assert 1 == caplog.text.count("ZeroDivisionError: broken end")


# -- outages


def test_a_store_that_is_away_is_tried_again_ever_more_seldom_and_at_last_every_second(office: Office) -> None:
    office.meter()
    office.budgets.is_down = True

    office.run_for(5.75)

    tries = office.budgets.when("reserve")[:1] + office.budgets.when("heartbeat")
    assert [250 * MS, 500 * MS] + [1_000 * MS] * 5 == [after - before for before, after in itertools.pairwise(tries)]


def test_before_it_is_to_be_tried_again_nothing_is_asked(office: Office) -> None:
    office.meter()
    office.budgets.is_down = True
    due_ns = office.client.run()
    office.budgets.asked.clear()
    office.clock.advance(0.249)

    again_ns = office.client.run()
    office.clock.advance(0.001)
    office.client.run()

    assert office.clock.now_ns() == due_ns == again_ns
    assert ["heartbeat"] == [name for name, _, _ in office.budgets.asked]


def test_meters_hear_of_an_outage_once_at_its_second_failure_and_of_its_end_once(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    meter = office.meter(wants=False)
    meter.open = True
    office.run_for(0.8)
    meter.heard.clear()
    office.budgets.is_down = True
    office.run_for(5)
    during = [*meter.heard]
    said = caplog.text

    office.budgets.is_down = False
    office.run_for(3)

    assert ["outage"] == [each[0] for each in during]
    assert "away" == during[0][1]
    assert 1 == said.count("the shared budget cannot be reached")
    assert "can be reached again" not in said
    assert 1 == caplog.text.count("the shared budget at played can be reached again")
    assert 1 == [each[0] for each in meter.heard].count("recovered")


def test_the_second_failure_in_a_row_is_the_outage(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    meter = office.meter()
    office.budgets.is_down = True
    office.client.run()
    after_one = [*meter.heard]
    office.clock.advance(0.25)
    office.client.run()
    after_two = [*meter.heard]
    office.budgets.is_down = False
    office.clock.advance(0.5)
    office.client.run()

    assert [] == after_one
    assert ["outage"] == [each[0] for each in after_two]
    assert "can be reached again" in caplog.text


def test_one_failure_is_no_outage_and_says_nothing(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    meter = office.meter()
    office.budgets.is_down = True
    office.client.run()
    office.budgets.is_down = False

    office.run_for(1)

    assert "outage" not in [each[0] for each in meter.heard]
    assert NEVER_FREE in [each[1] for each in meter.heard]
    assert "" == caplog.text


def test_two_failures_with_a_success_between_are_no_outage(office: Office) -> None:
    meter = office.meter()
    for _ in range(3):
        office.budgets.is_down = True
        office.clock.advance(2)
        office.client.run()
        office.budgets.is_down = False
        office.run_for(0.5)

    assert "outage" not in [each[0] for each in meter.heard]


def test_the_first_word_after_an_outage_is_a_beat(office: Office) -> None:
    """
    Nothing else may be due then, and silence would prove nothing.
    """
    meter = office.meter()
    office.budgets.is_down = True
    office.run_for(3)
    meter.claim, meter.open = None, False
    office.budgets.is_down = False
    office.budgets.asked.clear()

    office.run_for(1.001)

    assert ["heartbeat"] == [name for name, _, _ in office.budgets.asked]
    assert "recovered" == meter.heard[-1][0]


# -- the end


def test_at_its_end_claims_are_withdrawn_before_the_last_ends_are_told_and_the_store_is_closed(
    office: Office,
) -> None:
    meter = office.meter()
    office.client.send([lambda budgets: budgets.tell(f"last, {meter.heard}")])

    office.client.finish()

    assert ["last, ['withdrawn']"] == office.budgets.told
    assert ["told", "close"] == [name for name, _, _ in office.budgets.asked]


def test_ends_that_could_not_be_told_are_counted_in_a_warning_and_the_store_is_closed(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    office.budgets.is_down = True
    office.client.send(telling("a", "b"))

    office.client.finish()

    [record] = caplog.records
    assert ("WARNING", 2, "away") == (record.levelname, record.args[0], str(record.args[1]))
    assert 1 == office.budgets.count("close")

"""Where requests stand: lanes, bounds and pauses, without threads."""

from __future__ import annotations

import threading

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Lease
from groq_queue.core.limits import Limits
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Next, Outcome
from groq_queue.engine.background import Timers
from groq_queue.engine.lane import Lane
from groq_queue.engine.paging import Group, Page, Shelf
from groq_queue.engine.pending import Roster
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.errors import QueueFull, QueueTimeout
from groq_queue.limiters.in_process import ProcessLimiter

PATIENCE_S = 10.0
NOW_NS = FakeClock().now_ns()


def make_roster(limits=Limits(), **options):  # noqa: B008
    settings = {
        "meter_of": ProcessLimiter(limits).meter,
        "on_freed": lambda lane: None,
        "max_pending": None,
        "max_pending_per_client": None,
        "max_in_flight": None,
        "ageing_ns": None,
    }
    return Roster(**{**settings, **options})


def request(name=None, model="m", client="default", priority=5, row_id=None, **options):
    made = Request(model, "e", b"{}", PromptSize(10, 0, is_exact=True), priority, client, name, **options)
    made.submitted_ns = NOW_NS
    made.row_id = row_id
    return made


def stand(roster, *requests):
    for each in requests:
        each.rank = roster.rank(each, NOW_NS)
        roster.accept(each)
        roster.line_up(each)
    return requests[0] if len(requests) == 1 else requests


# -- the way of a request


def test_a_request_is_found_by_its_custom_id_until_it_ends():
    roster = make_roster()
    mine = stand(roster, request("mine"))
    stand(roster, request())

    assert mine is roster.find("mine")
    assert None is roster.find("other")
    assert 2 == roster.tally.submitted == roster.tally.pending == len(roster.open)

    roster.withdraw(mine, State.CANCELLED)

    assert None is roster.find("mine")
    assert (State.CANCELLED, 1, 1) == (mine.state, roster.tally.ended[State.CANCELLED], roster.tally.pending)
    assert mine in roster.open, "until its Future has ended"
    roster.let_go(mine)
    assert mine not in roster.open


def test_an_attempt_is_counted_in_its_lane_from_take_to_landing():
    roster = make_roster()
    mine = stand(roster, request())
    lane = roster.lane(mine)

    assert mine is roster.take(lane, NOW_NS + 5)
    assert (State.RUNNING, 1, 0, NOW_NS + 5) == (mine.state, lane.in_flight, roster.tally.pending, mine.started_ns)

    roster.land(mine, lane, Outcome(Next.AGAIN), NOW_NS + 5, NOW_NS + 12)
    roster.wait_again(mine)
    assert (State.PENDING, 0, 1, 1) == (mine.state, lane.in_flight, roster.tally.pending, roster.tally.retried)
    assert 7 == roster.tally.mean_flight_ns()

    assert roster.line_up(mine), "it is next"
    roster.take(lane, NOW_NS + 20)
    assert NOW_NS + 5 == mine.started_ns, "of its first attempt"
    roster.end(mine, State.COMPLETED)
    assert (State.COMPLETED, 1) == (mine.state, roster.tally.ended[State.COMPLETED])


def test_who_was_taken_before_goes_back_to_its_place():
    roster = make_roster()
    first, second, third = stand(roster, *(request(name) for name in "abc"))
    lane = roster.lane(first)
    roster.take(lane, NOW_NS)
    roster.take(lane, NOW_NS)

    assert roster.line_up(second)
    assert roster.line_up(first)

    assert [first, second, third] == [roster.take(lane, NOW_NS) for _ in range(3)]


def test_lining_up_tells_whether_that_changed_who_is_next():
    roster = make_roster()
    roster.accept(normal := request(priority=5))

    assert roster.line_up(normal)
    assert not roster.line_up(request(priority=5))
    assert not roster.line_up(request(priority=8))
    urgent = request(priority=1)
    assert roster.line_up(urgent)
    assert urgent is roster.lane(urgent).head()


def test_withdrawing_reaches_those_in_line_and_those_away():
    roster = make_roster()
    in_line, away = stand(roster, request()), request()
    roster.accept(away)
    roster.away.add(away)

    for each in (in_line, away):
        roster.withdraw(each, State.EXPIRED)

    assert (set(), None, 0, 2) == (
        roster.away,
        roster.lane(in_line).head(),
        roster.tally.pending,
        roster.tally.ended[State.EXPIRED],
    )


def test_withdrawing_all_leaves_what_is_under_way():
    roster = make_roster()
    (running, waiting), away = stand(roster, request("running"), request("waiting")), request("away")
    roster.take(roster.lane(running), NOW_NS)
    roster.accept(away)
    roster.away.add(away)

    dropped = roster.withdraw_all(State.FAILED)

    assert {waiting, away} == set(dropped)
    assert (0, 2, set()) == (roster.tally.pending, roster.tally.ended[State.FAILED], roster.away)
    assert {0} == {each.arrival for each in dropped}
    assert (None, None, running) == (roster.lane(waiting).head(), roster.find("waiting"), roster.find("running"))
    assert State.RUNNING is running.state


def test_withdrawing_what_is_meant_takes_only_that():
    roster = make_roster()
    mine, other = stand(roster, request(client="a"), request(client="b"))
    running = stand(roster, request(client="a", priority=0))
    roster.take(roster.lane(running), NOW_NS)

    assert [mine] == roster.withdraw_meant(lambda each: each.client == "a", State.CANCELLED)

    assert other is roster.lane(other).head()
    assert [] == roster.clear_shelf(lambda each: True), "there is none"


def test_changing_the_priority_puts_a_request_behind_the_others_of_its_new_level():
    roster = make_roster()
    (moved, high), away = stand(roster, request(priority=5), request(priority=1)), request(priority=5)
    roster.accept(away)
    roster.away.add(away)

    assert not roster.change_priority(moved, 1)
    assert not roster.change_priority(away, 0)

    lane = roster.lane(moved)
    assert [high, moved] == [roster.take(lane, NOW_NS), roster.take(lane, NOW_NS)]
    assert ({0: 1}, 1) == (dict(roster.tally.pending_by_priority), roster.tally.pending)
    assert (0, None, False) == (away.rank, away.seq, away.was_taken)


def test_a_request_that_becomes_the_most_urgent_is_next():
    roster = make_roster()
    _, low = stand(roster, request(priority=5), request(priority=8))

    assert roster.change_priority(low, 1)
    assert low is roster.lane(low).head()


def test_a_head_that_becomes_less_urgent_lets_another_be_next():
    roster = make_roster()
    first, second = stand(roster, request(priority=5), request(priority=5))

    assert roster.change_priority(first, 8)
    assert second is roster.lane(second).head()
    assert not roster.change_priority(first, 10)


def test_ageing_ranks_by_when_a_request_came():
    strict, ageing = make_roster(), make_roster(ageing_ns=10 * NS_PER_S)
    mine = request(priority=8)

    assert 8 == strict.rank(mine, NOW_NS) == strict.rank(mine, NOW_NS + 10**12)
    assert ageing.rank(mine, NOW_NS) < ageing.rank(mine, NOW_NS + 10 * NS_PER_S)
    assert ageing.rank(request(priority=7), NOW_NS + 10 * NS_PER_S) == ageing.rank(mine, NOW_NS)


# -- lanes


def test_lanes_that_may_send_come_by_urgency_and_at_equal_rank_the_least_busy_first():
    roster = make_roster(max_in_flight=2)
    for model, priority in (("a", 5), ("b", 5), ("c", 1), ("full", 0), ("paused", 0)):
        stand(roster, request(model=model, priority=priority))
    lanes = roster.lanes
    lanes["a"].in_flight, lanes["full"].in_flight, lanes["c"].in_flight = 1, 2, 1
    roster.pause("paused")
    roster.take(lanes["b"], NOW_NS)
    stand(roster, request(model="b"), request(model="b"))
    lanes["b"].in_flight = 0
    roster.lane(request(model="empty"))

    assert ["c", "b", "a"] == [lane.name for lane, _ in roster.by_urgency()]
    assert [lane.head() for lane in (lanes["c"], lanes["b"], lanes["a"])] == [head for _, head in roster.by_urgency()]


def test_a_pause_holds_lanes_there_are_and_lanes_to_come_until_it_is_undone():
    roster = make_roster()
    lanes = {model: roster.lane(request(model=model)) for model in "ab"}

    roster.pause("a")
    roster.pause("c")
    lanes["c"] = roster.lane(request(model="c"))
    assert {"a": True, "b": False, "c": True} == {model: lane.is_paused for model, lane in lanes.items()}

    roster.resume("a")
    roster.resume("never paused")
    assert [False, True] == [lanes["a"].is_paused, lanes["c"].is_paused]

    roster.pause(None)
    lanes["d"] = roster.lane(request(model="d"))
    roster.resume("b")
    assert {"a": True, "b": False, "c": True, "d": True} == {model: lane.is_paused for model, lane in lanes.items()}

    roster.resume(None)
    lanes["e"] = roster.lane(request(model="e"))
    roster.pause("e")
    assert {"e"} == {model for model, lane in lanes.items() if lane.is_paused}
    roster.resume(None)
    assert not roster.lane(request(model="e", tier="flex")).is_paused


def test_weights_reach_lanes_there_are_and_lanes_to_come():
    roster = make_roster()
    old = stand(roster, request(client="heavy"))
    roster.set_weight("heavy", 3)
    new = stand(roster, request(model="new", client="heavy"))

    assert [3, 3, 1] == [
        roster.lane(each).turn_of(each).weight for each in (old, new, request(model="new", client="light"))
    ]


def test_a_child_keeps_what_users_set():
    parent, child = make_roster(), make_roster()
    parent.set_weight("heavy", 3)
    parent.pause("m")
    child.keep_settings_of(parent)
    parent.resume("m")
    parent.set_weight("heavy", 1)

    mine = stand(child, request(client="heavy"))
    assert (True, 3) == (child.lane(mine).is_paused, child.lane(mine).turn_of(mine).weight)

    other = make_roster()
    parent.pause(None)
    other.keep_settings_of(parent)
    assert other.lane(request(model="any")).is_paused


def test_a_turn_says_who_it_is_of():
    roster = make_roster()
    mine = stand(roster, request(client="acme", priority=8, turn_cost=7))

    turn = roster.lane(mine).turn_of(mine)

    assert (mine.id, 8, "acme", 1, 7) == tuple(turn)


def test_a_lane_listens_to_its_budget_only_while_it_is_blocked_and_until_it_is_closed():
    freed = []
    meter = ProcessLimiter(Limits(rpm=2)).meter("m", "m")
    lane = Lane("m", "m", meter, freed.append)
    leases = [meter.lease(PromptSize(1, 0), NOW_NS) for _ in range(2)]
    assert all(isinstance(lease, Lease) for lease in leases)

    meter.refund(leases[0])
    assert [] == freed
    lane.is_blocked = True
    meter.refund(leases[1])
    assert [lane] == freed

    used = [level.used for level in lane.levels(NOW_NS)]
    lane.close(NOW_NS)
    meter.refund(meter.lease(PromptSize(1, 0), NOW_NS))
    meter.lease(PromptSize(1, 0), NOW_NS)
    assert [lane] == freed
    assert used == [level.used for level in lane.levels(NOW_NS)], "as of the end"
    lane.close(NOW_NS)
    assert used == [level.used for level in lane.levels(NOW_NS)]


class Asked:
    """A meter that notes that nobody waits for a lease any more."""

    def __init__(self):
        self.withdrawn = 0

    def withdraw(self):
        self.withdrawn += 1

    def subscribe(self, listener): ...


def test_a_budget_is_told_when_nobody_waits_for_it_any_more():
    meter = Asked()
    lane = Lane("m", "m", meter, lambda lane: None)
    one, other = request(), request()
    lane.add(one)
    lane.add(other)

    lane.discard(one)
    assert 0 == meter.withdrawn
    lane.discard(other)
    assert 1 == meter.withdrawn
    lane.clear()
    assert 2 == meter.withdrawn


def test_places_in_line_follow_every_change():
    roster = make_roster()
    first, second, third = stand(roster, *(request(name, client=name) for name in "abc"))
    lane = roster.lane(first)
    assert [1, 2, 3] == [lane.place_of(each)[0] for each in (first, second, third)]
    assert [0, 1, 2] == [lane.place_of(each)[1].requests for each in (first, second, third)]
    assert [0, 10, 20] == [lane.place_of(each)[1].exact for each in (first, second, third)]

    roster.take(lane, NOW_NS)
    assert 1 == lane.place_of(second)[0]
    lane.put_back(first)
    assert 2 == lane.place_of(second)[0]
    lane.discard(first)
    assert 1 == lane.place_of(second)[0]
    stand(roster, urgent := request(priority=0))
    assert (1, 2) == (lane.place_of(urgent)[0], lane.place_of(second)[0])
    assert 3 == lane.ahead_of_newcomer(request(client="d", priority=8))
    assert 1 == lane.ahead_of_newcomer(request(client="d", priority=1))

    lane.clear()
    assert None is lane.head()
    with pytest.raises(KeyError):
        lane.place_of(second)


def test_a_new_weight_changes_places():
    roster = make_roster()
    light = [request(client="light") for _ in range(4)]
    heavy = [request(client="heavy") for _ in range(4)]
    for pair in zip(light, heavy, strict=True):
        stand(roster, *pair)
    lane = roster.lane(light[0])
    before = lane.place_of(heavy[3])[0]

    lane.set_weight("heavy", 1_000)

    assert lane.place_of(heavy[3])[0] < before


def test_stale_entries_are_swept_away_when_most_are_stale():
    roster = make_roster()
    alive = [request(client=f"alive-{n}") for n in range(20)]
    dead = [request(client=f"dead-{n}") for n in range(65)]
    stand(roster, *alive, *dead)
    lane = roster.lane(alive[0])

    for each in dead[:64]:
        lane.discard(each)
    assert (84 + 1, 64) == (len(lane._heap), lane._stale)
    lane.discard(dead[64])

    assert (20, 0) == (len(lane._heap), lane._stale)
    assert alive == [roster.take(lane, NOW_NS) for _ in alive]


def test_stale_entries_at_the_front_are_counted_off():
    roster = make_roster()
    requests = stand(roster, *(request(client=f"{n}") for n in range(5)))
    lane = roster.lane(requests[0])
    for each in requests[:4]:
        lane.discard(each)

    assert requests[4] is lane.head()
    assert (0, 1) == (lane._stale, len(lane._heap))


# -- bounds


def test_room_is_bounded_in_all_and_for_each_client():
    roster = make_roster(max_pending=3, max_pending_per_client=2)
    assert roster.has_room("a")
    stand(roster, request(client="a"), request(client="a"))
    assert [False, True] == [roster.has_room(client) for client in "ab"]
    stand(roster, request(client="b"))
    assert not roster.has_room("b")
    assert make_roster().has_room("a")


def test_the_error_says_whose_bound_it_was_and_when_there_will_be_room():
    bounded = make_roster(Limits(rpm=1), max_pending=2, max_pending_per_client=1)
    stand(bounded, request(client="a"))
    mine = request("mine", client="a")

    own = bounded.full(mine, "wait", NOW_NS)
    stand(bounded, request(client="b"))
    common = bounded.full(mine, "wait", NOW_NS)

    assert (1, "a", None) == (own.limit, own.client, own.retry_after)
    assert "client 'a' has max_pending_per_client=1 requests waiting: wait" == str(own).partition(";")[0][:65]
    assert (2, None) == (common.limit, common.client)
    assert "there are max_pending=2 requests waiting: wait" in str(common)
    assert (mine.id, "mine") == (common.request_id, common.custom_id)

    only_client = make_roster(max_pending_per_client=1)
    stand(only_client, request(client="a"))
    assert (1, "a") == ((error := only_client.full(mine, "wait", NOW_NS)).limit, error.client)
    only_all = make_roster(max_pending=5)
    assert (5, None) == ((error := only_all.full(mine, "wait", NOW_NS)).limit, error.client)


def test_room_comes_when_the_first_head_passes_or_as_starts_come():
    roster = make_roster({"slow": Limits(rpm=1), "fast": Limits(rpm=6)}, max_pending=2)
    for model, count in (("slow", 1), ("fast", 6)):
        lane = roster.lane(request(model=model))
        for _ in range(count):
            assert isinstance(lane.meter.lease(PromptSize(1, 0), NOW_NS), Lease)
        stand(roster, request(model=model))
    assert 10 == roster.full(request(), "wait", NOW_NS).retry_after

    unlimited = make_roster(max_pending=1)
    for seconds in (0, 3, 6):
        stand(unlimited, each := request())
        unlimited.take(unlimited.lane(each), NOW_NS + seconds * NS_PER_S)
    stand(unlimited, request())
    assert 3 == unlimited.full(request(), "wait", NOW_NS).retry_after


def test_what_is_missed_least_is_shed_within_the_bound_that_is_full():
    roster = make_roster(max_pending=4, max_pending_per_client=2)
    mine_low, mine = stand(roster, request(client="a", priority=6), request(client="a", priority=5))
    assert mine_low is roster.least_urgent("a", 5), "only this client's own bound is full"
    assert None is roster.least_urgent("a", 6)
    lowest = stand(roster, request(client="b", priority=10))
    assert mine_low is roster.least_urgent("a", 5)
    other_lane = stand(roster, request(client="c", priority=9, model="n"))

    assert lowest is roster.least_urgent("a", 5), "now the queue is full, whoever's it is"
    assert None is roster.least_urgent("a", 10)
    roster.withdraw(lowest, State.FAILED)
    stand(roster, request(client="d", priority=7))
    assert other_lane is roster.least_urgent("a", 5)
    assert mine.state is State.PENDING


class Guarded:
    """A roster in an engine that has no worker, so that nothing happens by itself; its lock and clock."""

    def __init__(self, roster, when_full, is_inside=False):
        self.roster, self.clock = roster, FakeClock()
        self.engine = ThreadEngine(
            attempts=None,
            meter_of=ProcessLimiter(None).meter,
            clock=self.clock,
            timers=Timers(self.clock, "guarded"),
            max_workers=1,
            when_full=when_full,
        )
        self.engine._roster = roster
        self.engine._pool.inside.depth = is_inside  # of this thread
        self.lock = self.engine._lock

    def ask(self, each):
        with self.lock:
            return self.engine._wait_for_capacity(each)

    def ask_on_thread(self, each):
        """Return a thread that waits for room, and what came of that."""
        told = []

        def ask():
            try:
                told.append(self.ask(each))
            except QueueTimeout as error:
                told.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        pause = threading.Event()
        while thread.is_alive() and not self.engine._not_full._waiters:
            pause.wait(0.0005)
        return thread, told


def full_roster():
    roster = make_roster(max_pending=1)
    return roster, stand(roster, request("waiting", priority=5))


def test_where_there_is_room_or_the_queue_is_closed_nobody_waits():
    guarded = Guarded(make_roster(max_pending=1), "block")
    assert None is guarded.ask(request())
    guarded = Guarded(full_roster()[0], "raise")
    guarded.engine._closed = True
    assert None is guarded.ask(request())


def test_a_full_room_raises_or_sheds():
    roster, waiting = full_roster()
    with pytest.raises(QueueFull, match="wait for some to end"):
        Guarded(roster, "raise").ask(request(priority=0))
    assert waiting is Guarded(roster, "shed").ask(request(priority=4))
    with pytest.raises(QueueFull, match="nothing less urgent"):
        Guarded(roster, "shed").ask(request(priority=5))


def test_a_callback_never_waits_for_room():
    assert None is Guarded(full_roster()[0], "block", is_inside=True).ask(request())


@pytest.mark.parametrize(
    ("bounds", "passes_s"),
    [({"max_wait_ns": 7, "deadline_ns": 5}, 5), ({"max_wait_ns": 3}, 3), ({"deadline_ns": 4}, 4)],
)
def test_a_submitter_waits_no_longer_than_its_nearest_bound(bounds, passes_s):
    guarded = Guarded(full_roster()[0], "block")
    thread, told = guarded.ask_on_thread(request(**{name: value * NS_PER_S for name, value in bounds.items()}))
    assert (1, True) == (guarded.engine._blocked_submitters, guarded.clock.is_awaited(passes_s))

    guarded.clock.advance(passes_s)

    thread.join(PATIENCE_S)
    assert [QueueTimeout] == [type(each) for each in told]
    assert f"max_wait or deadline={passes_s}" in str(told[0])
    assert 0 == guarded.engine._blocked_submitters


def test_a_submitter_looks_again_when_told_and_goes_on_when_there_is_room():
    roster, waiting = full_roster()
    guarded = Guarded(roster, "block")
    thread, told = guarded.ask_on_thread(request())
    with guarded.lock:
        roster.withdraw(waiting, State.CANCELLED)
        guarded.engine._not_full.notify_all()

    thread.join(PATIENCE_S)
    assert [None] == told
    assert 0 == guarded.engine._blocked_submitters


# -- the shelf


def shelved_roster():
    return make_roster(shelf=Shelf())


def test_rows_are_known_by_their_future_while_they_are_open():
    roster = shelved_roster()
    mine, other = request(row_id=7), request()
    mine.future, other.future = object(), object()
    stand(roster, mine, other)

    assert {7: mine.future} == roster.rows
    assert {mine.future, other.future} == set(roster.open_futures())


def test_a_row_that_was_taken_in_anew_is_not_forgotten_with_the_old_request():
    class Future:
        def __init__(self, request):
            self._request = request

    roster = shelved_roster()
    old, new = request(row_id=7), request(row_id=7)
    for each in (old, new):
        each.future = Future(each)
        stand(roster, each)

    roster.let_go(old)
    assert {7: new.future} == roster.rows
    roster.let_go(new)
    assert {} == roster.rows
    roster.let_go(request(row_id=8))


def test_what_is_shelved_counts_as_pending_once():
    roster = shelved_roster()
    group = Group("m", "m", 5, "default")
    roster.stock(group, 3)
    assert (3, 3, {5: 3}) == (roster.tally.submitted, roster.tally.pending, dict(roster.tally.pending_by_priority))

    future = type("Future", (), {"_request": None})()
    roster.shelve(request(row_id=2), future, is_kept=False, is_new=False)
    assert (3, 3) == (roster.tally.submitted, roster.tally.pending)
    roster.shelve(request(row_id=9), future, is_kept=True, is_new=True)
    assert (4, 4) == (roster.tally.submitted, roster.tally.pending)
    assert future in roster.open_futures()


def test_a_page_mends_the_count():
    roster = shelved_roster()
    group = Group("m", "m", 5, "default")
    roster.stock(group, 1)
    page = roster.shelf.next_page()
    rows = [request(f"r{n}", row_id=n) for n in (1, 2, 3)]

    taken = roster.unshelve(page, rows, is_last=True)

    assert rows == taken
    assert (3, 3) == (roster.tally.submitted, roster.tally.pending)
    assert {1, 2, 3} == set(roster.rows)
    assert rows[2] is roster.find("r3")


def test_clearing_the_shelf_counts_what_was_cancelled():
    roster = shelved_roster()
    group, other = Group("m", "m", 5, "a"), Group("m", "m", 5, "b")
    roster.stock(group, 3)
    roster.stock(other, 2)

    assert [(group, 0)] == roster.clear_shelf(lambda each: each.client == "a")

    assert (2, {"b": 2}, 3) == (
        roster.tally.pending,
        dict(roster.tally.pending_by_client),
        roster.tally.ended[State.CANCELLED],
    )


def test_a_page_is_asked_for_behind_the_rows_that_have_come():
    roster = shelved_roster()
    roster.stock(Group("m", "m", 5, "default"), 9)
    roster.unshelve(roster.shelf.next_page(), [request(row_id=4)], is_last=False)

    page = roster.shelf.next_page()

    assert isinstance(page, Page)
    assert 4 == page.after

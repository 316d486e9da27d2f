"""Where requests stand: lanes, bounds and pauses, without threads."""

from __future__ import annotations

import queue
import threading

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Lease
from groq_queue.core.limits import Limits
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.background import Timers
from groq_queue.engine.lane import Lane
from groq_queue.engine.paging import BacklogPager, Group, Page
from groq_queue.engine.pending import PendingRequests
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.errors import QueueFull, QueueTimeout
from groq_queue.limiters.in_process import ProcessLimiter

PATIENCE_S = 10.0
NOW_NS = FakeClock().now_ns()


def make_table(limits=Limits(), **options):  # noqa: B008
    settings = {
        "meter_of": ProcessLimiter(limits).meter,
        "on_freed": lambda lane: None,
        "max_pending": None,
        "max_pending_per_client": None,
        "max_in_flight": None,
        "ageing_ns": None,
    }
    return PendingRequests(**{**settings, **options})


def request(name=None, model="m", client="default", priority=5, row_id=None, **options):
    made = Request(model, "e", b"{}", PromptSize(10, 0, is_exact=True), priority, client, name, **options)
    made.submitted_ns = NOW_NS
    made.row_id = row_id
    return made


def stand(table, *requests):
    for each in requests:
        each.rank = table.rank(each, NOW_NS)
        table.accept(each)
        table.enqueue(each)
    return requests[0] if len(requests) == 1 else requests


def taken(table, lane, now_ns):
    """Take the head of *lane* and return it."""
    head = lane.head()
    assert table.take(lane, head, now_ns)
    return head


# -- the way of a request


def test_a_request_is_found_by_its_custom_id_until_it_ends():
    table = make_table()
    mine = stand(table, request("mine"))
    stand(table, request())

    assert mine is table.find("mine")
    assert None is table.find("other")
    assert 2 == table.counters.submitted == table.counters.pending == len(table.open)

    table.withdraw(mine, State.CANCELLED)

    assert None is table.find("mine")
    assert (State.CANCELLED, 1, 1) == (mine.state, table.counters.ended[State.CANCELLED], table.counters.pending)
    assert mine in table.open, "until its Future has ended"
    table.forget(mine)
    assert mine not in table.open


def test_an_attempt_is_counted_in_its_lane_from_take_to_landing():
    table = make_table()
    mine = stand(table, request())
    lane = table.lane(mine)

    assert mine is taken(table, lane, NOW_NS + 5)
    assert (State.RUNNING, 1, 0, NOW_NS + 5) == (mine.state, lane.in_flight, table.counters.pending, mine.started_ns)

    table.land(mine, lane, Outcome(Disposition.RETRY), NOW_NS + 5, NOW_NS + 12)
    table.wait_again(mine)
    assert (State.PENDING, 0, 1, 1) == (mine.state, lane.in_flight, table.counters.pending, table.counters.retried)
    assert 7 == table.counters.mean_flight_ns()

    assert table.enqueue(mine), "it is next"
    taken(table, lane, NOW_NS + 20)
    assert NOW_NS + 5 == mine.started_ns, "of its first attempt"
    table.end(mine, State.COMPLETED)
    assert (State.COMPLETED, 1) == (mine.state, table.counters.ended[State.COMPLETED])


def test_who_was_taken_before_goes_back_to_its_place():
    table = make_table()
    first, second, third = stand(table, *(request(name) for name in "abc"))
    lane = table.lane(first)
    taken(table, lane, NOW_NS)
    taken(table, lane, NOW_NS)

    assert table.enqueue(second)
    assert table.enqueue(first)

    assert [first, second, third] == [taken(table, lane, NOW_NS) for _ in range(3)]


def test_a_request_that_is_withdrawn_while_it_lines_up_leaves_an_empty_line(monkeypatch):
    """
    As by a signal handler, or a finaliser, on the very thread that lines it up.
    """
    table = make_table()
    mine = request()
    lane = table.lane(mine)
    put = lane._put

    def put_and_withdraw(entry):
        put(entry)
        table.withdraw(mine, State.CANCELLED)

    monkeypatch.setattr(lane, "_put", put_and_withdraw)
    table.accept(mine)

    assert not table.enqueue(mine)
    assert (None, 0) == (lane.head(), table.counters.pending)


def test_lining_up_tells_whether_that_changed_who_is_next():
    table = make_table()
    table.accept(normal := request(priority=5))

    assert table.enqueue(normal)
    assert not table.enqueue(request(priority=5))
    assert not table.enqueue(request(priority=8))
    urgent = request(priority=1)
    assert table.enqueue(urgent)
    assert urgent is table.lane(urgent).head()


def test_withdrawing_reaches_those_in_line_and_those_away():
    table = make_table()
    in_line, away = stand(table, request()), request()
    table.accept(away)
    table.away.add(away)

    for each in (in_line, away):
        table.withdraw(each, State.EXPIRED)

    assert (set(), None, 0, 2) == (
        table.away,
        table.lane(in_line).head(),
        table.counters.pending,
        table.counters.ended[State.EXPIRED],
    )


def test_withdrawing_all_leaves_what_is_under_way():
    table = make_table()
    (running, waiting), away = stand(table, request("running"), request("waiting")), request("away")
    taken(table, table.lane(running), NOW_NS)
    table.accept(away)
    table.away.add(away)

    dropped = table.withdraw_all(State.FAILED)

    assert {waiting, away} == set(dropped)
    assert (0, 2, set()) == (table.counters.pending, table.counters.ended[State.FAILED], table.away)
    assert {0} == {each.arrival for each in dropped}
    assert (None, None, running) == (table.lane(waiting).head(), table.find("waiting"), table.find("running"))
    assert State.RUNNING is running.state


def test_withdrawing_what_is_meant_takes_only_that():
    table = make_table()
    mine, other = stand(table, request(client="a"), request(client="b"))
    running = stand(table, request(client="a", priority=0))
    taken(table, table.lane(running), NOW_NS)

    assert [mine] == table.withdraw_meant(lambda each: each.client == "a", State.CANCELLED)

    assert other is table.lane(other).head()
    assert [] == table.clear_stored(lambda each: True), "there is none"


def test_changing_the_priority_puts_a_request_behind_the_others_of_its_new_level():
    table = make_table()
    (moved, high), away = stand(table, request(priority=5), request(priority=1)), request(priority=5)
    table.accept(away)
    table.away.add(away)

    assert not table.change_priority(moved, 1)
    assert not table.change_priority(away, 0)

    lane = table.lane(moved)
    assert [high, moved] == [taken(table, lane, NOW_NS), taken(table, lane, NOW_NS)]
    assert ({0: 1}, 1) == (dict(table.counters.pending_by_priority), table.counters.pending)
    assert (0, None, False) == (away.rank, away.seq, away.was_taken)


def test_a_request_that_becomes_the_most_urgent_is_next():
    table = make_table()
    _, low = stand(table, request(priority=5), request(priority=8))

    assert table.change_priority(low, 1)
    assert low is table.lane(low).head()


def test_a_head_that_becomes_less_urgent_lets_another_be_next():
    table = make_table()
    first, second = stand(table, request(priority=5), request(priority=5))

    assert table.change_priority(first, 8)
    assert second is table.lane(second).head()
    assert not table.change_priority(first, 10)


def test_ageing_ranks_by_when_a_request_came():
    strict, ageing = make_table(), make_table(ageing_ns=10 * NS_PER_S)
    mine = request(priority=8)

    assert 8 == strict.rank(mine, NOW_NS) == strict.rank(mine, NOW_NS + 10**12)
    assert ageing.rank(mine, NOW_NS) < ageing.rank(mine, NOW_NS + 10 * NS_PER_S)
    assert ageing.rank(request(priority=7), NOW_NS + 10 * NS_PER_S) == ageing.rank(mine, NOW_NS)


# -- lanes


def test_lanes_that_may_send_come_by_urgency_and_at_equal_rank_the_least_busy_first():
    table = make_table(max_in_flight=2)
    for model, priority in (("a", 5), ("b", 5), ("c", 1), ("full", 0), ("paused", 0)):
        stand(table, request(model=model, priority=priority))
    lanes = table.lanes
    lanes["a"].in_flight, lanes["full"].in_flight, lanes["c"].in_flight = 1, 2, 1
    table.pause("paused")
    taken(table, lanes["b"], NOW_NS)
    stand(table, request(model="b"), request(model="b"))
    lanes["b"].in_flight = 0
    table.lane(request(model="empty"))

    assert ["c", "b", "a"] == [lane.name for lane, _ in table.by_urgency()]
    assert [lane.head() for lane in (lanes["c"], lanes["b"], lanes["a"])] == [head for _, head in table.by_urgency()]


def test_of_two_lanes_the_one_that_was_made_later_may_come_first():
    table = make_table()
    stand(table, request(model="a", priority=5))
    urgent = stand(table, request(model="b", priority=1))

    assert urgent is table.by_urgency()[0][1]


def test_a_pause_holds_lanes_there_are_and_lanes_to_come_until_it_is_undone():
    table = make_table()
    lanes = {model: table.lane(request(model=model)) for model in "ab"}

    table.pause("a")
    table.pause("c")
    lanes["c"] = table.lane(request(model="c"))
    assert {"a": True, "b": False, "c": True} == {model: lane.is_paused for model, lane in lanes.items()}

    table.resume("a")
    table.resume("never paused")
    assert [False, True] == [lanes["a"].is_paused, lanes["c"].is_paused]

    table.pause(None)
    lanes["d"] = table.lane(request(model="d"))
    table.resume("b")
    assert {"a": True, "b": False, "c": True, "d": True} == {model: lane.is_paused for model, lane in lanes.items()}

    table.resume(None)
    lanes["e"] = table.lane(request(model="e"))
    table.pause("e")
    assert {"e"} == {model for model, lane in lanes.items() if lane.is_paused}
    table.resume(None)
    assert not table.lane(request(model="e", tier="flex")).is_paused


def test_weights_reach_lanes_there_are_and_lanes_to_come():
    table = make_table()
    old = stand(table, request(client="heavy"))
    table.set_weight("heavy", 3)
    new = stand(table, request(model="new", client="heavy"))

    assert [3, 3, 1] == [
        table.lane(each).turn_of(each).weight for each in (old, new, request(model="new", client="light"))
    ]


def test_a_child_keeps_what_users_set():
    parent, child = make_table(), make_table()
    parent.set_weight("heavy", 3)
    parent.pause("m")
    child.keep_settings_of(parent)
    parent.resume("m")
    parent.set_weight("heavy", 1)

    mine = stand(child, request(client="heavy"))
    assert (True, 3) == (child.lane(mine).is_paused, child.lane(mine).turn_of(mine).weight)

    other = make_table()
    parent.pause(None)
    other.keep_settings_of(parent)
    assert other.lane(request(model="any")).is_paused


def test_a_turn_says_who_it_is_of():
    table = make_table()
    mine = stand(table, request(client="acme", priority=8, turn_cost=7))

    turn = table.lane(mine).turn_of(mine)

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
    table = make_table()
    first, second, third = stand(table, *(request(name, client=name) for name in "abc"))
    lane = table.lane(first)
    assert [1, 2, 3] == [lane.place_of(each)[0] for each in (first, second, third)]
    assert [0, 1, 2] == [lane.place_of(each)[1].requests for each in (first, second, third)]
    assert [0, 10, 20] == [lane.place_of(each)[1].exact for each in (first, second, third)]

    taken(table, lane, NOW_NS)
    assert 1 == lane.place_of(second)[0]
    lane.put_back(first)
    assert 2 == lane.place_of(second)[0]
    lane.discard(first)
    assert 1 == lane.place_of(second)[0]
    stand(table, urgent := request(priority=0))
    assert (1, 2) == (lane.place_of(urgent)[0], lane.place_of(second)[0])
    assert 3 == lane.ahead_of_newcomer(request(client="d", priority=8))
    assert 1 == lane.ahead_of_newcomer(request(client="d", priority=1))

    lane.clear()
    assert None is lane.head()
    with pytest.raises(KeyError):
        lane.place_of(second)


def test_a_new_weight_changes_places():
    table = make_table()
    light = [request(client="light") for _ in range(4)]
    heavy = [request(client="heavy") for _ in range(4)]
    for pair in zip(light, heavy, strict=True):
        stand(table, *pair)
    lane = table.lane(light[0])
    before = lane.place_of(heavy[3])[0]

    lane.set_weight("heavy", 1_000)

    assert lane.place_of(heavy[3])[0] < before


def test_stale_entries_are_swept_away_when_most_are_stale():
    table = make_table()
    alive = [request(client=f"alive-{n}") for n in range(20)]
    dead = [request(client=f"dead-{n}") for n in range(65)]
    stand(table, *alive, *dead)
    lane = table.lane(alive[0])

    for each in dead[:64]:
        lane.discard(each)
    assert (84 + 1, 64) == (len(lane.queue), lane._stale)
    lane.discard(dead[64])

    assert (20, 0) == (len(lane.queue), lane._stale)
    assert alive == [taken(table, lane, NOW_NS) for _ in alive]


def test_stale_entries_at_the_front_are_counted_off():
    table = make_table()
    requests = stand(table, *(request(client=f"{n}") for n in range(5)))
    lane = table.lane(requests[0])
    for each in requests[:4]:
        lane.discard(each)

    assert requests[4] is lane.head()
    assert (0, 1) == (lane._stale, len(lane.queue))


# -- bounds


def test_room_is_bounded_in_all_and_for_each_client():
    table = make_table(max_pending=3, max_pending_per_client=2)
    assert table.has_room("a")
    stand(table, request(client="a"), request(client="a"))
    assert [False, True] == [table.has_room(client) for client in "ab"]
    stand(table, request(client="b"))
    assert not table.has_room("b")
    assert make_table().has_room("a")


def test_the_error_says_whose_bound_it_was_and_when_there_will_be_room():
    bounded = make_table(Limits(rpm=1), max_pending=2, max_pending_per_client=1)
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

    only_client = make_table(max_pending_per_client=1)
    stand(only_client, request(client="a"))
    assert (1, "a") == ((error := only_client.full(mine, "wait", NOW_NS)).limit, error.client)
    only_all = make_table(max_pending=5)
    assert (5, None) == ((error := only_all.full(mine, "wait", NOW_NS)).limit, error.client)


def test_room_comes_when_the_first_head_passes_or_as_starts_come():
    table = make_table({"slow": Limits(rpm=1), "fast": Limits(rpm=6)}, max_pending=2)
    for model, count in (("slow", 1), ("fast", 6)):
        lane = table.lane(request(model=model))
        for _ in range(count):
            assert isinstance(lane.meter.lease(PromptSize(1, 0), NOW_NS), Lease)
        stand(table, request(model=model))
    assert 10 == table.full(request(), "wait", NOW_NS).retry_after

    unlimited = make_table(max_pending=1)
    for seconds in (0, 3, 6):
        stand(unlimited, each := request())
        taken(unlimited, unlimited.lane(each), NOW_NS + seconds * NS_PER_S)
    stand(unlimited, request())
    assert 3 == unlimited.full(request(), "wait", NOW_NS).retry_after


def test_nobody_can_tell_when_there_is_room_while_all_lanes_are_paused_and_nothing_has_started():
    table = make_table(max_pending=1)
    table.pause(None)
    stand(table, request())

    assert table.full(request(), "wait", NOW_NS).retry_after is None


def test_what_is_made_anew_knows_names_and_rows_of_those_that_have_one():
    table = paged_table()
    named, plain = stand(table, request("named", row_id=7), request())
    for each in (named, plain):
        each.future = object()
    table.rows.clear()

    table.rebuild(State.CANCELLED)

    assert {7: named.future} == table.rows
    assert named is table.find("named")
    assert {"named"} == set(table._by_custom_id)


def test_what_is_missed_least_is_shed_within_the_bound_that_is_full():
    table = make_table(max_pending=4, max_pending_per_client=2)
    mine_low, mine = stand(table, request(client="a", priority=6), request(client="a", priority=5))
    assert mine_low is table.least_urgent("a", 5), "only this client's own bound is full"
    assert None is table.least_urgent("a", 6)
    lowest = stand(table, request(client="b", priority=10))
    assert mine_low is table.least_urgent("a", 5)
    other_lane = stand(table, request(client="c", priority=9, model="n"))

    assert lowest is table.least_urgent("a", 5), "now the queue is full, whoever's it is"
    assert None is table.least_urgent("a", 10)
    table.withdraw(lowest, State.FAILED)
    stand(table, request(client="d", priority=7))
    assert other_lane is table.least_urgent("a", 5)
    assert mine.state is State.PENDING


class Guarded:
    """A request table in an engine that has no worker, so that nothing happens by itself; its lock and clock."""

    def __init__(self, table, when_full, is_inside=False):
        self.table, self.clock = table, FakeClock()
        self.engine = ThreadEngine(
            attempts=None,
            meter_of=ProcessLimiter(None).meter,
            clock=self.clock,
            timers=Timers(self.clock, "guarded"),
            max_workers=1,
            when_full=when_full,
        )
        self.engine._table = table
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


def full_table():
    table = make_table(max_pending=1)
    return table, stand(table, request("waiting", priority=5))


def test_where_there_is_room_or_the_queue_is_closed_nobody_waits():
    guarded = Guarded(make_table(max_pending=1), "block")
    assert None is guarded.ask(request())
    guarded = Guarded(full_table()[0], "raise")
    guarded.engine._closed = True
    assert None is guarded.ask(request())


def test_a_full_room_raises_or_sheds():
    table, waiting = full_table()
    with pytest.raises(QueueFull, match="wait for some to end"):
        Guarded(table, "raise").ask(request(priority=0))
    assert waiting is Guarded(table, "shed").ask(request(priority=4))
    with pytest.raises(QueueFull, match="nothing less urgent"):
        Guarded(table, "shed").ask(request(priority=5))


def test_a_callback_never_waits_for_room():
    assert None is Guarded(full_table()[0], "block", is_inside=True).ask(request())


@pytest.mark.parametrize(
    ("bounds", "passes_s"),
    [({"max_wait_ns": 7, "deadline_ns": 5}, 5), ({"max_wait_ns": 3}, 3), ({"deadline_ns": 4}, 4)],
)
def test_a_submitter_waits_no_longer_than_its_nearest_bound(bounds, passes_s):
    guarded = Guarded(full_table()[0], "block")
    thread, told = guarded.ask_on_thread(request(**{name: value * NS_PER_S for name, value in bounds.items()}))
    assert (1, True) == (guarded.engine._blocked_submitters, guarded.clock.is_awaited(passes_s))

    guarded.clock.advance(passes_s)

    thread.join(PATIENCE_S)
    assert [QueueTimeout] == [type(each) for each in told]
    assert f"max_wait or deadline={passes_s}" in str(told[0])
    assert 0 == guarded.engine._blocked_submitters


def test_a_submitter_looks_again_when_told_and_goes_on_when_there_is_room():
    table, waiting = full_table()
    guarded = Guarded(table, "block")
    thread, told = guarded.ask_on_thread(request())
    with guarded.lock:
        table.withdraw(waiting, State.CANCELLED)
        guarded.engine._not_full.notify_all()

    thread.join(PATIENCE_S)
    assert [None] == told
    assert 0 == guarded.engine._blocked_submitters


# -- the backlog


def paged_table():
    return make_table(pager=BacklogPager())


def test_rows_are_known_by_their_future_while_they_are_open():
    table = paged_table()
    mine, other = request(row_id=7), request()
    mine.future, other.future = object(), object()
    stand(table, mine, other)

    assert {7: mine.future} == table.rows
    assert {mine.future, other.future} == set(table.open_futures())


def test_a_row_that_was_taken_in_anew_is_not_forgotten_with_the_old_request():
    class Future:
        def __init__(self, request):
            self._request = request

    table = paged_table()
    old, new = request(row_id=7), request(row_id=7)
    for each in (old, new):
        each.future = Future(each)
        stand(table, each)

    table.forget(old)
    assert {7: new.future} == table.rows
    table.forget(new)
    assert {} == table.rows
    table.forget(request(row_id=8))


def test_what_is_shelved_counts_as_pending_once():
    table = paged_table()
    group = Group("m", "m", 5, "default")
    table.add_stored(group, 3)
    assert (3, 3, {5: 3}) == (
        table.counters.submitted,
        table.counters.pending,
        dict(table.counters.pending_by_priority),
    )

    future = type("Future", (), {"_request": None})()
    table.page_out(request(row_id=2), future, is_kept=False, is_new=False)
    assert (3, 3) == (table.counters.submitted, table.counters.pending)
    table.page_out(request(row_id=9), future, is_kept=True, is_new=True)
    assert (4, 4) == (table.counters.submitted, table.counters.pending)
    assert future in table.open_futures()


def test_a_page_mends_the_count():
    table = paged_table()
    group = Group("m", "m", 5, "default")
    table.add_stored(group, 1)
    page = table.pager.next_page()
    rows = [request(f"r{n}", row_id=n) for n in (1, 2, 3)]

    taken = table.page_in(page, rows, is_last=True)

    assert rows == taken
    assert (3, 3) == (table.counters.submitted, table.counters.pending)
    assert {1, 2, 3} == set(table.rows)
    assert rows[2] is table.find("r3")


def test_clearing_the_backlog_counts_what_was_cancelled():
    table = paged_table()
    group, other = Group("m", "m", 5, "a"), Group("m", "m", 5, "b")
    table.add_stored(group, 3)
    table.add_stored(other, 2)

    assert [(group, 0)] == table.clear_stored(lambda each: each.client == "a")

    assert (2, {"b": 2}, 3) == (
        table.counters.pending,
        dict(table.counters.pending_by_client),
        table.counters.ended[State.CANCELLED],
    )


def test_a_page_is_asked_for_behind_the_rows_that_have_come():
    table = paged_table()
    table.add_stored(Group("m", "m", 5, "default"), 9)
    table.page_in(table.pager.next_page(), [request(row_id=4)], is_last=False)

    page = table.pager.next_page()

    assert isinstance(page, Page)
    assert 4 == page.after


def test_a_lane_is_a_priority_queue_whose_mutex_is_the_lock_that_it_is_given():
    lock = threading.RLock()
    lane = Lane("m", "m", ProcessLimiter(None).meter("m", "m"), lambda lane: None, lock=lock)
    first, second = request(client="a"), request(client="b")

    with lock:
        lane.add(second)
        lane.add(first)

    assert isinstance(lane, queue.PriorityQueue)
    assert lock is lane.mutex
    assert [(5, second), (5, first)] == [
        (rank, each) for rank, _, each in sorted(lane.queue, key=lambda entry: entry[1])
    ]
    assert second is lane.head()
    assert lane.take(second)

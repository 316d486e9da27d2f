"""Who goes next, at what price, and what is said about those who do not: without threads."""

from __future__ import annotations

import logging

import pytest

from groq_queue.clock import NS_PER_S, FakeClock
from groq_queue.core.budget import Blocked, Lease, TooLarge
from groq_queue.core.limits import Limits
from groq_queue.core.price_table import PriceTable, SpendCap
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import Backlog, PromptSize, TokenCost
from groq_queue.engine import failures
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.explain import (
    check_in_time,
    expected_start,
    explanation_of,
    info_of,
    reason_of,
    stats_of,
    timed_out,
)
from groq_queue.engine.pending import PendingRequests
from groq_queue.engine.scheduler import Job, Scheduler
from groq_queue.errors import (
    APIConnectionError,
    APIError,
    CostLimitReached,
    DailyLimitReached,
    QueueTimeout,
    RequestTooLarge,
)
from groq_queue.limiters.in_process import ProcessLimiter

NOW_NS = FakeClock().now_ns()
PRICES = {"m": (1.0, 2.0)}  # USD per million: 1,000,000 and 2,000,000 picodollars a token


class Table:
    """A request table with a scheduler, on an instant that does not move by itself."""

    def __init__(self, limits=Limits(), *, max_usd=None, raises_daily=True, max_in_flight=None):  # noqa: B008
        self.limiter = ProcessLimiter(limits)
        self.table = PendingRequests(
            meter_of=self.limiter.meter,
            on_freed=lambda lane: None,
            max_pending=None,
            max_pending_per_client=None,
            max_in_flight=max_in_flight,
            ageing_ns=None,
        )
        self.told = []
        self.scheduler = Scheduler(
            self.table, PriceTable(PRICES), max_usd, raises_daily=raises_daily, tell_later=self.told.append
        )

    def stand(self, name=None, model="m", priority=5, prompt=10, completion=0, **options):
        size = PromptSize(prompt, completion, is_exact=True)
        request = Request(model, "e", b"{}", size, priority, "default", name, **options)
        request.submitted_ns = NOW_NS
        request.rank = priority
        self.table.accept(request)
        self.table.enqueue(request)
        return request

    def next_job(self, seconds=0):
        return self.scheduler.next_job(NOW_NS + round(seconds * NS_PER_S))

    def spend(self, **options):
        """Have a request sent and answered at once."""
        request = self.stand(**options)
        job, _ = self.next_job()
        assert request is job.request
        self.land(job)
        return job

    def land(self, job, charged=TokenCost(0), flight_s=0, way=Disposition.DONE):  # noqa: B008
        end_ns = job.began_ns + round(flight_s * NS_PER_S)
        job.lane.meter.settle(job.lease, job.request.size, None, (), end_ns)
        self.scheduler.pay(job, charged)
        self.table.land(job.request, job.lane, Outcome(way), job.began_ns, end_ns)
        self.table.end(job.request, State.COMPLETED)


# -- who goes next


def test_nobody_waits_and_nobody_is_chosen():
    assert (None, None) == Table().next_job()


def test_the_most_urgent_head_is_taken_with_its_lease():
    table = Table(Limits(rpm=10))
    table.stand("normal")
    urgent = table.stand("urgent", priority=1)

    job, next_ns = table.next_job(2)

    assert (urgent, None, NOW_NS + 2 * NS_PER_S, None) == (job.request, next_ns, job.began_ns, job.error)
    assert isinstance(job.lease, Lease)
    assert (State.RUNNING, 1, False) == (urgent.state, job.lane.in_flight, job.lane.is_blocked)


def test_a_blocked_lane_lets_others_pass_and_tells_when_the_first_may_go():
    table = Table({"m": Limits(rpm=1), "n": Limits(rpm=2), "o": Limits(rpm=1)})
    for model in ("m", "n", "n", "o"):
        table.spend(model=model)
    for model, priority in (("m", 1), ("n", 5), ("o", 8)):
        table.stand(model=model, priority=priority)

    assert (None, NOW_NS + 30 * NS_PER_S) == table.next_job()
    assert [True, True, True] == [lane.is_blocked for lane in table.table.lanes.values()]

    job, _ = table.next_job(30)
    assert "n" == job.request.model
    assert [True, False, True] == [lane.is_blocked for lane in table.table.lanes.values()]


def test_until_the_first_answer_nobody_can_tell_when_the_budget_is_free():
    """
    The server's bucket drains from the arrival of the first request on, which only its answer proves.
    """
    table = Table(Limits(rpm=1))
    table.stand()
    job, _ = table.next_job()
    table.stand()
    assert (None, None) == table.next_job()

    table.land(job, flight_s=2)

    assert (None, NOW_NS + 62 * NS_PER_S) == table.next_job(2)


def test_a_head_that_waits_for_the_end_of_an_attempt_names_no_instant():
    """
    With limits unknown the first request goes alone; only its answer can tell.
    """
    table = Table(None)
    table.stand("first")
    table.next_job()
    table.stand("second")

    assert (None, None) == table.next_job()


def test_a_head_that_was_cancelled_while_its_lease_was_granted_gives_it_back():
    table = Table(Limits(rpm=10), max_usd=1.0)
    doomed, other = table.stand("doomed"), table.stand("other")
    meter = table.table.lane(doomed).meter
    lease = meter.lease

    def lease_late(*arguments):
        granted = lease(*arguments)
        meter.lease = lease
        table.table.withdraw(doomed, State.CANCELLED)
        return granted

    meter.lease = lease_late

    assert (None, NOW_NS) == table.next_job()
    assert (1, 0, 1, 0) == meter.accounting()["RPM"]
    assert 0 == table.scheduler.spend_cap.reserved
    job, _ = table.next_job()
    assert other is job.request


def test_a_request_that_never_fits_is_ended_without_an_attempt():
    table = Table(Limits(tpm=100))
    request = table.stand("mine", prompt=150)

    job, _ = table.next_job()

    assert (request, None, State.FAILED) == (job.request, job.lease, request.state)
    assert isinstance(job.error, RequestTooLarge)
    assert (150, 100, "mine", request.id) == (
        job.error.cost,
        job.error.capacity,
        job.error.custom_id,
        job.error.request_id,
    )
    assert "tokens per minute (TPM)" in str(job.error)
    assert 1 == table.table.counters.ended[State.FAILED]


def test_an_error_of_the_budget_ends_each_request_as_its_own():
    table = Table(max_usd=1.0)
    request = table.stand("mine")
    away = APIConnectionError("the store is away", sent="no")
    table.table.lane(request).meter.lease = lambda *arguments: away

    job, _ = table.next_job()

    assert away is not job.error
    assert (APIConnectionError, "mine", request.id) == (type(job.error), job.error.custom_id, job.error.request_id)
    assert (None, None) == (away.custom_id, away.request_id)
    assert 0 == table.scheduler.spend_cap.reserved


def test_a_budget_that_asks_whose_turn_it_is_is_told():
    table = Table()
    request = table.stand(turn_cost=7)
    meter, turns = table.table.lane(request).meter, []
    lease = meter.lease
    meter.lease = lambda size, now_ns, turn: (turns.append(turn), lease(size, now_ns))[1]

    table.next_job()
    assert [None] == turns
    meter.asks_whose_turn = True
    asked = table.stand(turn_cost=7)
    table.next_job()

    assert (asked.id, 7) == (turns[1].request_id, turns[1].cost)


# -- days


def test_a_spent_day_ends_the_request_if_so_configured():
    table = Table(Limits(tpm=10**6, tpd=86_400))
    table.spend(prompt=86_400)
    request = table.stand("mine", prompt=3_600)

    job, _ = table.next_job()

    assert isinstance(job.error, DailyLimitReached)
    assert (State.FAILED, 3_600.0) == (request.state, job.error.resets_in)
    assert "would fit in 60 min" in str(job.error)
    assert [] == table.told


def test_a_spent_day_is_told_once_and_again_after_it_has_passed(caplog):
    table = Table(Limits(tpm=10**6, tpd=86_400), raises_daily=False)
    table.spend(prompt=86_400)
    table.stand("mine", prompt=3_600)

    for _ in range(3):
        assert (None, NOW_NS + 3_600 * NS_PER_S) == table.next_job()
    assert 1 == len(table.told)
    with caplog.at_level(logging.WARNING, "groq_queue"):
        table.told[0]()
    assert ["daily_limit"] == [record.groq_queue_event for record in caplog.records]
    assert "mine" == caplog.records[0].custom_id

    assert table.next_job(3_600)[0] is not None
    table.stand(prompt=3_600)
    table.next_job(3_600)
    assert 2 == len(table.told)


def test_a_spent_minute_is_not_told():
    table = Table(Limits(rpm=1), raises_daily=False)
    for _ in range(2):
        table.stand()
        table.next_job()

    assert [] == table.told


# -- money


def test_without_a_cap_money_is_counted_and_refuses_nobody():
    table = Table()
    table.stand(prompt=10, completion=5)

    job, _ = table.next_job()
    assert (None, 0) == (job.reserved, table.scheduler.spend_cap.reserved), "nothing has to be set aside"
    table.land(job, charged=TokenCost(3, 1))

    assert (0, 5_000_000) == (table.scheduler.spend_cap.reserved, table.scheduler.spend_cap.spent)


def test_a_model_without_a_price_costs_nothing_that_is_known():
    for max_usd in (None, 1.0):
        table = Table(max_usd=max_usd)
        table.stand(model="mystery")

        job, _ = table.next_job()
        assert None is job.reserved
        table.land(job, charged=TokenCost(3, 1))

        assert (0, 0) == (table.scheduler.spend_cap.reserved, table.scheduler.spend_cap.spent)


def test_a_request_waits_for_money_that_is_set_aside_and_ends_if_there_is_none():
    table = Table(max_usd=0.000_1)  # 100 tokens
    table.stand(prompt=60)
    waiting = table.stand("waiting", prompt=60)
    job, _ = table.next_job()

    assert (None, None) == table.next_job(), "60 may come back unused"
    assert table.table.lane(waiting).is_blocked
    table.land(job, charged=TokenCost(41))
    ended, _ = table.next_job()

    assert waiting is ended.request
    assert isinstance(ended.error, CostLimitReached)
    assert ("waiting", waiting.id) == (ended.error.custom_id, ended.error.request_id)
    assert "may cost 0.000060 USD, more than max_cost leaves after 0.000041 USD" in str(ended.error)


def test_money_that_came_back_lets_the_next_one_pass():
    table = Table(max_usd=0.000_1)
    table.stand(prompt=60)
    waiting = table.stand(prompt=60)
    table.land(table.next_job()[0], charged=TokenCost(40))

    job, _ = table.next_job()

    assert (waiting, 60_000_000) == (job.request, table.scheduler.spend_cap.reserved)


def test_a_request_above_the_cap_ends_at_once_whatever_is_set_aside():
    table = Table(max_usd=0.000_1)
    table.stand(prompt=60)
    table.next_job()
    table.stand(prompt=101)

    assert isinstance(table.next_job()[0].error, CostLimitReached)


def test_money_of_a_request_that_may_not_pass_yet_is_given_back():
    table = Table({"m": Limits(rpm=1), "n": Limits()}, max_usd=1.0)
    table.spend()
    table.stand()

    assert (None, NOW_NS + 60 * NS_PER_S) == table.next_job()
    assert 0 == table.scheduler.spend_cap.reserved


# -- bounds


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({}, []), ({"max_wait_ns": 5}, [5]), ({"deadline_ns": 7}, [7]), ({"max_wait_ns": 5, "deadline_ns": 7}, [7, 5])],
)
def test_bounds_are_what_the_caller_set(bounds, expected):
    request = Request("m", "e", b"{}", PromptSize(1, 0), 5, **bounds)

    assert expected == request.bounds_ns
    assert bool(expected) is request.has_bounds


@pytest.mark.parametrize(
    ("bounds", "age_ns", "attempts", "expected"),
    [
        ({}, 10**18, 0, False),
        ({"deadline_ns": 7}, 6, 0, False),
        ({"deadline_ns": 7}, 7, 0, True),
        ({"deadline_ns": 7}, 7, 3, True),
        ({"max_wait_ns": 7}, 6, 0, False),
        ({"max_wait_ns": 7}, 7, 0, True),
        ({"max_wait_ns": 7}, 7, 1, False),
        ({"max_wait_ns": 7, "deadline_ns": 9}, 8, 1, False),
    ],
)
def test_max_wait_bounds_the_first_start_and_a_deadline_every_one(bounds, age_ns, attempts, expected):
    request = Request("m", "e", b"{}", PromptSize(1, 0), 5, **bounds)
    request.submitted_ns, request.attempts = NOW_NS, attempts

    assert expected is request.is_past(NOW_NS + age_ns)


def late(table, deadline_s, **options):
    request = Request(
        "m",
        "e",
        b"{}",
        PromptSize(10, 0, is_exact=True),
        5,
        custom_id="late",
        deadline_ns=deadline_s * NS_PER_S,
        **options,
    )
    request.submitted_ns = NOW_NS
    return request


def test_who_would_start_after_its_deadline_is_refused_with_what_is_missing():
    table = Table(Limits(rpm=1))
    table.stand()
    table.next_job()
    for _ in range(4):
        table.stand()

    check_in_time(table.table, late(table, 300), workers=8)
    with pytest.raises(QueueTimeout) as caught:
        check_in_time(table.table, request := late(table, 299), workers=8)

    assert (1.0, "late", request.id) == (caught.value.retry_after, caught.value.custom_id, caught.value.request_id)
    assert "would start in about 5 min, 1 s after its deadline (4 requests ahead)" in str(caught.value)


def test_a_request_that_may_not_go_before_its_deadline_is_refused():
    with pytest.raises(QueueTimeout) as caught:
        check_in_time(Table().table, late(None, 5, not_before_ns=7 * NS_PER_S), workers=1)

    assert 2.0 == caught.value.retry_after
    check_in_time(Table().table, late(None, 7, not_before_ns=7 * NS_PER_S), workers=1)


def test_where_nobody_can_tell_the_start_the_request_is_taken_in():
    table = Table()
    table.stand()
    table.next_job()

    check_in_time(table.table, late(table, 0), workers=1)


def test_without_a_deadline_nothing_is_checked():
    table = Table(Limits(rpm=1))
    table.stand()
    table.next_job()

    check_in_time(table.table, Request("m", "e", b"{}", PromptSize(1, 0), 5, max_wait_ns=1), workers=1)


@pytest.mark.parametrize(("attempts", "tried"), [(0, "it was not sent"), (3, "3 attempts failed")])
def test_a_request_whose_time_has_passed_is_told_what_its_lane_waits_for(attempts, tried):
    table = Table(Limits(rpm=1))
    table.stand()
    table.next_job()
    request = table.stand("mine")
    request.attempts, request.last_error = attempts, APIConnectionError("reset")

    error = timed_out(table.table, request, "deadline", 5 * NS_PER_S, NOW_NS)

    assert f"ended by deadline=5: {tried}; its lane waits for requests per minute, 1 of 1 used" in str(error)
    assert (request.last_error, "mine", request.id) == (error.__cause__, error.custom_id, error.request_id)


# -- failures


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "in 0.25 s"),
        (89.9, "in 89.9 s"),
        (90, "in 90 s"),
        (119 * 60, "in 119 min"),
        (120 * 60, "in 2 h"),
        (12 * 3_600 + 5 * 60, "in 12 h 5 min"),
        (None, "later"),
    ],
)
def test_a_spent_day_says_when_the_request_would_fit_as_a_person_says_it(seconds, said):
    request = Request("m", "e", b"{}", PromptSize(1, 0), 5, custom_id="mine")
    wait_ns = None if seconds is None else round(seconds * NS_PER_S)

    error = failures.day_is_spent(request, Blocked("limit", wait_ns, "TPD", 90, 100))

    assert f"tokens per day, 90 of 100 used; request 'mine' would fit {said}: " in str(error)
    assert (seconds, "tokens per day (TPD)", request.id) == (error.resets_in, error.limit, error.request_id)


def test_what_never_fits_names_the_limit():
    request = Request("m", "e", b"{}", PromptSize(1, 0), 5, custom_id="mine")

    error = failures.too_large(request, TooLarge(7, 5, "RPM"))

    assert (7, 5, "mine", request.id) == (error.cost, error.capacity, error.custom_id, error.request_id)
    assert "requests per minute (RPM)" in str(error)


def test_what_an_attempt_raised_becomes_an_error_of_ours_without_its_frames():
    request, ours = Request("m", "e", b"{}", PromptSize(1, 0), 5, custom_id="mine"), APIConnectionError("lost")
    try:
        raise MemoryError("no room")
    except MemoryError as error:
        theirs = error
        told = failures.internal_error(error, request)

    assert ours is failures.internal_error(ours, request)
    assert (APIError, "mine", request.id) == (type(told), told.custom_id, told.request_id)
    assert theirs is told.__cause__
    assert None is theirs.__traceback__
    assert "MemoryError('no room')" in str(told)


def test_a_price_that_max_cost_does_not_leave_is_told_in_dollars():
    spend_cap = SpendCap(1.0)
    spend_cap.settle(0, 250_000_000_000)

    error = failures.over_cost_limit(Request("m", "e", b"{}", PromptSize(1, 0), 5), 800_000_000_000, spend_cap)

    assert "may cost 0.800000 USD, more than max_cost leaves after 0.250000 USD" in str(error)


# -- views


def test_what_a_lane_waits_for_is_said_in_order_of_weight():
    table = Table(Limits(rpm=2), max_in_flight=1)
    request = table.stand()
    lane = table.table.lane(request)
    assert "a free worker" == reason_of(lane, NOW_NS)

    job, _ = table.next_job()
    assert "one of 1 attempts of its model to end" == reason_of(lane, NOW_NS)
    table.land(job)
    assert "a free worker" == reason_of(lane, NOW_NS), "and nobody is in line"
    table.stand()
    table.land(table.next_job()[0])
    table.stand()
    assert "requests per minute, 2 of 2 used" == reason_of(lane, NOW_NS)
    lane.is_paused = True
    assert "resume(), the lane is paused" == reason_of(lane, NOW_NS)


def test_the_start_is_expected_when_the_budget_allows_or_when_a_worker_is_free():
    table = Table(Limits(rpm=100))
    running = [table.stand() for _ in range(2)]
    jobs = [table.next_job()[0] for _ in running]
    waiting = table.stand()
    ahead = Backlog(requests=3)

    assert None is expected_start(table.table, waiting, ahead, NOW_NS, workers=5), "three free, three ahead"
    assert 0 == expected_start(table.table, waiting, ahead, NOW_NS, workers=6)
    table.land(jobs[0], flight_s=4)
    one_runs = expected_start(table.table, waiting, ahead, NOW_NS, workers=2)
    assert (3 - 1 + 1) * 4 * NS_PER_S // 2 == one_runs


def test_a_snapshot_shows_each_lane_and_what_its_next_one_waits_for():
    table = Table({"m": Limits(rpm=1), "n": Limits()})
    table.stand()
    table.next_job()
    for _ in range(2):
        table.stand()
    table.stand(model="n")
    table.next_job()
    table.table.pause("n")

    stats = stats_of(table.table, NOW_NS, is_running=True, cost=0.5)

    assert (2, 2, True, 0.5) == (stats.pending, stats.in_flight, stats.running, stats.cost)
    assert [
        ("m", "m", 2, 1, False, "requests per minute, 1 of 1 used"),
        ("n", "n", 0, 1, True, None),
    ] == [(each.name, each.model, each.pending, each.in_flight, each.paused, each.waits_for) for each in stats.lanes]
    assert [("RPM", 1, 1)] == [(level.dimension, level.used, level.limit) for level in stats.lanes[0].limits]


def test_the_state_of_one_request():
    table = Table()
    request = table.stand("mine", priority=8, prompt=10, completion=5)
    request.last_error = error = APIConnectionError("reset")

    waiting = info_of(table.table, request, NOW_NS + 2 * NS_PER_S)
    table.next_job(3)
    request.attempts = 1
    running = info_of(table.table, request, NOW_NS + 9 * NS_PER_S)

    assert ("mine", "default", "m", 8, "pending", 0, 2.0, 15, error) == (
        waiting.custom_id,
        waiting.client,
        waiting.model,
        waiting.priority,
        waiting.state,
        waiting.attempts,
        waiting.waited,
        waiting.tokens,
        waiting.last_error,
    )
    assert ("running", 1, 3.0, request.id) == (running.state, running.attempts, running.waited, running.request_id)


@pytest.mark.parametrize(("attempts", "reason"), [(0, "its not_before"), (1, "its retry")])
@pytest.mark.parametrize(("due_s", "start_s"), [(5, 5.0), (-1, 0.0), (None, 0.0)])
def test_who_is_away_waits_for_its_instant(attempts, reason, due_s, start_s):
    table = Table()
    request = Request("m", "e", b"{}", PromptSize(1, 0), 5)
    request.attempts, request.due_ns = attempts, None if due_s is None else NOW_NS + due_s * NS_PER_S
    table.table.accept(request)
    table.table.away.add(request)

    told = explanation_of(table.table, request, NOW_NS, workers=1)

    assert ("pending", None, reason, start_s) == (told.state, told.position, told.waits_for, told.expected_start)


def test_who_stands_in_line_is_told_its_place_and_a_paused_one_no_start():
    table = Table(Limits(rpm=1))
    table.stand()
    table.next_job()
    first, second = table.stand(), table.stand("mine")

    told = explanation_of(table.table, second, NOW_NS, workers=1)
    assert ("mine", "pending", 2, 120.0) == (told.custom_id, told.state, told.position, told.expected_start)
    table.table.pause(None)
    assert None is explanation_of(table.table, second, NOW_NS, workers=1).expected_start
    table.table.withdraw(first, State.CANCELLED)
    told = explanation_of(table.table, first, NOW_NS, workers=1)
    assert ("cancelled", None, None, None) == (told.state, told.position, told.waits_for, told.expected_start)


def test_a_job_in_hand_says_what_it_is():
    table = Table()
    request = table.stand()
    lane = table.table.lane(request)

    job = Job(request, lane, 5, None)

    assert (request, lane, 5, None, None, None) == (
        job.request,
        job.lane,
        job.began_ns,
        job.lease,
        job.reserved,
        job.error,
    )


def test_a_start_is_expected_after_an_attempt_though_more_are_under_way_than_workers():
    """
    One worker's callback waits for a request, which another has taken over meanwhile.
    """
    table = Table()
    table.spend()
    table.table.counters.in_flight = 2
    table.table.counters._mean_flight_ns = 10.0

    assert 10 == expected_start(table.table, table.stand(), Backlog(), NOW_NS, workers=1)

"""What is counted and remembered of a run: run metrics, counters, and how a snapshot reads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from groq_queue.clock import NS_PER_S
from groq_queue.core.request import Request, State
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.metrics import Counters, RunMetrics, cause_of
from groq_queue.engine.stats import Explanation, RequestInfo, Stats
from groq_queue.errors import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    InternalServerError,
    QueueClosed,
    RateLimitError,
)

BIN_NS = 250_000_000
START_NS = 1_000 * NS_PER_S


def request(model="m", client="default", priority=5, submitted_ns=START_NS, tier=None):
    made = Request(model, "e", b"{}", PromptSize(1, 0), priority, client, tier=tier)
    made.submitted_ns = submitted_ns
    return made


# -- history


def test_a_history_before_the_first_start_is_empty_and_says_now():
    facts = RunMetrics().facts(START_NS, 7)

    assert (START_NS, START_NS, START_NS, START_NS) == (facts.began_ns, facts.ended_ns, facts.now_ns, facts.origin_ns)
    assert (7, BIN_NS) == (facts.flight_ns, facts.width_ns)
    assert ({}, {}, {}, ()) == (facts.retries, facts.waits_by_level, facts.waits_by_client, facts.lanes)


def test_the_course_of_a_lane_is_counted_by_quarters_of_a_second():
    history, sent = RunMetrics(), request()
    history.started(sent, START_NS)
    history.started(sent, START_NS + BIN_NS - 1)
    history.ended(sent, TokenCost(5, 2), START_NS + BIN_NS, is_answer=True, is_refused=False)
    history.ended(sent, TokenCost(1), START_NS + 3 * BIN_NS, is_answer=False, is_refused=True)
    history.ended(sent, TokenCost(0, 4), START_NS + 3 * BIN_NS, is_answer=False, is_refused=False)

    facts = history.facts(START_NS + 10 * BIN_NS, 0)

    (lane,) = facts.lanes
    assert ("m", "m", START_NS, START_NS + BIN_NS - 1) == (lane.name, lane.model, lane.first_ns, lane.last_ns)
    assert (2, 1, 1, 6, 6) == (
        lane.attempts,
        lane.answered,
        lane.refused,
        lane.prompt_tokens,
        lane.completion_tokens,
    )
    assert [[2, 0, 0, 0], [0, 1, 0, 7], [0, 0, 0, 0], [0, 0, 1, 5]] == lane.bins
    assert (START_NS, START_NS + 3 * BIN_NS) == (facts.origin_ns, facts.ended_ns)


def test_lanes_share_one_timeline_and_have_each_their_own_counts():
    history = RunMetrics()
    history.started(request("m"), START_NS)
    history.started(request("m", tier="flex"), START_NS + 2 * BIN_NS)

    one, other = history.facts(START_NS, 0).lanes

    assert ("m", "m (flex)", "m") == (one.name, other.name, other.model)
    assert [[1, 0, 0, 0]] == one.bins
    assert [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]] == other.bins


def test_a_timeline_that_is_full_is_joined_two_by_two_for_every_lane():
    """
    240 bins are a minute at first; what comes after that doubles the width of all.
    """
    history, sent, other = RunMetrics(), request(), request("n")
    history.started(other, START_NS)
    for place in (0, 1, 2, 239):
        history.started(sent, START_NS + place * BIN_NS)
    assert BIN_NS == history.facts(START_NS, 0).width_ns

    history.started(sent, START_NS + 240 * BIN_NS)

    facts = history.facts(START_NS, 0)
    lane = next(lane for lane in facts.lanes if lane.name == "m")
    assert 2 * BIN_NS == facts.width_ns
    assert {0: 2, 1: 1, 119: 1, 120: 1} == {place: bin_[0] for place, bin_ in enumerate(lane.bins) if bin_[0]}
    assert 121 == len(lane.bins)
    assert [[1, 0, 0, 0]] == next(lane for lane in facts.lanes if lane.name == "n").bins

    history.started(sent, START_NS + 960 * BIN_NS)
    facts = history.facts(START_NS, 0)
    assert 8 * BIN_NS == facts.width_ns
    assert 5 + 1 == sum(bin_[0] for lane in facts.lanes if lane.name == "m" for bin_ in lane.bins)


def test_a_clock_that_another_thread_read_first_may_lie_before_the_origin():
    history, sent = RunMetrics(), request()
    history.started(sent, START_NS)
    history.started(sent, START_NS - 5)

    facts = history.facts(START_NS, 0)

    assert [[2, 0, 0, 0]] == facts.lanes[0].bins
    assert START_NS == facts.ended_ns


def test_only_the_first_start_of_a_request_is_a_wait():
    history, first, later = RunMetrics(), request(priority=1, client="a"), request(priority=1, client="b")
    first.submitted_ns, later.submitted_ns = START_NS, START_NS - NS_PER_S
    history.started(first, START_NS + NS_PER_S)
    history.started(later, START_NS + NS_PER_S)
    first.attempts = 1
    history.started(first, START_NS + 50 * NS_PER_S)

    facts = history.facts(START_NS, 0)

    assert START_NS - NS_PER_S == facts.began_ns
    assert {1: 2} == {level: sketch.count for level, sketch in facts.waits_by_level.items()}
    assert {"a": 1, "b": 1} == {client: sketch.count for client, sketch in facts.waits_by_client.items()}
    assert (NS_PER_S, 2 * NS_PER_S) == (facts.waits_by_client["a"].largest, facts.waits_by_client["b"].largest)


def test_a_hundred_clients_have_waits_of_their_own_and_all_others_share():
    history = RunMetrics()
    for number in range(150):
        for priority in (1, 8):
            history.started(request(client=f"c{number}", priority=priority), START_NS)
    history.started(request(client="c3", priority=1), START_NS)
    history.started(request(client="c149", priority=1), START_NS)

    waits = {client: sketch.count for client, sketch in history.facts(START_NS, 0).waits_by_client.items()}

    assert {f"c{number}" for number in range(100)} | {None} == set(waits)
    assert (2, 3, 101) == (waits["c0"], waits["c3"], waits[None])


def test_facts_are_a_copy():
    history, sent = RunMetrics(), request()
    history.started(sent, START_NS)
    facts = history.facts(START_NS, 0)

    history.started(sent, START_NS)
    history.retried(sent)

    assert ([[1, 0, 0, 0]], 1, {}) == (facts.lanes[0].bins, facts.lanes[0].attempts, facts.retries)
    assert 1 == facts.waits_by_level[5].count


def test_retries_are_counted_by_cause_the_most_frequent_first():
    history, sent = RunMetrics(), request()
    for error in (None, APITimeoutError("slow"), APITimeoutError("slow")):
        sent.last_error = error
        history.retried(sent)

    assert [("timeout", 2), ("unknown", 1)] == list(history.facts(START_NS, 0).retries.items())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RateLimitError("429", status_code=429), "429 refused by a limit"),
        (InternalServerError("503", status_code=503), "HTTP 503"),
        (APITimeoutError("slow"), "timeout"),
        (APIConnectionError("lost"), "connection lost"),
        (APIResponseError("html"), "unreadable answer"),
        (QueueClosed("closed"), "QueueClosed"),
        (None, "unknown"),
    ],
)
def test_causes_are_few_words(error, cause):
    assert cause == cause_of(error)


# -- counters


def test_who_waits_is_counted_by_client_level_and_lane_and_forgotten_at_zero():
    counters, one, other = Counters(), request(client="a", priority=1), request("n", client="a", priority=8)
    counters.count_pending(one, 1)
    counters.count_pending(one, 2)
    counters.count_pending(other, 1)
    assert (4, {"a": 4}, {1: 3, 8: 1}, {"m": 3, "n": 1}) == (
        counters.pending,
        counters.pending_by_client,
        counters.pending_by_priority,
        counters.pending_by_lane,
    )

    counters.count_pending(one, -3)

    assert (1, {"a": 1}, {8: 1}, {"n": 1}) == (
        counters.pending,
        dict(counters.pending_by_client),
        dict(counters.pending_by_priority),
        dict(counters.pending_by_lane),
    )
    counters.count_nobody_pending()
    assert (0, {}, {}, {}) == (
        counters.pending,
        dict(counters.pending_by_client),
        dict(counters.pending_by_priority),
        dict(counters.pending_by_lane),
    )


def test_attempts_are_counted_from_start_to_landing():
    counters, sent = Counters(), request()
    refused = RateLimitError("429", status_code=429)
    counters.started(sent, START_NS + NS_PER_S)
    sent.attempts = 1
    counters.started(sent, START_NS + 9 * NS_PER_S)
    assert (2, 2, {50: 1.0, 90: 1.0, 99: 1.0}) == (counters.attempts, counters.in_flight, counters.wait_percentiles())

    counters.landed(sent, Outcome(Disposition.DONE, charged=TokenCost(7, 3)), 0, START_NS)
    counters.landed(sent, Outcome(Disposition.RATE_LIMITED, error=refused, charged=TokenCost(1, 1)), 0, START_NS)
    counters.waits_again(sent)

    assert (0, 1, 1, 8, 4) == (
        counters.in_flight,
        counters.refused,
        counters.retried,
        counters.prompt_tokens,
        counters.completion_tokens,
    )
    (lane,) = counters.history.facts(START_NS, 0).lanes
    assert (1, 1, 8) == (lane.answered, lane.refused, lane.prompt_tokens)


def test_a_failure_is_neither_an_answer_nor_a_refusal():
    counters, sent = Counters(), request()
    counters.started(sent, START_NS)
    counters.landed(sent, Outcome(Disposition.FAILED, error=APIConnectionError("lost")), 0, START_NS)

    (lane,) = counters.history.facts(START_NS, 0).lanes
    assert (0, 0, 0) == (lane.answered, lane.refused, counters.refused)


def test_percentiles_of_waits_are_of_the_last_thousand_starts():
    counters = Counters()
    assert {} == counters.wait_percentiles()
    for seconds in range(1_100):
        counters.started(request(), START_NS + seconds * NS_PER_S)

    assert {50: 600.0, 90: 1_000.0, 99: 1_090.0} == counters.wait_percentiles()


def test_the_time_of_an_attempt_is_a_mean_that_follows_the_last_fifty():
    counters, sent = Counters(), request()
    assert 0 == counters.mean_flight_ns()
    for flight_ns in (100, 200, 600):
        counters.started(sent, START_NS)
        counters.landed(sent, Outcome(Disposition.DONE), flight_ns, START_NS)
    assert 300 == counters.mean_flight_ns()

    for _ in range(47):
        counters.landed(sent, Outcome(Disposition.DONE), 300, START_NS)
    counters.landed(sent, Outcome(Disposition.DONE), 300 + 50, START_NS)
    assert 301 == counters.mean_flight_ns()
    counters.landed(sent, Outcome(Disposition.DONE), 301 + 50_000, START_NS)
    assert 1_301 == counters.mean_flight_ns(), "a fiftieth of it"


def test_the_time_between_starts_is_a_mean_over_the_last_64():
    counters = Counters()
    assert None is counters.start_interval_ns()
    counters.started(request(), START_NS)
    assert None is counters.start_interval_ns()
    counters.started(request(), START_NS + 10)
    assert 10 == counters.start_interval_ns()
    counters.started(request(), START_NS + 40)
    assert 20 == counters.start_interval_ns()

    for n in range(1, 65):
        counters.started(request(), START_NS + 100 * n)

    assert 100 == counters.start_interval_ns()


def test_a_snapshot_holds_every_count():
    counters = Counters()
    counters.submitted, counters.attempts, counters.refused, counters.retried = 20, 5, 6, 7
    counters.prompt_tokens, counters.completion_tokens, counters.in_flight = 8, 9, 10
    for state, count in ((State.COMPLETED, 1), (State.FAILED, 2), (State.CANCELLED, 3), (State.EXPIRED, 4)):
        counters.ended[state] = count
    counters.count_pending(request(client="b", priority=8), 2)
    counters.count_pending(request(client="a", priority=1), 1)

    stats = counters.stats([], cost=0.5, is_running=False)

    assert (
        Stats(
            pending=3,
            in_flight=10,
            submitted=20,
            completed=1,
            failed=2,
            cancelled=3,
            expired=4,
            attempts=5,
            refused=6,
            retried=7,
            prompt_tokens=8,
            completion_tokens=9,
            cost=0.5,
            pending_by_priority={1: 1, 8: 2},
            pending_by_client={"a": 1, "b": 2},
            running=False,
        )
        == stats
    )
    assert [1, 8] == list(stats.pending_by_priority)
    assert 1 + 2 + 3 + 4 == stats.done


# -- how it reads

EMPTY = {
    "pending": 0,
    "in_flight": 0,
    "submitted": 0,
    "completed": 0,
    "failed": 0,
    "cancelled": 0,
    "expired": 0,
    "attempts": 0,
    "refused": 0,
    "retried": 0,
}


def lane(model, pending, limits=(), waits_for=None):
    return SimpleNamespace(name=model, model=model, pending=pending, limits=limits, waits_for=waits_for)


def test_pending_by_model_adds_up_the_lanes_of_a_model():
    stats = Stats(**EMPTY, lanes=(lane("m", 2), lane("m", 3), lane("n", 0), lane("o", 1)))

    assert {"m": 5, "o": 1} == stats.pending_by_model


def test_a_snapshot_reads_as_tables_that_leave_out_what_is_not_there():
    level = SimpleNamespace(dimension="RPM", used=3, limit=30)
    stats = Stats(
        **EMPTY | {"pending": 1_234},
        lanes=(lane("m", 1, (level,), "a free worker"), lane("n", 0, (level,))),
        wait_percentiles={50: 0.25, 90: 90.0},
        pending_by_priority={1: 3, 7: 4},
        pending_by_client={f"c{n}": n for n in range(1, 23)},
        cost=0.0125,
    )

    counts, limits, waits, levels, clients = stats.tables()

    assert ("pending", 1_234) == counts.rows[0]
    assert ("completion tokens", 0) in counts.rows
    assert ("cost, USD", "0.012500") == counts.rows[-1]
    rpm = "requests per minute"
    assert [("m", rpm, 3, 30, "a free worker"), ("n", rpm, 3, 30, "")] == limits.rows
    assert [("50 %", "0.25 s"), ("90 %", "90 s")] == waits.rows
    assert [("high", 3), ("7", 4)] == levels.rows
    assert [("c22", 22), ("c21", 21)] == clients.rows[:2]
    assert [("c3", 3), ("2 others", 3)] == clients.rows[-2:]
    assert "1,234" in str(stats)
    assert "<table>" in stats._repr_html_()


def test_a_free_run_of_few_clients_needs_neither_a_cost_nor_others():
    counts, *_, clients = Stats(**EMPTY, pending_by_client={f"c{n:02}": 1 for n in range(20)}).tables()

    assert "cost, USD" not in [name for name, _ in counts.rows]
    assert 20 == len(clients.rows)


def test_one_request_reads_as_a_table():
    known = RequestInfo("0123456789", None, "acme", "m", 1, "failed", 2_000, 90.0, 1_500, KeyError("why"))
    named = RequestInfo("0123456789", "row-7", "acme", "m", 7, "pending", 0, 0.25, 10)

    assert {
        ("request", "0123456789"),
        ("state", "failed"),
        ("priority", "high"),
        ("attempts", "2,000"),
        ("waited", "90 s"),
        ("tokens", "1,500"),
        ("last error", "'why'"),
    } <= set(known.tables()[0].rows)
    assert {("request", "row-7"), ("last error", "")} <= set(named.tables()[0].rows)
    assert "row-7" in str(named)
    assert "row-7" in named._repr_html_()


@pytest.mark.parametrize(
    ("explanation", "said"),
    [
        (Explanation("0123456789", None, "running", None, None, None), "01234567: running"),
        (
            Explanation("0", "mine", "pending", 3, "a free worker", 61.25),
            "mine: number 3 in line, waits for a free worker, expected to start in 61.2 s",
        ),
        (Explanation("0", "mine", "pending", None, "its retry", None), "mine: waits for its retry"),
        (
            Explanation("0", "mine", "pending", 1, "tokens per day", 57_600.0),
            "mine: number 1 in line, waits for tokens per day, expected to start in 16 h",
        ),
    ],
)
def test_an_explanation_reads_as_a_sentence(explanation, said):
    assert said == str(explanation)


def test_an_explanation_reads_as_a_table_too():
    page = Explanation("0123456789", None, "pending", 1_234, "a free worker", 61.25)._repr_html_()
    short = Explanation("0", "mine", "running", None, None, None)._repr_html_()

    for text in ("0123456789", "1,234", "a free worker", "61.2 s"):
        assert text in page
    assert "mine" in short
    assert "None" not in short

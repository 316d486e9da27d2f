"""Shares, bounds and orders that must hold for any load, counted where they matter."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import wait

import pytest
from extras import needs

from groq_queue import GroqQueue, GroqSimulator
from groq_queue.core.limits import Limits

CLIENTS = ("ada", "bob", "cyd", "dan", "eve")


def jain(shares):
    """Return Jain's index: 1 if all are equal, 1/n if one has everything."""
    shares = list(shares)
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def served_under_backlog(prompts, *, limits, count, fair_by):
    """Return the first *count* records of the simulator's log, while every client still had a backlog."""
    with (
        GroqSimulator(limits=limits, output=1.0) as groq,
        GroqQueue(
            api_key=f"fairness-{fair_by}",
            base_url=groq.base_url,
            model="llama-3.1-8b-instant",
            limits=limits,
            max_pending=None,
            fair_by=fair_by,
        ) as queue,
    ):
        queue.pause()
        for client, texts in prompts.items():
            for text in texts:
                queue.submit(f"{client} {text}", client=client, max_completion_tokens=1)
        queue.resume()
        assert groq.wait_for_requests(count, 30)
        queue.cancel_all()
        log = groq.log[:count]

    received = Counter(record.prompt.split()[0] for record in log)
    assert all(received[client] < len(texts) for client, texts in prompts.items()), "a backlog ran out"
    assert {200} == {record.status for record in log}
    return log


def test_five_equal_clients_get_equal_shares_of_requests():
    """
    One client has twenty times the backlog of the others, and comes first.
    """
    prompts = {client: ["hello"] * 100 for client in CLIENTS}
    prompts["ada"] = ["hello"] * 2_000

    log = served_under_backlog(prompts, limits=Limits(rpm=200, minute_s=0.2), count=400, fair_by="requests")

    sent = Counter(record.prompt.split()[0] for record in log)
    assert set(CLIENTS) == set(sent)
    assert jain(sent.values()) >= 0.99


def test_five_equal_clients_get_equal_shares_of_tokens():
    """
    Two clients send prompts of 8,000 tokens, three of 100; the simulator counts the real text.
    """
    prompts = {client: ["word " * 96] * 1_200 for client in CLIENTS[:3]}
    prompts |= {client: ["word " * 7_990] * 20 for client in CLIENTS[3:]}

    log = served_under_backlog(prompts, limits=Limits(tpm=250_000, minute_s=0.2), count=2_500, fair_by="tokens")

    tokens = Counter()
    for record in log:
        tokens[record.prompt.split()[0]] += record.requested
    assert {range(90, 120), range(7_900, 8_100)} == {
        next(span for span in (range(90, 120), range(7_900, 8_100)) if record.requested in span) for record in log
    }
    assert jain(tokens.values()) >= 0.99


def load_above(stage, priority, *, ageing_s, offset_s, client):
    """Send HIGH at twice the capacity for 60 s, one request of *priority* among them.

    Returns:
        The seconds after which that one was sent, or None if it was not; and the stage.
    """
    play = stage(
        Limits(rpm=1, minute_s=1),
        max_workers=1,
        ageing_ns=None if ageing_s is None else ageing_s * 1_000_000_000,
    )
    play.clock.advance(offset_s)
    play.submit("first", priority="high").result(10)
    play.submit("late", priority=priority, client=client)
    sent_at = None
    for half_second in range(120):
        play.submit(f"high-{half_second}", priority="high")
        play.clock.advance(0.5)
        if half_second % 2:
            second = half_second // 2 + 1
            play.wait_for_landings(second + 1)
            if sent_at is None and "late" in play.names():
                sent_at = second
    assert 61 == len(play.sent), "the limit was used to the full"
    return sent_at, play


@pytest.mark.parametrize("client", ["default", "another"])
@pytest.mark.parametrize("offset_s", [0, 2.5, 4.999])
@pytest.mark.parametrize(("priority", "levels_above"), [("low", 2), ("background", 3)])
def test_with_ageing_a_wait_is_bounded_under_twice_the_capacity_of_high(
    stage, priority, levels_above, offset_s, client
):
    """
    The documented bound is r * (levels above + 1) * ageing: 30 s for LOW and 40 s for BACKGROUND under HIGH.
    """
    sent_at, _ = load_above(stage, priority, ageing_s=5, offset_s=offset_s, client=client)

    assert sent_at is not None
    assert 2 * (levels_above - 1) * 5 <= sent_at <= 2 * (levels_above + 1) * 5


@pytest.mark.parametrize("priority", ["low", "background"])
def test_without_ageing_a_lower_level_waits_for_as_long_as_the_load_lasts(stage, priority):
    sent_at, play = load_above(stage, priority, ageing_s=None, offset_s=0, client="another")

    assert sent_at is None
    play.clock.advance(1_000)  # one a second, and the load has ended
    for _ in range(60):
        play.clock.advance(1)
        play.wait_for_landings(len(play.taken))
    while play.engine.stats().pending:
        landed = len(play.taken)
        play.clock.advance(1)
        play.wait_for_landings(landed + 1)
    assert "late" == play.names()[-1]


def test_with_ageing_levels_still_count_for_those_who_came_together(stage):
    play = stage(Limits(rpm=1, minute_s=1), max_workers=1, ageing_ns=5_000_000_000)
    play.submit("first").result(10)
    for name in ("background", "low", "normal", "high", "critical"):
        play.submit(name, priority=name)

    for sent in range(2, 7):
        play.clock.advance(1)
        play.wait_for_landings(sent)

    assert ["first", "critical", "high", "normal", "low", "background"] == play.names()


class Watched:
    """A stage whose every take is checked against a model of what waits."""

    def __init__(self, play):
        self.play = play
        self.engine = play.engine
        self.futures = []
        self.waiting = {}  # request: its number in the order of lining up
        self.wrong = []
        self._count = 0
        started = self.engine._table.counters.started

        def check(request, now_ns):
            self._check_take(request)
            started(request, now_ns)

        self.engine._table.counters.started = check

    def submit(self, client, priority):
        with self.engine._lock:
            future = self.play.submit(f"{len(self.futures)}", client=client, priority=priority)
            self._line_up(future._request)
        self.futures.append(future)

    def set_priority(self, future, priority):
        with self.engine._lock:
            if self.engine.set_priority(future._request, priority):
                self._line_up(future._request)

    def cancel(self, future):
        with self.engine._lock:
            if future.cancel():
                self.waiting.pop(future._request, None)

    def settle_down(self):
        """Wait until nothing more happens by itself; fail if something should and does not."""
        while True:
            with self.engine._lock:
                taken, stats = len(self.play.taken), self.engine.stats()
                head = self.engine._table.lanes["m"].head() if self.engine._table.lanes else None
                blocked = head and self.play.limiter.meter("m", "m").blocks(head.size, self.play.clock.now_ns())
            if stats.in_flight or head is None or blocked is not None:
                return
            self.play.wait_for_sends(taken + 1)

    def end_one(self):
        """Let the attempt under way end, if there is one."""
        running = [future for future in self.futures if future.running()]
        if running:
            self.play.release(1)
            assert not wait(running, timeout=10).not_done

    def _line_up(self, request):
        self._count += 1
        self.waiting[request] = self._count

    def _check_take(self, taken):
        number = self.waiting.pop(taken)
        for other, its_number in self.waiting.items():
            if other.priority < taken.priority:
                self.wrong.append(f"{taken} of level {taken.priority} before {other} of level {other.priority}")
            if (other.client, other.priority) == (taken.client, taken.priority) and its_number < number:
                self.wrong.append(f"{taken} before {other} of the same client and level")


def steps_of(st):
    level = st.sampled_from((0, 1, 5, 8, 10, 3))
    client = st.sampled_from("abcd")
    which = st.integers(0, 60)
    return st.lists(
        st.one_of(
            st.tuples(st.just("submit"), client, level),
            st.tuples(st.just("submit"), client, level),
            st.tuples(st.just("submit"), client, level),
            st.tuples(st.just("cancel"), which),
            st.tuples(st.just("set_priority"), which, level),
            st.tuples(st.just("set_weight"), client, st.sampled_from((0.25, 1, 3, 1_000))),
            st.tuples(st.just("end_one")),
            st.tuples(st.just("advance"), st.sampled_from((0.1, 0.5, 2))),
        ),
        max_size=60,
    )


@pytest.mark.parametrize("rpm", [None, 3])
def test_no_load_inverts_levels_breaks_fifo_or_leaves_a_free_budget_unused(stage, rpm):
    """
    Any mix of submits, cancels, moves and weights: strict levels hold at each take, FIFO holds for one client and
    level, something is sent whenever the budget and a worker are free, and every Future ends.
    """
    hypothesis = needs("hypothesis")

    @hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @hypothesis.given(steps_of(hypothesis.strategies))
    def run(steps):
        play = stage(Limits(rpm=rpm, minute_s=1), max_workers=1)
        watched = Watched(play)
        play.hold()
        for name, *arguments in steps:
            if name == "submit":
                watched.submit(*arguments)
            elif name == "set_weight":
                play.engine.set_weight(*arguments)
            elif name == "advance":
                play.clock.advance(*arguments)
            elif name == "end_one":
                watched.end_one()
            elif watched.futures:
                getattr(watched, name)(watched.futures[arguments[0] % len(watched.futures)], *arguments[1:])
            watched.settle_down()
        for _ in range(2 * len(watched.futures)):
            watched.end_one()
            play.clock.advance(1)
            watched.settle_down()
        play.engine.shutdown(wait=True, cancel_futures=False)

        assert [] == watched.wrong
        assert all(future.done() for future in watched.futures)
        ended = sum(not future.cancelled() for future in watched.futures)
        assert ended == len(play.sent) == len({request.id for request in play.sent})
        assert {} == watched.waiting

    run()

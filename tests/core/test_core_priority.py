"""Who is next: levels, turns, arrival; counted, never timed."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Iterable

import pytest

from groq_queue.core import fair_queue
from groq_queue.core.fair_queue import Entry, FairQueue, is_stale
from groq_queue.core.priority import LeaseApplicant, Priority, level_index, level_name, parse_priority, rank_of
from groq_queue.errors import ConfigurationError


class Asked:
    """As much of a request as the order wants to know."""

    def __init__(self, name: str, client: str = "a", level: int = 5, cost: int = 1) -> None:
        self.name, self.client, self.rank, self.turn_cost = name, client, level, cost
        self.arrival = 0
        self.seq: tuple[int, int] | None = None
        self.was_taken = False

    def __repr__(self) -> str:
        return self.name


class Line:
    """A heap kept by a ``FairQueue``, as a lane keeps it."""

    def __init__(self) -> None:
        self.order = FairQueue()
        self.heap: list[Entry] = []

    def put(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            entry[2].seq = entry[1]
            heapq.heappush(self.heap, entry)

    def add(self, *asked: Asked) -> None:
        for one in asked:
            self.put(self.order.add(one))

    def put_back(self, asked: Asked) -> None:
        assert asked.seq is not None
        self.put(self.order.put_back(asked, asked.seq))

    def take(self) -> Asked:
        while is_stale(self.heap[0]):
            heapq.heappop(self.heap)
        asked: Asked = heapq.heappop(self.heap)[2]
        asked.arrival = 0
        again, asked.was_taken = asked.was_taken, True
        self.put(self.order.taken(asked, again=again))
        return asked

    def discard(self, asked: Asked) -> None:
        self.put(self.order.discard(asked, again=asked.was_taken))

    @property
    def is_empty(self) -> bool:
        return all(is_stale(entry) for entry in self.heap)

    def take_all(self) -> list[str]:
        names = []
        while not self.is_empty:
            names.append(self.take().name)
        return names


# -- priorities


@pytest.mark.parametrize(
    ("given", "level"),
    [("high", 1), (" Normal ", 5), ("BACKGROUND", 10), (Priority.LOW, 8), (0, 0), (10, 10), (7, 7)],
)
def test_a_priority_is_a_name_in_any_case_or_a_number_from_0_to_10(given: object, level: int) -> None:
    assert level == parse_priority(given)


@pytest.mark.parametrize("given", ["urgent", "", "5", -1, 11, 5.0, True, None, [1]])
def test_anything_else_as_a_priority_is_refused_with_the_choices(given: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_priority(given)

    assert f"priority={given!r}" in str(caught.value)
    assert "critical, high, normal, low, background" in str(caught.value)


def test_rungs_count_the_named_levels_above_and_rise_with_every_number() -> None:
    rungs = [level_index(priority) for priority in range(11)]

    assert [0.0, 1.0, 2.0, 3.0, 4.0] == [level_index(priority) for priority in Priority]
    assert rungs == sorted(set(rungs))


# -- levels


def test_a_higher_level_goes_first_whoever_asks_and_whenever() -> None:
    """
    For random levels, clients, weights and costs no request is taken while a higher level has one.
    """
    rng = random.Random(1)
    line = Line()
    for client in "abc":
        line.order.set_weight(client, rng.uniform(0.1, 20))
    pending: Counter[int] = Counter()

    inversions = taken = 0
    for number in range(3_000):
        if not pending or rng.random() < 0.5:
            asked = Asked(str(number), rng.choice("abc"), rng.randrange(11), rng.randint(1, 500))
            line.add(asked)
            pending[asked.rank] += 1
        else:
            asked = line.take()
            inversions += asked.rank > min(+pending)
            pending[asked.rank] -= 1
            pending = +pending
            taken += 1

    assert 1_000 < taken
    assert 0 == inversions


def test_one_client_is_served_in_the_order_of_arrival_whatever_its_costs() -> None:
    rng = random.Random(2)
    line = Line()
    names = [str(number) for number in range(300)]
    for name in names:
        line.add(Asked(name, cost=rng.randint(1, 1_000)))

    assert names == line.take_all()


def test_clients_of_one_level_take_turns() -> None:
    line = Line()
    line.add(*(Asked(f"a{number}", "a") for number in range(4)))
    line.add(*(Asked(f"b{number}", "b") for number in range(2)))

    assert ["a0", "b0", "a1", "b1", "a2", "a3"] == line.take_all()


def test_arrival_decides_between_equal_turns() -> None:
    line = Line()
    line.add(*(Asked(client, client) for client in "dbca"))

    assert ["d", "b", "c", "a"] == line.take_all()


# -- shares


@pytest.mark.parametrize("seed", range(12))
def test_a_backlogged_client_is_never_more_than_one_request_from_its_share(seed: int) -> None:
    """
    Clients that always have something pending, with random weights and costs, while others of their requests are
    cancelled at random places in line: at every instant each has had its weighted share of all that was
    taken, give or take one request of the largest size.
    """
    rng = random.Random(seed)
    line = Line()
    clients = [f"c{number}" for number in range(rng.randint(2, 12))]
    weights = {client: rng.choice((1, 1, 2, 0.25, 7.5, rng.uniform(0.1, 30))) for client in clients}
    largest = rng.choice((1, 40, 5_000))
    pending: dict[str, list[Asked]] = {client: [] for client in clients}

    def refill(client: str) -> None:
        while len(pending[client]) < 6:
            asked = Asked("", client, cost=rng.randint(1, largest))
            pending[client].append(asked)
            line.add(asked)

    for client in clients:
        line.order.set_weight(client, weights[client])
        refill(client)
    share = {client: weight / sum(weights.values()) for client, weight in weights.items()}
    served: Counter[str] = Counter()
    worst_ahead = worst_behind = 0.0
    for _ in range(1_500):
        if rng.random() < 0.3:
            client = rng.choice(clients)
            line.discard(pending[client].pop(rng.randrange(len(pending[client]))))
            refill(client)
        asked = line.take()
        pending[asked.client].remove(asked)
        served[asked.client] += asked.turn_cost
        refill(asked.client)
        total = served.total()
        for client in clients:
            gap = served[client] - share[client] * total
            worst_ahead, worst_behind = max(worst_ahead, gap), max(worst_behind, -gap)

    assert worst_ahead <= largest + 1e-6
    assert worst_behind <= largest + 1e-6


def test_a_weight_holds_from_the_next_request_on() -> None:
    line = Line()
    for number in range(40):
        line.add(Asked(f"a{number}", "a"), Asked(f"b{number}", "b"))

    before = Counter(line.take().client for _ in range(20))
    line.order.set_weight("a", 3)
    after = Counter(line.take().client for _ in range(24))

    assert {"a": 10, "b": 10} == before
    assert abs(after["a"] - 18) <= 1
    assert abs(after["b"] - 6) <= 1


def test_an_idle_client_earns_no_credit() -> None:
    """
    Whoever slept while others were served shares evenly from now on, and is owed nothing.
    """
    line = Line()
    line.add(Asked("first", "sleeper"))
    line.add(*(Asked("", "busy") for _ in range(600)))
    for _ in range(300):
        line.take()

    line.add(*(Asked("", "sleeper") for _ in range(100)))
    served = Counter(line.take().client for _ in range(100))

    assert abs(served["sleeper"] - 50) <= 1


def test_a_client_that_asks_again_only_after_each_answer_gets_no_more_than_its_share() -> None:
    line = Line()
    for client in "bcde":
        line.add(*(Asked("", client) for _ in range(500)))
    line.add(Asked("", "a"))

    served: Counter[str] = Counter()
    for _ in range(500):
        asked = line.take()
        served[asked.client] += 1
        if asked.client == "a":
            line.add(Asked("", "a"))

    assert abs(served["a"] - 100) <= 2


def test_leaving_an_empty_level_and_coming_back_gains_nothing() -> None:
    """
    A level everybody left is forgotten; tags of the next busy spell are not smaller than those before.
    """
    line = Line()
    line.add(Asked("old", "a", cost=1_000))
    old = line.take()
    assert not line.order._levels

    line.add(*(Asked(f"new{number}", "a") for number in range(3)))
    line.put_back(old)

    assert ["old", "new0", "new1", "new2"] == line.take_all()


def test_a_request_put_back_into_a_level_everybody_left_still_goes_before_newer_ones_of_its_client() -> None:
    """
    Its tag ran ahead of virtual time; what comes after the break starts behind the largest tag ever given.
    """
    line = Line()
    old, dropped = Asked("old", "a", cost=1_000), Asked("dropped", "b", cost=2_000)
    line.add(old, dropped)
    assert old is line.take()
    line.discard(dropped)

    line.add(Asked("new", "a"))
    line.put_back(old)

    assert ["old", "new"] == line.take_all()


# -- the heap


@pytest.mark.parametrize("seed", range(8))
def test_somebody_stands_in_the_heap_exactly_while_somebody_is_pending(seed: int) -> None:
    """
    Under random arrivals, turns, cancels, retries and weights the heap is never empty while requests are pending,
    holds at most one entry a client and level besides those put back, and in the end nothing is remembered.
    """
    rng = random.Random(seed)
    line = Line()
    pending: set[Asked] = set()
    away: list[Asked] = []
    taken = cancelled = 0
    for number in range(2_500):
        roll = rng.random()
        if roll < 0.4 and number < 2_000:
            asked = Asked(str(number), rng.choice("abcde"), rng.choice((0, 5, 5, 8)), rng.randint(1, 100))
            line.add(asked)
            pending.add(asked)
        elif roll < 0.7 and pending:
            asked = line.take()
            pending.remove(asked)
            taken += 1
            if rng.random() < 0.3:
                away.append(asked)
        elif roll < 0.8 and away:
            asked = away.pop(rng.randrange(len(away)))
            line.put_back(asked)
            pending.add(asked)
        elif roll < 0.9 and pending:
            asked = rng.choice(sorted(pending, key=lambda one: one.name))
            pending.remove(asked)
            line.discard(asked)
            cancelled += 1
        elif roll < 0.92:
            line.order.set_weight(rng.choice("abc"), rng.uniform(0.2, 9))
        live = [entry for entry in line.heap if not is_stale(entry)]
        assert bool(live) == bool(pending)
        assert sum(not entry[2].was_taken for entry in live) <= 5 * 3
        for level in line.order._levels.values():
            assert level.weights == sum(turn.weight for turn in level.turns.values())
    while not line.is_empty:
        pending.remove(line.take())

    assert 300 < taken
    assert 100 < cancelled
    assert not pending
    assert {} == line.order._levels
    assert {"a", "b", "c"} >= line.order._weights.keys()


def test_a_request_put_back_keeps_its_place() -> None:
    line = Line()
    line.add(*(Asked(f"a{number}", "a") for number in range(3)), *(Asked(f"b{number}", "b") for number in range(3)))
    first = line.take()

    line.put_back(first)

    assert ["a0", "b0", "a1", "b1", "a2", "b2"] == line.take_all()


def test_a_request_put_back_pays_its_turn_once() -> None:
    """
    Sent ten times after refusals it still counts as one turn of its client.
    """
    line = Line()
    line.add(*(Asked(f"a{number}", "a", cost=10) for number in range(3)))
    line.add(*(Asked(f"b{number}", "b", cost=10) for number in range(3)))
    for _ in range(10):
        line.put_back(line.take())

    assert ["a0", "b0", "a1", "b1", "a2", "b2"] == line.take_all()


def test_a_cancelled_request_leaves_no_gap_in_its_clients_share() -> None:
    line = Line()
    mine = [Asked(f"a{number}", "a") for number in range(100)]
    line.add(*mine)
    line.add(*(Asked(f"b{number}", "b") for number in range(10)))

    for asked in mine[:90]:
        line.discard(asked)

    assert ["a90", "b0", "a91", "b1"] == line.take_all()[:4]


def test_cancelled_requests_in_the_middle_are_swept() -> None:
    """
    A client that cancels thousands while its head waits does not keep them all.
    """
    line = Line()
    asked = [Asked(str(number)) for number in range(5_000)]
    line.add(*asked)

    for one in asked[1:-10]:
        line.discard(one)
    behind = line.order._levels[5].turns["a"].behind

    assert len(behind) <= 64
    assert ["0", *map(str, range(4_990, 5_000))] == line.take_all()


def test_clear_forgets_everybody_and_the_next_starts_afresh() -> None:
    line = Line()
    line.add(*(Asked("old", client, level) for client in "ab" for level in (1, 5)))

    line.order.clear()
    line.heap.clear()
    line.add(Asked("new"))

    assert ["new"] == line.take_all()
    assert {} == line.order._levels


# -- looking ahead


@pytest.mark.parametrize("seed", range(8))
def test_the_foretold_order_is_the_real_one_and_changes_nothing(seed: int) -> None:
    """
    ``in_order`` names every pending request, put back ones too, in the order in which they are then taken.
    """
    rng = random.Random(seed)
    line = Line()
    for client in "abcd":
        line.order.set_weight(client, rng.choice((1, 3, 0.3)))
    away: list[Asked] = []
    for number in range(300):
        line.add(Asked(str(number), rng.choice("abcd"), rng.choice((1, 5)), rng.randint(1, 60)))
        if rng.random() < 0.4:
            away.append(line.take())
        if away and rng.random() < 0.3:
            line.put_back(away.pop())
        if rng.random() < 0.2:
            line.discard(rng.choice([entry for entry in line.heap if not is_stale(entry)])[2])

    foretold = [asked.name for asked in line.order.in_order(line.heap)]
    again = [asked.name for asked in line.order.in_order(line.heap)]

    assert 50 < len(foretold)
    assert foretold == again
    assert foretold == line.take_all()


@pytest.mark.parametrize("seed", range(6))
def test_the_number_ahead_of_a_newcomer_is_about_right(seed: int) -> None:
    """
    Within one turn of every other client for equal costs, for any weights.
    """
    rng = random.Random(seed)
    line = Line()
    for client in "abcd":
        line.order.set_weight(client, rng.choice((1, 2, 0.5)))
    for number in range(200):
        line.add(Asked(str(number), rng.choice("abcd"), rng.choice((1, 5, 8))))

    guess = line.order.ahead_of_newcomer(5, "a")
    newcomer = Asked("newcomer", "a", 5)
    line.add(newcomer)
    real = line.take_all().index("newcomer")

    assert abs(guess - real) <= 3 * 4


def test_nobody_is_ahead_of_the_first() -> None:
    assert 0 == FairQueue().ahead_of_newcomer(5, "a")


def test_the_least_urgent_is_the_newest_of_the_longest_queue_of_the_last_level() -> None:
    line = Line()
    line.add(*(Asked(f"a{number}", "a", 5) for number in range(9)))
    line.add(*(Asked(f"b{number}", "b", 8) for number in range(3)))
    line.add(*(Asked(f"c{number}", "c", 8) for number in range(2)))

    least = line.order.least_urgent()
    least_of_a = line.order.least_urgent("a")
    line.discard(least)
    next_least = line.order.least_urgent("b")

    assert ("b2", "a8", "b1") == (least.name, least_of_a.name, next_least.name)
    assert line.order.least_urgent("nobody") is None
    assert FairQueue().least_urgent() is None


def test_who_leaves_the_middle_of_a_turn_and_comes_back_stands_once_and_last() -> None:
    """
    Its old place is skipped, however often it went, to another level and taken there or not.
    """
    line = Line()
    asked = [Asked(str(number)) for number in range(6)]
    line.add(*asked)
    for wanderer, level in ((asked[2], 5), (asked[3], 8), (asked[2], 8)):
        line.discard(wanderer)
        wanderer.rank = level
        line.add(wanderer)
    line.discard(asked[2])
    asked[2].rank = 5
    line.add(asked[2])

    foretold = [one.name for one in line.order.in_order(line.heap)]
    assert ["0", "1", "4", "5", "2", "3"] == foretold == line.take_all()


def test_the_newest_of_a_turn_is_not_one_that_has_left_it() -> None:
    line = Line()
    asked = [Asked(str(number)) for number in range(4)]
    line.add(*asked)
    line.discard(asked[3])
    asked[3].rank = 1
    line.add(asked[3])
    assert "2" == line.order.least_urgent().name

    line.discard(asked[3])
    asked[3].rank = 5
    line.add(asked[3])
    line.discard(asked[2])
    assert "3" == line.order.least_urgent().name


# -- ageing


def test_without_ageing_the_rank_is_the_priority() -> None:
    assert list(range(11)) == [rank_of(priority, 10**18, None) for priority in range(11)]


def test_with_ageing_a_request_waits_only_for_those_of_the_next_intervals() -> None:
    """
    A background request is passed by critical ones that come within 4 + 1 intervals of it and by none after,
    and inside one interval the levels keep their order.
    """
    ageing_ns = 60 * 10**9
    rng = random.Random(5)
    for _ in range(500):
        now_ns = rng.randrange(10**17)
        ranks = [rank_of(priority, now_ns, ageing_ns) for priority in Priority]
        for rung, own in enumerate(ranks):
            assert own < rank_of(0, now_ns + (rung + 1) * ageing_ns, ageing_ns)
            assert rank_of(0, now_ns + rung * ageing_ns, ageing_ns) <= own
        assert ranks == list(range(ranks[0], ranks[0] + 5))


# -- cost


class Counted(int):
    """A whole number that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int.__lt__(self, other)  # type: ignore[operator]

    def __gt__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int.__gt__(self, other)  # type: ignore[operator]

    def __le__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int.__le__(self, other)  # type: ignore[operator]

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int.__eq__(self, other)

    __hash__ = int.__hash__

    def __add__(self, other: int) -> Counted:
        return Counted(int(self) + int(other))

    __radd__ = __add__

    def __mul__(self, other: int) -> Counted:
        return Counted(int(self) * int(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> Counted:
        return Counted(int(self) // int(other))


def comparisons_per_turn(clients: int, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(fair_queue, "_UNIT", Counted(fair_queue._UNIT))
    line = Line()
    rng = random.Random(clients)
    for client in range(clients):
        line.add(*(Asked("", str(client), cost=rng.randint(1, 50)) for _ in range(2)))
    Counted.comparisons = 0
    turns = 2_000
    for _ in range(turns):
        asked = line.take()
        line.add(Asked("", asked.client, cost=rng.randint(1, 50)))
    return Counted.comparisons / turns


def test_a_turn_costs_comparisons_by_the_logarithm_of_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    64 times the clients may add at most a few comparisons for each doubling, never multiply them.
    """
    few, many = comparisons_per_turn(32, monkeypatch), comparisons_per_turn(2_048, monkeypatch)

    assert 5 < few
    assert many - few <= 6 * math.log2(2_048 / 32)
    assert many < 3 * few


# -- worked examples


@pytest.mark.parametrize(
    ("level", "name"),
    [(0, "critical"), (1, "high"), (5, "normal"), (8, "low"), (10, "background"), (7, "7"), (2, "2"), (9, "9")],
)
def test_a_level_is_told_by_its_name_or_its_number(level: int, name: str) -> None:
    assert name == level_name(level)


def test_numbers_between_two_names_lie_between_their_rungs() -> None:
    rungs = [level_index(priority) for priority in range(13)]

    assert [0, 1, 1.25, 1.5, 1.75, 2, 2 + 1 / 3, 2 + 2 / 3, 3, 3.5, 4, 4, 4] == rungs


@pytest.mark.parametrize(
    ("priority", "now_ns", "rank_"),
    [(0, 0, 0), (0, 999, 0), (0, 1_000, 1), (5, 1_999, 3), (7, 5_333, 7), (7, 5_334, 8)],
)
def test_a_level_is_counted_from_the_interval_of_arrival(priority: int, now_ns: int, rank_: int) -> None:
    assert rank_ == rank_of(priority, now_ns, 1_000)


UNIT = 1 << 32  # of virtual time for one unit of cost at weight 1


def tags(line: Line) -> dict[str, tuple[int, int]]:
    """Return the tags of who stands in line, in units of cost."""
    return {entry[2].name: (entry[1][0] // UNIT, entry[1][1]) for entry in line.heap if not is_stale(entry)}


def test_a_tag_is_when_the_request_would_finish_on_a_private_line_of_its_share() -> None:
    """
    b has twice the share: its 6 units take 3. After both have gone, 10 of the 3 shares' time has passed.
    """
    line = Line()
    line.order.set_weight("b", 2)
    line.add(Asked("a0", "a", cost=4), Asked("a1", "a", cost=5), Asked("b0", "b", cost=6), Asked("b1", "b", cost=2))
    first = tags(line)
    taken = [line.take().name]
    second = tags(line)
    taken.append(line.take().name)
    third = tags(line)

    assert {"a0": (4, 1), "b0": (3, 3)} == first
    assert {"a0": (4, 1)} == second  # b's next turn starts at 3, and now is 2
    assert {"b1": (4, 4)} == third  # that of a starts at 4, and now is 3 and a third
    assert ["b0", "a0"] == taken
    assert ["b1", "a1"] == line.take_all()


def test_a_tag_keeps_its_exactness_for_any_share() -> None:
    line = Line()
    line.order.set_weight("a", 3)

    [entry] = line.order.add(Asked("a0", "a", cost=10))

    assert (5, (10 * UNIT // 3, 1)) == entry[:2]


@pytest.mark.parametrize(
    ("given", "kept"), [(1, 1), (2.5, 2.5), (0.1, 6_554 / 65_536), (1e-9, 1 / 65_536), (0, 1 / 65_536), (1e6, 1e6)]
)
def test_a_weight_is_kept_in_steps_of_a_65536th_and_is_never_nothing(given: float, kept: float) -> None:
    order = FairQueue()
    order.set_weight("a", given)

    assert kept == order.weight("a")
    assert 1 == order.weight("somebody else")


def test_nobody_stands_in_line_twice_and_the_next_steps_up_when_the_first_has_gone() -> None:
    line = Line()
    asked = [Asked(f"a{number}", "a") for number in range(3)]

    entries = [list(line.order.add(one)) for one in asked]

    assert [1, 0, 0] == [len(each) for each in entries]
    assert [1, 2, 3] == [one.arrival for one in asked]


def test_who_waits_for_his_start_is_passed_by_one_that_comes_fresh() -> None:
    """
    After 8 of 2 shares' units only 4 of time have passed; a starts again at 8, a newcomer at once.
    """
    line = Line()
    line.add(Asked("a0", "a", cost=8), Asked("b0", "b", cost=100), Asked("a1", "a"))
    first = line.take()
    line.add(Asked("c0", "c", cost=2))

    assert "a0" == first.name
    assert {"b0": (100, 2), "c0": (6, 4)} == tags(line)
    assert "c0" == line.take().name


def test_time_jumps_to_the_next_start_if_nobody_stands_in_line() -> None:
    line = Line()
    line.add(Asked("a0", "a", cost=8), Asked("b0", "b", cost=9), Asked("a1", "a", cost=1))
    line.take()
    [waiting] = [entry[2] for entry in line.heap]

    line.discard(waiting)
    line.add(Asked("c0", "c", cost=1))

    assert {"a1": (9, 3), "c0": (9, 4)} == tags(line)


def test_a_start_that_has_come_exactly_counts() -> None:
    """
    Two of equal shares: after one turn of each both may go again.
    """
    line = Line()
    line.add(*(Asked(name, name[0]) for name in ("a0", "b0", "a1", "b1")))
    line.take()
    line.take()

    assert {"a1", "b1"} == tags(line).keys()


@pytest.mark.parametrize(
    ("rank_", "client", "ahead"),
    [(0, "a", 0), (5, "a", 3 + 2 + 3 + 5), (5, "new", 3 + 1 + 1 + 2), (8, "a", 3 + 12 + 1), (10, "a", 3 + 12 + 9)],
)
def test_ahead_of_a_newcomer_are_higher_levels_his_own_and_as_many_turns_of_each_other(
    rank_: int, client: str, ahead: int
) -> None:
    line = crowd()

    assert ahead == line.order.ahead_of_newcomer(rank_, client)


@pytest.mark.parametrize(("weight", "ahead"), [(0.5, 3 + 2 + 2 + 4), (0.25, 3 + 2 + 4 + 5), (2, 3 + 0 + 0 + 1), (4, 3)])
def test_a_newcomer_with_a_larger_share_has_fewer_ahead(weight: float, ahead: int) -> None:
    line = crowd()
    line.order.set_weight("new", weight)

    assert ahead == line.order.ahead_of_newcomer(5, "new")


def crowd() -> Line:
    """Three of a on level 1; two of a, five of b, five of c with twice the share on level 5; nine of d on level 8."""
    line = Line()
    line.order.set_weight("c", 2)
    for client, level, count in (("a", 1, 3), ("a", 5, 2), ("b", 5, 5), ("c", 5, 5), ("d", 8, 9)):
        line.add(*(Asked("", client, level) for _ in range(count)))
    return line


def test_who_comes_back_after_everybody_was_forgotten_goes_before_those_that_came_since() -> None:
    """
    Its tag, and the time that had passed, are smaller than any given after ``clear``.
    """
    line = Line()
    line.add(Asked("old", "a", cost=1_000), Asked("a1", "a", cost=5))
    old = line.take()

    line.order.clear()
    line.heap.clear()
    line.add(Asked("new", "c"))
    line.put_back(old)

    assert {"old": (1_000, 1), "new": (1_006, 3)} == tags(line)
    assert ["old", "new"] == line.take_all()


def test_a_successor_holds_nobody_and_goes_on_where_the_order_before_it_is() -> None:
    line = Line()
    line.order.set_weight("a", 2)
    line.add(Asked("old", "a", cost=1_000), Asked("a1", "a", cost=6), Asked("b5", "b", 8, cost=3))
    old, before = line.take(), line.order

    line.order = before.successor()
    left, line.heap = line.heap, []
    line.order.set_weight("b", 3)
    line.add(Asked("new", "c"))
    line.put_back(old)

    assert {"old": (500, 1), "new": (503 + 1, 4)} == tags(line)
    assert [2, 3, 1] == [line.order.weight(client) for client in "abc"]
    assert ["old", "new"] == line.take_all()
    assert ["a1", "b5"] == [asked.name for asked in before.in_order(left)]
    assert 1 == before.weight("b")


def test_a_successor_of_an_order_that_everybody_left_goes_on_too() -> None:
    line = Line()
    line.add(Asked("old", "a", cost=1_000))
    line.take()

    line.order = line.order.successor()
    line.add(Asked("new", "a"))

    assert {"new": (1_001, 2)} == tags(line)


def test_time_that_passed_is_not_forgotten_with_a_level() -> None:
    line = Line()
    line.add(*(Asked("", client, cost=10) for client in "ab" for _ in range(3)))
    line.take_all()

    line.add(Asked("new", "c"))

    assert {"new": (5 * 5 + 10 + 1, 7)} == tags(line)  # the last one had the line for itself


def test_a_weight_that_changes_holds_for_the_request_behind_and_not_for_the_one_in_line() -> None:
    line = Line()
    line.add(Asked("a0", "a", cost=4), Asked("a1", "a", cost=4), Asked("b0", "b", cost=100))
    line.order.set_weight("a", 2)
    before = tags(line)

    line.take()

    assert {"a0": (4, 1), "b0": (100, 3)} == before
    assert 4 // 3 == line.order._levels[5].now // UNIT
    line.discard(next(entry[2] for entry in line.heap if entry[2].name == "b0"))
    assert {"a1": (4 + 2, 2)} == tags(line)


@pytest.mark.parametrize("seed", range(4))
def test_the_foretold_order_holds_where_many_wait_for_their_start_and_some_of_them_leave(seed: int) -> None:
    """
    Thirty clients of which each has had a turn of another size; then those that would start first cancel.
    """
    rng = random.Random(seed)
    line = Line()
    pending: list[Asked] = []
    for client in range(30):
        line.order.set_weight(str(client), rng.choice((1, 3, 0.3, 0.1)))
        for number in range(3):
            pending.append(Asked(f"{client}.{number}", str(client), cost=rng.randint(1, 500)))
            line.add(pending[-1])
    for _ in range(15):
        pending.remove(line.take())
    early = sorted(line.order._levels[5].early)
    for _, _, turn in early[: len(early) // 2]:
        for asked in [asked for asked in pending if asked in turn.behind]:
            line.discard(asked)
            pending.remove(asked)

    foretold = [asked.name for asked in line.order.in_order(line.heap)]

    assert 4 < len(early)
    assert len(pending) == len(foretold)
    assert foretold == line.take_all()


def test_a_foretold_order_leaves_out_those_that_left() -> None:
    line = Line()
    asked = [Asked(str(number), "ab"[number % 2]) for number in range(8)]
    line.add(*asked)
    for one in (asked[0], asked[3]):
        line.discard(one)

    foretold = [one.name for one in line.order.in_order(line.heap)]

    assert ["1", "2", "4", "5", "6", "7"] == foretold == line.take_all()


@pytest.mark.parametrize("kept", [1, 10, 40])
def test_no_more_than_32_places_or_twice_those_that_wait_are_kept(kept: int) -> None:
    line = Line()
    asked = [Asked(str(number)) for number in range(200)]
    line.add(*asked)

    for left, one in enumerate(asked[1:-kept], start=1):
        line.discard(one)
        turn = line.order._levels[5].turns["a"]
        assert len(turn.behind) <= max(32, 2 * (200 - left))

    assert 1 + kept == turn.live
    assert ["0", *map(str, range(200 - kept, 200))] == line.take_all()


class Meddling(Asked):
    """A request whose hash is asked for while places are swept, which is where a finaliser may cancel another."""

    meddle: list[Asked]
    line: Line

    def __hash__(self) -> int:
        while self.meddle:
            self.line.discard(self.meddle.pop())
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def test_a_request_that_is_cancelled_while_places_are_swept_is_not_taken() -> None:
    line = Line()
    asked = [Asked(str(number)) for number in range(40)]
    meddler = Meddling("meddler")
    meddler.meddle, meddler.line = [], line
    line.add(*asked, meddler, Asked("last"))
    for one in asked[1:18]:
        line.discard(one)
    meddler.meddle.append(asked[30])
    for one in asked[18:24]:
        line.discard(one)

    assert [] == meddler.meddle
    assert ["0", *(str(number) for number in range(24, 40) if number != 30), "meddler", "last"] == line.take_all()


def test_who_is_put_back_stands_in_no_turn_and_leaves_without_a_trace() -> None:
    line = Line()
    line.add(Asked("a0", "a"), Asked("a1", "a"))
    first = line.take()
    line.put_back(first)
    both = tags(line)

    line.discard(first)

    assert {"a0": (1, 1), "a1": (2, 2)} == both
    assert ["a1"] == line.take_all()
    assert {} == line.order._levels


def test_the_last_that_was_put_back_and_leaves_takes_its_level_with_it() -> None:
    line = Line()
    line.add(Asked("a0", "a"))
    first = line.take()
    line.put_back(first)

    line.discard(first)

    assert {} == line.order._levels
    assert line.is_empty


def test_a_turn_of_which_nothing_is_said_is_of_the_default_client() -> None:
    assert ("r", 5, "default", 1.0, 1) == LeaseApplicant("r")


def test_the_least_urgent_of_a_client_is_looked_for_in_every_level() -> None:
    line = Line()
    line.add(Asked("a1", "a", 1), Asked("a8", "a", 8), Asked("b10", "b", 10), Asked("c5", "c", 5))

    assert ["b10", "a8", "c5"] == [line.order.least_urgent(client).name for client in (None, "a", "c")]


def test_the_only_one_of_a_turn_is_its_newest() -> None:
    line = Line()
    line.add(Asked("a0", "a"), Asked("a1", "a"))
    line.discard(line.order.least_urgent())

    assert "a0" == line.order.least_urgent().name


@pytest.mark.parametrize(
    ("behind", "lefts"),
    [(32, [32] * 32), (33, [33] * 17 + [33 - 18]), (34, [34] * 18 + [34 - 19])],
)
def test_places_are_swept_when_more_than_32_are_kept_and_more_than_half_of_them_were_left(
    behind: int, lefts: list[int]
) -> None:
    line = Line()
    asked = [Asked(str(number)) for number in range(1 + behind)]
    line.add(*asked)
    turn = line.order._levels[5].turns["a"]

    kept = []
    for one in asked[1 : 1 + len(lefts)]:
        line.discard(one)
        kept.append(len(turn.behind))

    assert lefts == kept
    assert ["0", *map(str, range(1 + len(lefts), 1 + behind))] == line.take_all()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_who_leaves_and_comes_back_while_others_come_stands_where_it_came_back_last(times: int) -> None:
    line = Line()
    wanderer = Asked("wanderer")
    line.add(Asked("first"), wanderer)
    for number in range(times):
        line.add(Asked(str(number)))
        line.discard(wanderer)
        line.add(wanderer)
    line.add(Asked("last"))

    foretold = [asked.name for asked in line.order.in_order(line.heap)]

    assert ["first", *map(str, range(times)), "wanderer", "last"] == foretold == line.take_all()

"""What does fairness cost a put and a take, and what does it give a small client behind a large one?

* cost: requests of 1 to 10,000 clients pass the lane's heap and fair order, against a
  plain heapq of ``(priority, number, request)``; speed of ours over the plain heap's, as
  a ratio, above 1 we are faster. Both hold the same objects.
* worth: one client submits many requests, another then submits ten; how many others are
  sent before the last of the ten, in ours and in the order of submission. The ratio is
  ours over the latter.

    python benchmarks/fairness.py [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import heapq
import itertools
import time
from functools import partial
from typing import Any

from rig.measure import median, paired, parser_of, ratios, spread, write_json

from groq_queue import Limits
from groq_queue.core.request import Request
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.lane import Lane
from groq_queue.limiters.in_process import ProcessLimiter

_SIZE = PromptSize(10, 10, is_exact=True)


def requests_of(clients: int, count: int) -> list[Request]:
    """Return requests in the state in which the engine hands them to a lane."""
    names = [f"client {number}" for number in range(clients)]
    made = []
    for number in range(count):
        request = Request(model="m", endpoint="e", body=b"{}", size=_SIZE, priority=5, client=names[number % clients])
        request.rank, request.turn_cost = 5, 1
        made.append(request)
    return made


def lane() -> Lane:
    return Lane("m", "m", ProcessLimiter(Limits()).meter("m", "m"), lambda _: None)


def fair_per_s(clients: int, count: int) -> float:
    made, line = requests_of(clients, count), lane()
    began = time.perf_counter()
    for request in made:
        line.add(request)
    for _ in made:
        head = line.head()
        assert head is not None
        line.take(head)
    return count / (time.perf_counter() - began)


def plain_per_s(clients: int, count: int) -> float:
    made = requests_of(clients, count)
    heap: list[Any] = []
    began = time.perf_counter()
    for number, request in enumerate(made):
        heapq.heappush(heap, (request.priority, number, request))
    for _ in made:
        heapq.heappop(heap)
    return count / (time.perf_counter() - began)


def before_the_last_of_ten(many: int) -> int:
    line = lane()
    for request in itertools.chain(requests_of(1, many), small := requests_of(1, 10)):
        if request in small:
            request.client = "small"
        line.add(request)
    sent = []
    while (head := line.head()) is not None:
        line.take(head)
        sent.append(head)
    return max(place for place, request in enumerate(sent) if request.client == "small") - 9


def main() -> None:
    parser = parser_of(__doc__, rounds=5)
    options = parser.parse_args()
    cases, rounds = ((1, 20_000), (100, 20_000), (10_000, 20_000), (1, 100_000)), options.rounds
    if options.quick:
        cases, rounds = ((1, 2_000), (100, 2_000)), 1
    rows: list[dict[str, Any]] = []
    for clients, count in cases:
        fair, plain = paired(rounds, partial(fair_per_s, clients, count), partial(plain_per_s, clients, count))
        row = {"clients": clients, "requests": count, "ours_per_s": round(median(fair))}
        row |= {"heapq_per_s": round(median(plain)), "ratio": spread(ratios(fair, plain))}
        rows.append(row)
        print(
            f"{clients:6,} clients, {count:7,} requests: {row['ours_per_s']:>9,}/s, heapq {row['heapq_per_s']:>9,}/s, "
            f"ratio {row['ratio']}"
        )
    many = 1_000 if options.quick else 20_000
    ahead = before_the_last_of_ten(many)
    rows.append({"ahead_of_a_small_client": ahead, "in_order_of_submission": many, "ratio": ahead / many})
    print(f"ten requests behind {many:,} of another client: {ahead} others go first, ratio {ahead / many:.4f}")
    write_json(options.json, "fairness", rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()

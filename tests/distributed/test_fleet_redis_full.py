"""A Redis that refuses every write for a while, most often since its memory is full: workers outlast it."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import wait

import pytest
from waiting import wait_until
from worker_fleet import PATIENCE_S

S = 60
CASES = {
    "full": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "a replica": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "not allowed": ("ACL SETUSER default -@write", "ACL SETUSER default +@all"),
}


@pytest.fixture(params=[pytest.param(case, marks=pytest.mark.gate) for case in CASES])
def outage(server, request):
    """Return what makes Redis refuse every write, and what ends that; it has ended after the test."""
    begin, end = CASES[request.param]
    yield begin, end
    assert b"+OK" == server.ask(end)


def test_a_worker_outlasts_a_redis_that_takes_no_writes_and_nothing_is_lost_or_paid_twice(fleet, outage):
    """
    Calls wait in the broker when that begins: the first one that is taken cannot be noted as taken.
    """
    begin, end = outage
    ours = fleet(latency=0.2)
    worker = ours.start_worker(lanes="normal:4")
    futures = []
    with ours.queue() as queue:
        try:
            futures += [queue.submit(f"n {n}") for n in range(40)]
            assert ours.groq.wait_for_requests(8, PATIENCE_S)

            assert b"+OK" == ours.server.ask(begin)
            wait_until(lambda: "lane normal cannot be served" in worker.told)
            assert not wait(futures, 1).done >= set(futures)
        finally:
            assert b"+OK" == ours.server.ask(end)
        assert not wait(futures, S).not_done
        queue.submit("later").result(S)
    wait_until(lambda: "lane normal is served again" in worker.told)
    told = worker.told

    assert [None] * 40 == [future.exception() for future in futures]
    assert {1} == set(Counter(ours.prompts()).values())
    assert 0 == ours.stop_worker(worker)
    assert 2 == told.count(" WARNING groq_queue: lane normal "), told
    assert told.count(" is not stored yet") + told.count(" cannot tell the others ") <= 1, told

"""D81 to D90: what programs met in the field, measured against the server that misbehaves.

Where a queue would back off for seconds its clock hurries: a second of its is 5 ms.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from groq_queue import CostLimitReached
from tests.hasty import HastyClock

from .futures import Lines
from .harness import PATIENCE_S, SLACK, Figure, error_of, queue, seconds, server, wait_until

_MOST_SENDS = 3  # of a request whose attempts may have been worked on: the first, and max_unknown, which is 2


def d81(full: bool) -> Figure:
    counts = []
    with server() as bad:
        for end in ("reset", "close"):
            for retries in (0, 5):
                name = f"works-{1 if full else 0.1}-{end}-{retries}"
                with queue(bad.url(name), max_workers=1, max_retries=retries, clock=HastyClock()) as q:
                    q.complete("first")  # the second goes through the same connection
                    told = getattr(error_of(q.submit("second")), "attempts", 0)
                counts.append((bad.seen(name)["sent"] - 1, told))
    bars = [(1, 1), (_MOST_SENDS, _MOST_SENDS)] * 2
    return Figure(
        counts == bars,
        f"a kept connection ends after work: sent and told {counts} (bar 1 without retries, else {_MOST_SENDS}; alike)",
    )


def d82(full: bool) -> Figure:
    price, cap = 0.01, 0.05
    said, ok = [], True
    with server() as bad:
        for code in (408, 500, 502, 504, 524):
            options = {"prices": {"m": (price * 100_000, price * 100_000)}, "max_cost": cap}  # ten tokens are one price
            with queue(bad.url(f"status-{code}"), max_workers=1, clock=HastyClock(), **options) as q:
                errors = [error_of(q.submit(f"{number}", tokens=10)) for number in range(6)]
                booked = round(q.stats().cost / price)
            sent = bad.seen(f"status-{code}")["sent"]
            stopped = sum(isinstance(error, CostLimitReached) for error in errors)
            most = bad.seen(f"status-{code}")["most"]
            ok = ok and booked == sent <= round(cap / price) and most <= _MOST_SENDS and stopped >= 4
            said.append((code, sent, booked))
    return Figure(
        ok,
        f"6 requests at {price} USD, max_cost {cap}: status, sent, booked {said} "
        f"(bar {cap / price:.0f} sent in all, {_MOST_SENDS} of each, all booked)",
    )


def d83(full: bool) -> Figure:
    at_once, wait_s = 6, 5.0
    with server() as bad, queue(bad.url(f"bare-{at_once}"), max_workers=at_once) as q:
        took = seconds(lambda: wait([q.submit(f"{number}") for number in range(60)], PATIENCE_S))
        times = bad.seen(f"bare-{at_once}")["times"]
        failed = q.stats().failed
    gap = max(after - before for before, after in itertools.pairwise(times))
    ok = not failed and gap <= wait_s * SLACK
    return Figure(
        ok,
        f"{at_once} bare 429s at once: longest silence {gap:.1f} s (bar {wait_s:.0f}), "
        f"60 in {took:.1f} s, {failed} lost (bar 0)",
    )


def d84(full: bool) -> Figure:
    forms = ("interim", "headers", "lengths", "marked", "twice", "deflate", "brotli", "charset")
    sent, failed = [], {}
    with server() as bad:
        for form in forms:
            with queue(bad.url(f"form-{form}"), clock=HastyClock()) as q:
                error = error_of(q.submit("x"))
            sent.append(bad.seen(f"form-{form}")["sent"])
            if error is not None:
                failed[form] = type(error).__name__
    return Figure(
        not failed and set(sent) == {1},
        f"{len(forms)} readable forms of an answer: unread {failed}, sends {sent} (bar 1)",
    )


def d85(full: bool) -> Figure:
    passing = (506, 507, 508, 509, 510, 511, 520, 521, 522, 523, 524, 525, 526, 529, 530, 540, 561, 598, 599)
    sends = {}
    with server() as bad:
        for code in (*passing, 501, 505):
            with queue(bad.url(f"status-{code}-1"), clock=HastyClock()) as q:
                error_of(q.submit("x"))
            sends[code] = bad.seen(f"status-{code}-1")["sent"]
    again = sum(sends[code] == 2 for code in passing)
    final = [sends[501], sends[505]]
    return Figure(
        again == len(passing) and final == [1, 1],
        f"{again} of {len(passing)} kinds of 5xx sent a second time; 501 and 505: {final} (bar 1)",
    )


def d86(full: bool) -> Figure:
    """Few requests, since where many fail each of them comes seldom."""
    times, programs, away_s = (1, 20, 25.0) if full else (50, 20, 25.0)
    with server() as bad:
        names = [f"away-503-{away_s / times}-{number}" for number in range(programs)]
        queues = [queue(bad.url(name), clock=HastyClock(times)) for name in names]
        futures = [q.submit(f"{number}") for q in queues for number in range(2)]
        took = seconds(lambda: wait(futures, 3 * PATIENCE_S)) * times
        failed = sum(error_of(future) is not None for future in futures)
        most = max(bad.seen(name)["most"] for name in names)
        for q in queues:
            q.shutdown()
    return Figure(
        not failed and most <= 6,
        f"an outage of {away_s:.0f} s under {programs} programs of two requests: lost {failed} (bar 0), "
        f"at most {most} sends of one (bar 6), all done after {took:.0f} s",
    )


def d87(full: bool) -> Figure:
    told_s, workers = (3, 8) if full else (1, 8)
    said, ok = [], True
    with server() as bad:
        for code in (502, 503, 529, 498):
            name = f"pausing-{code}-{told_s}-{workers}"
            with queue(bad.url(name), max_workers=workers) as q:
                wait([q.submit(f"{number}") for number in range(40)], PATIENCE_S)
                failed = q.stats().failed
            times = bad.seen(name)["times"]
            inside = sum(at < times[0] + told_s for at in times[workers:])
            last_s = times[-1] - times[0]
            ok = ok and not failed and not inside and last_s <= (told_s + 5) * SLACK
            said.append((code, inside, round(last_s, 1)))
    return Figure(
        ok,
        f"Retry-After {told_s} with a 5xx: status, sends into the pause, last send {said} (bar 0 and {told_s + 5} s)",
    )


class _Raising(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise ValueError("the program's own logging")


def d88(full: bool) -> Figure:
    count = 200 if full else 40
    log = logging.getLogger("groq_queue")
    log.setLevel(logging.DEBUG)
    log.addFilter(_Raising())
    logging.raiseExceptions = False
    with server() as bad:
        q = queue(bad.url("faulty-50"), max_workers=4, max_retries=2, clock=HastyClock())

        def wrong(_: Any) -> None:
            raise ValueError("mine")

        futures = [q.submit(f"{number}", callback=wrong) for number in range(count)]
        _, open_ = wait(futures, PATIENCE_S)
        closer = threading.Thread(target=q.shutdown, daemon=True)
        closer.start()
        closer.join(10)
    return Figure(
        not open_ and not closer.is_alive(),
        f"a filter that raises at every record, {count} requests, half of the answers faults: "
        f"{len(open_)} Futures open (bar 0), shutdown hangs: {closer.is_alive()}",
    )


def d89(full: bool) -> Figure:
    start, refused = threading.Thread.start, 0
    expected = {"timers": 1, "worker": 1}

    def start_later(thread: threading.Thread) -> None:
        nonlocal refused
        kind = thread.name.rpartition("-")[2]
        if threading.current_thread() is threading.main_thread() and expected.pop(kind, 0):
            refused += 1
            raise RuntimeError("can't start new thread")
        start(thread)

    threading.Thread.start = start_later  # type: ignore[method-assign]
    with server() as bad:
        q = queue(bad.url("status-503-1"), max_workers=4, clock=HastyClock())
        futures, told = [], 0
        for number in range(20):
            try:
                futures.append(q.submit(f"{number}", max_wait=600))
            except Exception:
                told += 1
        failed = sum(error_of(future) is not None for future in futures)
        q.pause()
        late = q.submit("late", max_wait=1)
        expired = type(error_of(late)).__name__
        q.shutdown(cancel_futures=True)
    ok = refused == 2 and told == 1 and not failed and len(futures) == 19 and expired == "QueueTimeout"
    return Figure(
        ok,
        f"{refused} starts of threads refused once: told {told} (bar 1, no worker), {failed} of {len(futures)} lost "
        f"(bar 0), later a max_wait ends as {expired}",
    )


def d90(full: bool) -> Figure:
    length = 2_000 if full else 200
    log = Lines()
    logging.getLogger("groq_queue").addHandler(log)
    logging.getLogger("groq_queue").propagate = False
    called: list[str] = []
    runs: list[set[str]] = []
    lock = threading.Lock()
    with server() as bad, tempfile.TemporaryDirectory() as directory:
        options = {"journal": str(Path(directory) / "run.db"), "durability": "normal"}

        def go_on(future: Any) -> None:
            called.append(future.custom_id)
            runs[-1].add(threading.current_thread().name)
            if len(called) % length:
                q.submit(f"{len(called) % length}", custom_id=f"{len(called) % length}", callback=go_on)

        for _ in range(2):
            runs.append(set())
            with queue(bad.url("ok"), **options) as q:
                q.submit("0", custom_id="0", callback=go_on)
                wait_until(lambda: len(called) >= length * len(runs))

        def locked(_: Any) -> None:
            with lock:
                called.append("locked")

        with queue(bad.url("ok"), **options) as q, lock:
            q.submit("0", custom_id="0", callback=locked)  # the lock is let go before the queue waits for it
        sent = bad.seen("ok")["sent"]
    errors = sum(not line.startswith("DEBUG") for line in log.lines)
    ok = len(called) == 2 * length + 1 and sent == length and not errors and runs[0] == runs[1] == {"groq_queue-worker"}
    return Figure(
        ok,
        f"a chain of {length:,} callbacks, twice over one journal: {len(called) - 1:,} called, {errors} errors logged, "
        f"on {sorted(runs[0] | runs[1])}; one that takes the submitter's lock: {called.count('locked')}",
    )

"""D01 to D12: futures and workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, as_completed, wait
from typing import Any

from .harness import PATIENCE_S, SLACK, Figure, error_of, open_files, queue, quiet_threads, seconds, server, wait_until


def together(count: int, work: Callable[[int], None]) -> None:
    """Run *work* with a number on that many threads that begin at once."""
    gate = threading.Barrier(count)

    def begin(number: int) -> None:
        gate.wait(PATIENCE_S)
        work(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def storm(count: int, submitters: int = 32) -> tuple[int, int, int, int]:
    """Submit from many threads; return how many did not end, were sent, were distinct, were answered wrongly."""
    import hashlib

    futures: dict[str, Any] = {}
    with server() as bad, queue(bad.url("ok"), max_workers=8) as q:

        def submit(number: int) -> None:
            for place in range(count // submitters):
                name = f"{number}-{place}"
                futures[name] = q.submit(name)

        together(submitters, submit)
        done, open_ = wait(futures.values(), PATIENCE_S)
        wrong = sum(
            future.result().text != hashlib.sha256(name.encode()).hexdigest() for name, future in futures.items()
        )
        seen = bad.seen("ok")
    assert len(done) + len(open_) == len(futures) == count // submitters * submitters
    return len(open_), seen["sent"], seen["distinct"], wrong


def d01(full: bool) -> Figure:
    count = 10_016 if full else 992
    unresolved, sent, distinct, wrong = storm(count)
    return Figure(
        (unresolved, sent, distinct, wrong) == (0, count, count, 0),
        f"{count:,} submits: unresolved {unresolved}, seen {distinct:,} distinct, repeated {sent - distinct}, "
        f"wrong answers {wrong}",
    )


def d02(full: bool) -> Figure:
    with server() as bad, queue(bad.url("ok"), max_workers=1) as q:
        wait([q.submit(f"{number:03}") for number in range(500)], PATIENCE_S)
        order = bad.seen("ok")["prompts"]
    inversions = sum(before > after for before, after in itertools.pairwise(order))
    return Figure(len(order) == 500 and not inversions, f"{len(order)} sent, inversions {inversions}")


class Lines(logging.Handler):
    """Collects formatted log lines."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def d03(full: bool) -> Figure:
    log = Lines()
    logging.getLogger("groq_queue").addHandler(log)
    logging.getLogger("groq_queue").propagate = False
    after = []

    def bad_callback(_: Any) -> None:
        raise ValueError("mine")

    with server() as bad, queue(bad.url("slow-0.02"), max_workers=4) as q:
        futures = [q.submit(f"{number}", callback=bad_callback) for number in range(100)]
        for future in futures:
            future.add_done_callback(after.append)
        wait(futures, PATIENCE_S)
        wait_until(lambda: len(after) == 100, 10)
        alive = sum(thread.name == "groq_queue-worker" for thread in threading.enumerate())
    lines = sum("callback" in line for line in log.lines)
    return Figure(
        (lines, len(after), alive) == (100, 100, 4), f"{lines} lines, {len(after)} later callbacks, {alive} of 4 alive"
    )


def d04(full: bool) -> Figure:
    free = threading.Event()
    with server() as bad, queue(bad.url("ok"), max_workers=2) as q:
        first = q.submit("first", callback=lambda _: free.wait(5 * SLACK))
        first.result(PATIENCE_S)
        took = seconds(lambda: wait([q.submit(f"{number}") for number in range(20)], PATIENCE_S))
        free.set()
    return Figure(took < 2 * SLACK, f"20 done in {took:.2f} s beside a callback of 5 s (bar 2 s)")


def cancels() -> tuple[bool, ...]:
    with server() as bad, queue(bad.url("slow-0.3"), max_workers=1) as q:
        running, queued = q.submit("running"), q.submit("queued")
        wait_until(running.running)
        said = queued.cancel(), running.cancel(), running.result(PATIENCE_S) is not None
        wait([queued], PATIENCE_S)
        return *said, bad.seen("slow-0.3")["prompts"] == ["running"]


def d05(full: bool) -> Figure:
    queued, running, delivered, unsent = cancels()
    ok = (queued, running, delivered, unsent) == (True, False, True, True)
    return Figure(
        ok, f"queued {queued}, running {running}, delivered {delivered}, cancelled one sent {int(not unsent)} times"
    )


def d06(full: bool) -> Figure:
    with server() as bad, queue(bad.url("slow-1")) as q:
        future = q.submit("x")
        try:
            future.result(timeout=0.2)
            first = "a value"
        except TimeoutError:
            first = "TimeoutError"
        except Exception as error:  # before 3.11 the stdlib's own
            first = type(error).__name__
        second = future.result(PATIENCE_S).usage.total_tokens
        sent = bad.seen("slow-1")["sent"]
    return Figure((first, second, sent) == ("TimeoutError", 10, 1), f"{first}, then the value; sent {sent}")


def d07(full: bool) -> Figure:
    with server() as bad, queue(bad.url("one-3")) as q:
        ways = 0
        done, open_ = wait([q.submit(f"a{number}") for number in range(5)], PATIENCE_S)
        ways += (len(done), len(open_)) == (5, 0)
        ways += len({future.result().id for future in as_completed([q.submit("b") for _ in range(5)], PATIENCE_S)}) == 5

        async def wrapped() -> Any:
            return await asyncio.wait_for(asyncio.wrap_future(q.submit("c")), PATIENCE_S)

        ways += asyncio.run(wrapped()).usage.total_tokens == 10
        futures = [q.submit(f"{number}") for number in range(5)]
        done, _ = wait(futures, PATIENCE_S, return_when=FIRST_EXCEPTION)
        ways += futures[3] in done and error_of(futures[3]) is not None
    return Figure(ways == 4, f"{ways} of 4")


def d08(full: bool) -> Figure:
    count = 200 if full else 40
    with server() as bad:
        with queue(bad.url("ok")) as q:
            q.complete("warm")
        quiet_threads(1)
        threads, files = threading.active_count(), open_files()
        for number in range(count):
            with queue(bad.url("ok"), max_workers=2) as q:
                q.complete(f"{number}")
        dropped = queue(bad.url("slow-0.2")).submit("dropped")
        ended = dropped.result(PATIENCE_S) is not None
        del q
        more_threads = quiet_threads(threads)
        wait_until(lambda: open_files() <= files + 2, 10)
        more_files = open_files() - files
    ok = ended and more_threads == 0 and more_files <= 2
    return Figure(
        ok, f"{count} queues: threads +{more_threads}, files +{more_files}; the dropped one's future ended: {ended}"
    )


def d09(full: bool) -> Figure:
    rounds = 20 if full else 2
    sys.setswitchinterval(1e-6)
    count = 10_016 if full else 992
    failures = sum(storm(count) != (0, count, count, 0) for _ in range(rounds if full else 1))
    failures += sum(cancels() != (True, False, True, True) for _ in range(rounds))
    return Figure(not failures, f"{rounds} rounds of {count:,} at a switch interval of 1 µs: failures {failures}")


class Unorderable(dict):  # type: ignore[type-arg]
    """A payload that must not be compared."""

    def __lt__(self, other: object) -> bool:
        raise TypeError("compared")

    __gt__ = __le__ = __ge__ = __lt__


def d10(full: bool) -> Figure:
    errors: list[BaseException] = []
    futures = []
    with server() as bad, queue(bad.url("ok")) as q:

        def submit(number: int) -> None:
            try:
                for place in range(63):
                    messages = [Unorderable(role="user", content=f"{number}-{place}")]
                    futures.append(q.submit(Unorderable(messages=messages)))
            except TypeError as error:
                errors.append(error)

        together(16, submit)
        failed = sum(error_of(future) is not None for future in futures)
    return Figure(
        not errors and not failed and len(futures) == 1_008,
        f"{len(futures)} submits: TypeErrors {len(errors)}, failed {failed}",
    )


def d11(full: bool) -> Figure:
    count = 1_200 if full else 30
    draws = random.Random(11)
    late = []
    with server() as bad, queue(bad.url("ok")) as q:
        q.complete("warm")
        for number in range(count):
            time.sleep(draws.uniform(0.010, 0.090))
            answer = q.submit(f"{number}").result(PATIENCE_S)
            late.append(answer.waited * 1_000)
    late.sort()
    p99, most = late[int(len(late) * 0.99) - 1], late[-1]
    ok = p99 <= 20 * SLACK and most <= 200 * SLACK
    return Figure(ok, f"{count} single submits: start p99 {p99:.1f} ms (bar 20), most {most:.1f} ms (bar 200)")


def d12(full: bool) -> Figure:
    with server() as bad, queue(bad.url("one-37")) as q:
        errors = [error_of(future) for future in [q.submit(f"{number}") for number in range(100)]]
    kinds = [type(error).__name__ for error in errors if error is not None]
    ok = errors[37] is not None and kinds == ["BadRequestError"]
    return Figure(ok, f"{errors.count(None)} ok, failed: {', '.join(kinds)}")

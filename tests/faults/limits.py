"""D23 to D34: limits, order, fairness; the law is the bundled simulator's, which shares no code with the queue."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import wait

from groq_queue import DailyLimitReached, GroqSimulator, Limits, QueueFull, RequestTooLarge

from .harness import PATIENCE_S, SLACK, Figure, error_of, memory_mib, queue, seconds, server, wait_until

MODEL = "llama-3.1-8b-instant"
GOES_ON = 0.6  # of the allowance, on however busy a machine: the bucket that is full at first is 0.4 of it


def _at_the_limit(limits: Limits, seconds_: float, requests: int, **options: object) -> tuple[int, int, float]:
    """Keep a backlog for so long; return how many were sent, refused, and the last one's instant."""
    with GroqSimulator(limits=limits, latency=0.02, **options) as groq:  # type: ignore[arg-type]
        with queue(groq.base_url, model=MODEL, limits=limits, max_workers=16, max_pending=None) as q:
            begin = time.monotonic()
            futures = [
                q.submit(f"{number} " + "word " * (number % 40), max_completion_tokens=16 + number % 50)
                for number in range(requests)
            ]
            time.sleep(seconds_)
            sent, refused = groq.stats().received, groq.stats().refused
            took = time.monotonic() - begin
            q.shutdown(cancel_futures=True)
        wait(futures, PATIENCE_S)
    return sent, refused, took


def d23(full: bool) -> Figure:
    rpm, period_s, length_s = (300, 60, 120) if full else (300, 2, 3)
    sent, refused, took = _at_the_limit(Limits(rpm=rpm, minute_s=period_s), length_s, rpm * 4)
    allowance = rpm + rpm * took / period_s  # a full bucket at once, then as it drains
    use = sent / allowance
    bar = 0.99 if full else 0.95  # in three seconds the first connection counts
    return Figure(
        refused == 0 and use >= max(bar / SLACK, GOES_ON),
        f"{length_s} s at {rpm} per {period_s} s: sent {sent}, refused {refused}, "
        f"use {use:.1%} of the allowance (bar {bar:.0%})",
    )


def d24(full: bool) -> Figure:
    tpm, period_s, length_s = (60_000, 60, 120) if full else (20_000, 2, 3)
    limits = Limits(tpm=tpm, minute_s=period_s)
    with GroqSimulator(limits=limits, latency=0.02, output=(0.1, 1.0)) as groq:
        with queue(groq.base_url, model=MODEL, limits=limits, max_workers=16, max_pending=None) as q:
            futures = [
                q.submit("word " * (number % 60), max_completion_tokens=20 + number % 200)
                for number in range(tpm * 6 // 100)
            ]
            time.sleep(length_s)
            stats = groq.stats()
            q.shutdown(cancel_futures=True)
        charged = sum(
            future.result().usage.total_tokens
            for future in futures
            if future.done() and not future.cancelled() and future.exception() is None
        )
    allowance = tpm + tpm * length_s / period_s
    use = charged / allowance
    ok = stats.refused == 0 and use >= max(0.95 / SLACK, GOES_ON)
    return Figure(
        ok,
        f"{length_s} s at {tpm:,} tokens per {period_s} s: refused {stats.refused} of {stats.received}, "
        f"use {use:.1%} (bar 95 %)",
    )


def d25(full: bool) -> Figure:
    with server() as bad, queue(bad.url("ok"), limits=Limits(tpm=1_000)) as q:
        begin = time.perf_counter()
        try:
            q.submit("x", max_completion_tokens=5_000)
            said = "nothing"
        except RequestTooLarge as error:
            said = str(error)
        took = time.perf_counter() - begin
    return Figure(
        "tokens per minute" in said and "TPM" in said and took <= SLACK, f"after {took * 1_000:.1f} ms: {said[:60]}…"
    )


def d26(full: bool) -> Figure:
    with server() as bad, queue(bad.url("slow-0.1"), max_workers=4) as q:
        low = [q.submit(f"low{number}", priority="low") for number in range(200)]
        wait_until(lambda: bad.seen("slow-0.1")["sent"] >= 20)
        before = bad.seen("slow-0.1")["sent"]
        q.submit("high", priority="high").result(PATIENCE_S)
        place = bad.seen("slow-0.1")["prompts"].index("high")
        q.cancel_all()
        wait(low, PATIENCE_S)
    return Figure(
        place - before < 4 * SLACK,
        f"sent {place - before} places after the {before} already out (bar 4, the workers; 200 low queued)",
    )


def d28(full: bool) -> Figure:
    with server() as bad:
        with queue(bad.url("slow-0.002"), max_workers=4) as q:
            q.pause()
            futures = [q.submit(f"A{number}", client="A") for number in range(1_000)]
            futures += [q.submit(f"B{number}", client="B") for number in range(10)]
            q.resume()
            wait(futures, PATIENCE_S)
            last_b = max(place for place, name in enumerate(bad.seen("slow-0.002")["prompts"]) if name[0] == "B")
        with queue(bad.url("slow-0.003"), max_workers=4) as q:
            q.pause()
            futures = [q.submit(f"{client}{number}", client=client) for number in range(100) for client in "CDEFG"]
            q.resume()
            wait(futures, PATIENCE_S)
            shares = Counter(name[0] for name in bad.seen("slow-0.003")["prompts"][:250])
    jain = sum(shares.values()) ** 2 / (5 * sum(share**2 for share in shares.values()))
    return Figure(
        last_b < 24 and jain >= 0.95,
        f"B done within {last_b + 1} dispatches (bar 24); Jain index of five {jain:.3f} (bar 0.95)",
    )


def d29(full: bool) -> Figure:
    told_s = 5 if full else 1
    with server() as bad, queue(bad.url(f"hold-{told_s}-8"), max_workers=8) as q:
        futures = [q.submit(f"{number}") for number in range(40)]
        wait(futures, PATIENCE_S)
        times = bad.seen(f"hold-{told_s}-8")["times"]
    heard = times[7]  # of the eight on their way at once, the last; what follows was sent after an answer
    gap = max(after - before for before, after in itertools.pairwise(times))
    inside = sum(time_ < times[0] + told_s for time_ in times[8:])
    ok = inside == 0 and told_s <= gap + 0.05 and gap <= (told_s + 1.5) * SLACK and heard - times[0] < 0.3 * SLACK
    return Figure(
        ok,
        f"Retry-After {told_s}: sends meanwhile {inside}, the first after {gap:.2f} s (bar {told_s} to {told_s + 1.5})",
    )


def d30(full: bool) -> Figure:
    clients, refusals = (20, 4) if full else (8, 2)
    gaps: list[list[float]] = []
    with server() as bad:
        names = [f"blind-{refusals}-{number}" for number in range(clients)]
        queues = [queue(bad.url(name), max_workers=1) for name in names]
        wait([q.submit("x") for q in queues], PATIENCE_S)
        for name, q in zip(names, queues, strict=True):
            times = bad.seen(name)["times"]
            gaps.append([after - before for before, after in itertools.pairwise(times)])
            q.shutdown()
    ratios = [after / before for gap in gaps for before, after in itertools.pairwise(gap)]
    ratio, spread = statistics.median(ratios), statistics.pstdev(gap[0] for gap in gaps)
    firsts = ", ".join(f"{statistics.mean(gap[place] for gap in gaps):.2f}" for place in range(refusals))
    ok = 1.5 <= ratio <= 2.5 and spread > 0
    return Figure(
        ok, f"{clients} clients: mean gaps {firsts} s, ratio {ratio:.2f} (bar 1.5 to 2.5), spread {spread:.3f} s"
    )


def d31(full: bool) -> Figure:
    with server() as bad:
        with queue(bad.url("told"), limits=None) as q:
            futures = [q.submit(f"{number}", max_completion_tokens=10) for number in range(100)]
            took = seconds(lambda: wait(futures, PATIENCE_S))
            sent = bad.seen("told")["sent"]
        with queue(bad.url("lastofday"), limits=None) as q:  # one of 14,400 a day is left: the next in six seconds
            futures = [q.submit(f"{number}", max_completion_tokens=10) for number in range(10)]
            day = seconds(lambda: wait(futures, PATIENCE_S))
            errors = [error_of(future) for future in futures]
        day_sent = bad.seen("lastofday")["sent"]
    ended = [error for error in errors if isinstance(error, DailyLimitReached)]
    waits = {round(error.resets_in or 0) for error in ended}
    ok = sent == 100 and took < 10 * SLACK and day < 2 * SLACK
    return Figure(
        ok and day_sent <= 2 and len(ended) == 10 - day_sent and waits <= {1, 2, 3, 4, 5, 6},
        f"100 of 100 in {took:.2f} s under 14,400 a day and 600,000 tokens a minute: no pause; with one left of the "
        f"day {day_sent} sent, {len(ended)} told of the day's limit after {day:.2f} s, to come back in {waits} s",
    )


def d32(full: bool) -> Figure:
    count = 500 if full else 100
    with server() as bad, queue(bad.url("garbage"), limits=None) as q:
        errors = [error_of(future) for future in [q.submit(f"{number}") for number in range(count)]]
    failed = sum(error is not None for error in errors)
    return Figure(not failed, f"{count} answers with garbage headers: failed {failed}")


def d33(full: bool) -> Figure:
    said = []
    with server() as bad, queue(bad.url("ok"), max_pending=100, max_pending_per_client=40, when_full="raise") as q:
        q.pause()
        for client in "abc":
            for number in range(40):
                try:
                    q.submit(f"{number}", client=client)
                except QueueFull as error:
                    said.append(error.limit)
        try:
            q.submit("one more", client="a")
        except QueueFull as error:
            said.append(error.limit)
        pending = q.stats().pending
        before = memory_mib()
        for number in range(20_000 if full else 2_000):
            try:
                q.submit(f"{number}", client="d")
            except QueueFull as error:
                said.append(error.limit)
        growth = memory_mib() - before
        q.shutdown(cancel_futures=True)
    ok = pending == 100 and said.count(100) >= 2_020 and growth <= 4
    blocked = threading.Event()
    with server() as bad, queue(bad.url("ok"), max_pending=5) as q:
        q.pause()
        [q.submit(f"{number}") for number in range(5)]
        thread = threading.Thread(target=lambda: (q.submit("sixth"), blocked.set()))
        thread.start()
        waits = not blocked.wait(0.2)
        q.resume()
        went_on = blocked.wait(PATIENCE_S)
        thread.join()
    return Figure(
        ok and waits and went_on,
        f"{pending} pending, {len(said):,} refused with the bound, memory {growth:+.1f} MiB (bar 4); "
        f"'block' waits: {waits}, goes on: {went_on}",
    )


def d34(full: bool) -> Figure:
    with server() as bad:
        q = queue(bad.url("ok"), limits=Limits(rpm=1))
        futures = [q.submit(f"{number}") for number in range(50)]
        futures[0].result(PATIENCE_S)
        took = seconds(lambda: q.shutdown(cancel_futures=True))
        done = sum(future.done() for future in futures)
    return Figure(took <= SLACK and done == 50, f"closed in {took:.3f} s (bar 1 s), {done} of 50 futures ended")

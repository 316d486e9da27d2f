"""D50 to D54: what callers pass."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from typing import Any

from groq_queue import ConfigurationError, GroqQueue, GroqQueueError, Limits

from .harness import PATIENCE_S, Figure, memory_mib, queue, server

_MESSAGES = [{"role": "user", "content": "hi"}]


def bad_inputs(url: str, q: GroqQueue) -> list[tuple[str, Callable[[], Any]]]:
    """The 24 of the table: the field that the error must name, and the call."""

    def made(**given: Any) -> Callable[[], Any]:
        return lambda: queue(url, **given).shutdown()

    def asked(*given: Any, **options: Any) -> Callable[[], Any]:
        return lambda: q.submit(*given, **options)

    return [
        ("api_key", made(api_key="")),
        ("api_key", made(api_key=5)),
        ("base_url", made(base_url="x")),
        ("base_url", made(base_url="ftp://h")),
        ("rpm", lambda: Limits(rpm=0)),
        ("rpm", lambda: Limits(rpm=-1)),
        ("rpm", lambda: Limits(rpm="ten")),  # type: ignore[arg-type]
        ("tpm", lambda: Limits(tpm=0)),
        ("max_workers", made(max_workers=0)),
        ("max_workers", made(max_workers=-2)),
        ("timeout", made(timeout=0)),
        ("timeout", made(timeout=-1)),
        ("max_retries", made(max_retries=-1)),
        ("messages", asked(None)),
        ("messages", asked({"messages": "hi"})),
        ("messages", asked({})),
        ("model", lambda: GroqQueue(api_key="gsk_x", base_url=url).submit({"messages": _MESSAGES})),
        ("messages", asked({"messages": 5})),
        ("metadata", asked("hi", metadata={"a", 1})),
        ("temperature", asked("hi", temperature=float("inf"))),
        ("user", asked("hi", user=object())),
        ("priority", asked("hi", priority="loud")),
        ("client", asked("hi", client=5)),
        ("journal", made(journal=5)),
    ]


def d50(full: bool) -> Figure:
    clear = named = 0
    slowest = 0.0
    with server() as bad, queue(bad.url("ok")) as q:
        for field, call in bad_inputs(bad.url("ok"), q):
            begin = time.perf_counter()
            try:
                call()
            except (GroqQueueError, ValueError) as error:
                clear += isinstance(error, ConfigurationError)
                named += field in str(error)
            slowest = max(slowest, time.perf_counter() - begin)
        sent = bad.seen("ok")["sent"]
    return Figure(
        (clear, named, sent) == (24, 24, 0),
        f"{clear} of 24 clear, {named} name the field, sent {sent}, slowest {slowest * 1_000:.0f} ms",
    )


def d51(full: bool) -> Figure:
    said = []
    with server() as bad:
        for call in (lambda: queue(bad.url("ok"), max_worker=3), lambda: GroqQueue.simulated(workers=3)):
            try:
                call()
            except TypeError as error:
                said.append("max_worker" in str(error) or "workers" in str(error))
    return Figure(said == [True, True], f"{sum(said)} of 2 are a TypeError that names the keyword")


def d52(full: bool) -> Figure:
    os.environ.pop("GROQ_API_KEY", None)
    try:
        GroqQueue(model="m")
        said = "nothing"
    except ConfigurationError as error:
        said = str(error)
    return Figure("GROQ_API_KEY" in said, said[:70] + "…")


def d53(full: bool) -> Figure:
    text = "x" * 20_000_000
    refused = 0
    with server() as bad:
        with queue(bad.url("ok")) as q:
            for _ in range(5):
                try:
                    q.submit(text)
                except ConfigurationError as error:
                    refused += "max_payload_bytes" in str(error)
        before = memory_mib()
        with queue(bad.url("ok"), max_payload_bytes=30_000_000) as q:
            answered = sum(future.result(PATIENCE_S) is not None for future in [q.submit(text) for _ in range(5)])
        growth = (memory_mib("VmHWM") - before) / 19.1
        sent = bad.seen("ok")["sent"]
    ok = refused == 5 and answered == sent == 5 and growth <= 25
    return Figure(
        ok,
        f"20 MB x 5: refused {refused} by default; "
        f"with max_payload_bytes raised {answered} answered, memory +{growth:.1f} payloads for all five (bar 25)",
    )


def d54(full: bool) -> Figure:
    count = 1_000 if full else 300
    draws = random.Random(54)

    def text() -> str:
        codes = (
            draws.choice((draws.randrange(0x80), draws.randrange(0xD800), draws.randrange(0xE000, 0x110000)))
            for _ in range(draws.randrange(1, 60))
        )
        return "".join(map(chr, codes))

    texts = [text() for _ in range(count)]
    with server() as bad, queue(bad.url("ok")) as q:
        futures = [q.submit(each) for each in texts]
        wrong = sum(
            future.result(PATIENCE_S).text != hashlib.sha256(each.encode()).hexdigest()
            for each, future in zip(texts, futures, strict=True)
        )
    return Figure(not wrong, f"{count} random texts: mismatches {wrong}")

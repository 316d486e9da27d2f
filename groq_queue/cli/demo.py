"""``groq-queue demo``: the same load without the queue and through it, counted by the server, and what that proves.

The baseline is what people write first: a thread pool, and on a 429 a sleep of
``Retry-After``. Both meet a fresh simulator with the same seed; every figure shown
is the simulator's or the clock's. What is slow to load is imported by the function
that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from groq_queue.cli import Exit
from groq_queue.cli.arguments import add_command

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands
    from groq_queue.core.limits import Limits
    from groq_queue.core.priority import PriorityLike
    from groq_queue.reporting.plot import Series
    from groq_queue.simulator import Record

_DESCRIPTION = """\
Send the same load twice to a simulated Groq, first with a plain thread pool and
retries, then through the queue, and compare. Takes about 10 seconds, needs no
key and no network.
"""

_MODEL = "llama-3.1-8b-instant"
_RPM, _TPM = 60, 6_000
_MINUTE_S = 6.0
_REQUESTS = 100  # the urgent one is one of them
_WORKERS = 8
_LATENCY_S = (0.05, 0.25)
_ALLOWANCE = 64
_URGENT = "URGENT: answer the customer who is waiting."
_INTRODUCTION = (
    f"{_REQUESTS} requests of 3 clients, the last one urgent, to a simulated Groq on this\n"
    f"machine: {_RPM} requests and {_TPM:,} tokens a minute. "
    f"A minute lasts {_MINUTE_S:g} s here, so\n"
    "Retry-After, told in whole seconds, weighs more on the pool than in life.\n"
)
_TOPICS = ("rain", "tea", "rust", "moss", "snow", "salt", "ink", "owls", "kites", "bread")


def add_to(commands: Commands) -> None:
    """Register the ``demo`` subcommand."""
    parser = add_command(commands, "demo", "see it work: 10 seconds, no key", demo, _DESCRIPTION)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws another load (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--svg", metavar="FILE", help="write a figure of both runs over time to FILE")
    parser.add_argument("--capture", metavar="FILE", help="write what the terminal shows to FILE, as SVG")


def demo(args: argparse.Namespace) -> int:
    """Run both and compare; the exit code tells whether the queue kept its promises."""
    from groq_queue.cli.batch_files import open_output, write_text
    from groq_queue.reporting.plot import terminal_svg

    with contextlib.ExitStack() as files:
        drawing, capture = (None if path is None else open_output(path, files) for path in (args.svg, args.capture))
        if not args.json:
            print(_INTRODUCTION, flush=True)
        _tell("1 of 2: a thread pool that sleeps Retry-After on a 429 …")
        plain, plain_log = measure(args.seed, send_plainly)
        _tell("2 of 2: through the queue …")
        queued, queued_log = measure(args.seed, send_queued)
        _tell("")

        is_proven = not queued.lost and not queued.refused
        shown = f"{table(plain, queued)}\n{conclusion(queued)}"
        if args.json:
            print(json.dumps({"pool": plain._asdict(), "queue": queued._asdict(), "proven": is_proven}))
        else:
            print(shown)
        if drawing is not None:
            write_text(drawing, figure((plain, plain_log), (queued, queued_log)))
        if capture is not None:
            write_text(capture, terminal_svg("groq-queue demo", f"{_INTRODUCTION}\n{shown}"))
    return Exit.DONE if is_proven else Exit.SOME_FAILED


def _tell(step: str) -> None:
    """Show the present step on a terminal, in place of the one before."""
    if sys.stderr.isatty():
        print(f"\r{step:60}" + ("" if step else "\r"), end="", file=sys.stderr, flush=True)


class _Prompt(NamedTuple):
    text: str
    priority: PriorityLike
    client: str


class ComparedRun(NamedTuple):
    """What one way of sending made of the load."""

    requests: int
    answered: int
    seconds: float
    refused: int
    share: float  # of what the limits allow, 0..1
    urgent_place: int  # among the admitted, from 1; 0 if it never was

    @property
    def lost(self) -> int:
        return self.requests - self.answered


def _load(seed: int) -> list[_Prompt]:
    import random

    draws = random.Random(seed)
    load = [
        _Prompt(
            f"Haiku number {number} about {draws.choice(_TOPICS)}",
            draws.choice(("normal", "normal", "low", "background")),
            draws.choice(("website", "report", "import")),
        )
        for number in range(1, _REQUESTS)
    ]
    return [*load, _Prompt(_URGENT, "critical", "website")]


def _limits() -> Limits:
    from groq_queue.core.limits import Limits

    return Limits(rpm=_RPM, tpm=_TPM, minute_s=_MINUTE_S)


def measure(seed: int, send: Callable[[str, list[_Prompt]], int]) -> tuple[ComparedRun, list[Record]]:
    """Have the load of *seed* sent, and return what became of it and the server's log."""
    from groq_queue.simulator import GroqSimulator

    load = _load(seed)
    with GroqSimulator(limits=_limits(), models=[_MODEL], latency=_LATENCY_S, seed=seed) as simulator:
        start_s = time.monotonic()
        answered = send(simulator.base_url, load)
        seconds = time.monotonic() - start_s
        log = simulator.log
        admitted = [record for record in log if record.status == 200]
        refused = simulator.stats().refused
    place = next((n for n, record in enumerate(admitted, 1) if record.prompt == _URGENT), 0)
    # The limit is spent best if the last request is admitted as soon as the others leave room for it.
    arrivals = [record.arrived_ns for record in admitted]
    sending_s = (arrivals[-1] - arrivals[0]) / 1e9 if arrivals else 0.0
    share = min(1.0, _least_seconds([record.requested for record in admitted]) / sending_s) if sending_s else 0.0
    return ComparedRun(len(load), answered, round(seconds, 2), refused, round(share, 3), place), log


def _least_seconds(requested: list[int]) -> float:
    """Return how long admitting these takes at least: what exceeds the bucket has to drain."""
    used = sum(requested) - (len(requested) - 1) * _ALLOWANCE // 2  # half of each allowance comes back
    by_requests = (len(requested) - _RPM) / _RPM
    by_tokens = (used - _TPM) / _TPM
    return max(by_requests, by_tokens, 0.0) * _MINUTE_S


def send_plainly(base_url: str, load: list[_Prompt]) -> int:
    """Send the load as a thread pool does, and return how many were answered."""
    from concurrent.futures import ThreadPoolExecutor

    import urllib3

    headers = {"authorization": "Bearer local", "content-type": "application/json"}
    with urllib3.PoolManager(maxsize=_WORKERS, retries=False) as http:

        def ask(prompt: _Prompt) -> bool:
            messages = [{"role": "user", "content": prompt.text}]
            body = json.dumps({"model": _MODEL, "messages": messages, "max_completion_tokens": _ALLOWANCE})
            while True:
                response = http.request("POST", f"{base_url}/chat/completions", body=body, headers=headers)
                if response.status != 429:
                    return response.status == 200
                time.sleep(float(response.headers["retry-after"]))

        pool = ThreadPoolExecutor(_WORKERS)
        try:
            return sum(pool.map(ask, load))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C is not to wait for the whole load


def send_queued(base_url: str, load: list[_Prompt]) -> int:
    """Send the load through the queue, and return how many were answered."""
    from concurrent.futures import as_completed

    from groq_queue.api.queue import GroqQueue

    with GroqQueue(api_key="local", base_url=base_url, model=_MODEL, limits=_limits(), max_workers=_WORKERS) as client:
        futures = [
            client.submit(prompt.text, priority=prompt.priority, client=prompt.client, max_completion_tokens=_ALLOWANCE)
            for prompt in load
        ]
        return sum(future.exception() is None for future in as_completed(futures))


def figure(plain: tuple[ComparedRun, list[Record]], queued: tuple[ComparedRun, list[Record]]) -> str:
    from groq_queue.reporting.plot import comparison_svg

    title = f"{_REQUESTS} requests at {_RPM} a minute (of {_MINUTE_S:g} s), {_WORKERS} threads"
    courses = [_series("thread pool that sleeps Retry-After", *plain), _series("groq_queue", *queued)]
    return comparison_svg(title, courses, bin_s=0.25, limit=_RPM, period_s=_MINUTE_S)


def _series(name: str, outcome: ComparedRun, log: list[Record]) -> Series:
    from groq_queue.reporting.plot import Series

    start_ns = min((record.arrived_ns for record in log), default=0)
    at = {is_refused: [(record.arrived_ns - start_ns) / 1e9 for record in log if (record.status == 429) == is_refused]
          for is_refused in (False, True)}  # fmt: skip
    label = f"{name}: {outcome.answered} answered in {outcome.seconds:.1f} s, {outcome.refused} refused (429)"
    return Series(label, at[False], at[True])


def table(plain: ComparedRun, queued: ComparedRun) -> str:
    rows = [("", "thread pool", "groq_queue")]
    rows += [
        ("refused by the server (429)", f"{plain.refused}", f"{queued.refused}"),
        ("urgent request, submitted last, went as", _place(plain), _place(queued)),
        ("lost", f"{plain.lost}", f"{queued.lost}"),
        ("share of the limit used", f"{plain.share:.0%}", f"{queued.share:.0%}"),
        ("seconds", f"{plain.seconds:.1f}", f"{queued.seconds:.1f}"),
    ]
    return "\n".join(f"{label:40}{first:>12}{second:>13}" for label, first, second in rows) + "\n"


def _place(outcome: ComparedRun) -> str:
    return f"{outcome.urgent_place} of {outcome.requests}"


def conclusion(queued: ComparedRun) -> str:
    """Return what was proven, and what to type next."""
    if queued.lost or queued.refused:
        return f"NOT as promised: the queue lost {queued.lost} answers and met {queued.refused} refusals."
    return (
        f"Proven: {queued.answered} of {queued.requests} answered without a single 429, at {queued.share:.0%} of what\n"
        "the limit allows; the urgent one passed all that were still queued.\n"
        "\n"
        "Next, with your key:\n"
        "  export GROQ_API_KEY=…\n"
        f"  groq-queue run prompts.txt --model {_MODEL}\n"
        "or without one:\n"
        "  groq-queue simulate"
    )

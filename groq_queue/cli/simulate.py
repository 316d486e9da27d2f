"""``groq-queue simulate``: the bundled simulator as a process of its own, until it is told to stop."""

from __future__ import annotations

import argparse
import errno
import json
import queue
import re
import sys
from functools import partial
from typing import TYPE_CHECKING

from groq_queue.cli import Exit, UsageError, catching
from groq_queue.cli.arguments import add_command, count_from_0, seconds

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands
    from groq_queue.simulator import GroqSimulator

_DEFAULT_RPM = 1_000
_DEFAULT_MODELS = ("llama-3.1-8b-instant", "llama-3.3-70b-versatile", "openai/gpt-oss-20b", "openai/gpt-oss-120b")


_DESCRIPTION = """\
Serve a simulated Groq on this machine: real HTTP, real rate limiting, made-up
answers, no key, no cost.

The first line of stdout is its base URL. It runs until Ctrl-C, then prints its
counts. Meanwhile GET /simulator/stats, at the same address without /openai/v1,
returns them as JSON.
"""


def add_to(commands: Commands) -> None:
    """Register the ``simulate`` subcommand."""
    parser = add_command(commands, "simulate", "serve a simulated Groq on this machine", simulate, _DESCRIPTION)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=count_from_0, default=0, metavar="N", help="port (default: any free one)")
    parser.add_argument("--model", action="append", metavar="NAME", dest="models",
                        help=f"model to serve, may be repeated (default: {', '.join(_DEFAULT_MODELS)})")  # fmt: skip
    limits = parser.add_argument_group("limits of each model (0: none)")
    limits.add_argument(
        "--rpm", type=count_from_0, default=_DEFAULT_RPM, metavar="N", help="requests per minute (default: 1000)"
    )
    limits.add_argument("--rpd", type=count_from_0, default=0, metavar="N", help="requests per day")
    limits.add_argument("--tpm", type=count_from_0, default=250_000, metavar="N",
                        help="tokens per minute (default: 250000)")  # fmt: skip
    limits.add_argument("--tpd", type=count_from_0, default=0, metavar="N", help="tokens per day")
    limits.add_argument("--itpm", type=count_from_0, default=0, metavar="N", help="input tokens per minute")
    limits.add_argument("--otpm", type=count_from_0, default=0, metavar="N", help="output tokens per minute")
    limits.add_argument(
        "--minute", type=seconds, default=60.0, metavar="S", help="length of a minute in seconds (default: 60)"
    )
    answers = parser.add_argument_group("answers")
    answers.add_argument("--latency", type=_span, default=(0.2, 0.8), metavar="S",
                         help="seconds an answer takes, such as 0.5 or 0.2-2 (default: 0.2-0.8)")  # fmt: skip
    answers.add_argument("--arrival-delay", type=_span, default=0.0, metavar="S",
                         help="seconds before a request is metered, in the same form (default: 0)")  # fmt: skip
    answers.add_argument("--output", type=_span, default=0.5, metavar="F",
                         help="share of max_completion_tokens used, such as 0.5 or 0.2-0.8 (default: 0.5)")  # fmt: skip
    answers.add_argument("--settlement", choices=("corrected", "kept", "deferred"), default="corrected",
                         help="corrected: charged as requested, then as used; kept: as requested; "
                              "deferred: prompt first, answer later (default: corrected)")  # fmt: skip
    answers.add_argument(
        "--seed", type=int, default=0, metavar="N", help="makes latencies and answers repeat (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the counts at the end as one JSON object, on stdout")


def _span(text: str) -> float | tuple[float, float]:
    """Read ``0.5`` or ``0.2-2``."""
    found = re.fullmatch(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a range such as 0.2-2")
    low = float(found[1])
    if found[2] is None:
        return low
    high = float(found[2])
    if high < low:
        raise argparse.ArgumentTypeError(f"{text!r} ends below its start: write the smaller number first")
    return low, high


def simulate(args: argparse.Namespace) -> int:
    """Serve until a signal comes, then print the counts."""
    from groq_queue.simulator import GroqSimulator

    stop: queue.SimpleQueue[int] = queue.SimpleQueue()
    models = args.models or list(_DEFAULT_MODELS)
    try:
        simulator = GroqSimulator(
            models=models,
            rpm=args.rpm or None,
            rpd=args.rpd or None,
            tpm=args.tpm or None,
            tpd=args.tpd or None,
            itpm=args.itpm or None,
            otpm=args.otpm or None,
            minute_s=args.minute,
            latency=args.latency,
            arrival_delay=args.arrival_delay,
            output=args.output,
            settlement=args.settlement,
            seed=args.seed,
            host=args.host,
            port=args.port,
            log_size=0,
        )
        with catching(stop.put, wake=partial(stop.put, 0)):
            with simulator:
                print(simulator.base_url, flush=True)
                _tell_what_next(args, simulator, models[0])
                while not stop.get():
                    pass  # woken to look whether a signal came
            _tell_counts(args, simulator)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(_problem(args, error)) from None
    return Exit.DONE


def _tell_what_next(args: argparse.Namespace, simulator: GroqSimulator, model: str) -> None:
    limits = "".join(f" --{name} {value}" for name in ("rpm", "rpd", "tpm", "tpd") if (value := getattr(args, name)))
    # No header tells the limit of requests per minute, nor how long a minute is: who does not know them meets refusals.
    minute = f" --minute {args.minute:g}" if args.minute != 60 and limits else ""
    known = f"{limits}{minute}" if minute or args.rpm != _DEFAULT_RPM else ""
    print(
        f"simulated Groq, {_limits_text(args)}; Ctrl-C stops it. In another terminal:\n"
        f"  groq-queue run questions.jsonl --base-url {simulator.base_url}{known}\n"
        f"  echo 'Say hello' | groq-queue run - --model {model} --base-url {simulator.base_url}{known}\n"
        f"  curl -s http://{simulator.host}:{simulator.port}/simulator/stats",
        file=sys.stderr,
        flush=True,
    )


def _limits_text(args: argparse.Namespace) -> str:
    names = ("rpm", "rpd", "tpm", "tpd", "itpm", "otpm")
    named = [f"{value:,} {name.upper()}" for name in names if (value := getattr(args, name))]
    minute = "" if args.minute == 60 else f" (a minute lasts {args.minute:g} s)"
    return (", ".join(named) + " for each model" if named else "no limits") + minute


def _tell_counts(args: argparse.Namespace, simulator: GroqSimulator) -> None:
    stats = simulator.stats()
    if args.json:
        print(json.dumps(stats.to_dict()), flush=True)
        return
    by = ", ".join(f"{count:,} by {name}" for name, count in sorted(stats.refused_by_dimension.items()))
    print(
        f"{stats.received:,} received, {stats.by_status.get(200, 0):,} answered, {stats.refused:,} refused (429)"
        + (f": {by}" if by else "")
        + f"; {stats.tokens_used:,} tokens used",
        file=sys.stderr,
    )


def _problem(args: argparse.Namespace, error: ValueError | OSError) -> str:
    if isinstance(error, OSError):
        why = str(error.strerror or error).partition(" (while ")[0]  # asyncio adds the address once more
        is_taken = error.errno == errno.EADDRINUSE
        cure = (
            "--port 0 takes any free port" if is_taken else "give an address of this machine, and a port that is free"
        )
        return f"cannot listen on {args.host}:{args.port}: {why}: {cure}"
    return str(error)

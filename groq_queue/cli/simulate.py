"""``groq-queue simulate``: the bundled simulator as a process of its own, until it is told to stop."""

from __future__ import annotations

import argparse
import errno
import json
import queue
import sys

from groq_queue.cli import DEFAULT_MODELS, Exit, UsageError
from groq_queue.cli.signals import catching
from groq_queue.simulator import GroqSimulator


def simulate(args: argparse.Namespace) -> int:
    """Serve until a signal comes, then print the counts."""
    stop: queue.SimpleQueue[int] = queue.SimpleQueue()
    models = args.models or list(DEFAULT_MODELS)
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
        with catching(stop.put):
            with simulator:
                print(simulator.base_url, flush=True)
                _tell_what_next(args, simulator, models[0])
                stop.get()
            _tell_counts(args, simulator)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(_problem(args, error)) from None
    return Exit.DONE


def _tell_what_next(args: argparse.Namespace, simulator: GroqSimulator, model: str) -> None:
    limits = "".join(f" --{name} {value}" for name in ("rpm", "rpd", "tpm", "tpd") if (value := getattr(args, name)))
    known = f"{limits} --minute {args.minute:g}" if args.minute != 60 and limits else ""
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
    told = [f"{value:,} {name.upper()}" for name in names if (value := getattr(args, name))]
    minute = "" if args.minute == 60 else f" (a minute lasts {args.minute:g} s)"
    return (", ".join(told) + " for each model" if told else "no limits") + minute


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

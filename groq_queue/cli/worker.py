"""``groq-queue worker``: sends what other processes have submitted, until it is told to stop."""

from __future__ import annotations

import argparse
import inspect
import logging
import queue
import sys

from groq_queue.assembly.settings import checked
from groq_queue.assembly.sharing import addresses_of
from groq_queue.assembly.working import Worker
from groq_queue.cli import Exit, UsageError
from groq_queue.cli.arguments import api_key_for, limits_of
from groq_queue.cli.signals import catching
from groq_queue.distributed.lanes import DEFAULT_THREADS, parse_lanes
from groq_queue.errors import EngineUnavailable
from groq_queue.facade import GroqQueue

_REJECTED, _DEAD = 0, -1  # what is put where signals are put: the key was rejected, a lane is served no more


def worker(args: argparse.Namespace) -> int:
    """Work until a signal comes or the key is rejected."""
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    threads = dict(DEFAULT_THREADS) if args.lanes is None else parse_lanes(args.lanes)
    addresses = addresses_of(args.broker, args.state)
    settings = checked(_arguments(args) | {"max_workers": sum(threads.values()), "max_pending": None})
    stop: queue.SimpleQueue[int] = queue.SimpleQueue()
    with catching(stop.put):
        try:
            ours = Worker(
                settings,
                addresses,
                threads=threads,
                lease_s=args.lease,
                on_stopped=lambda: stop.put(_REJECTED),
                on_dead=lambda: stop.put(_DEAD),
            )
            ours.start()
        except EngineUnavailable as error:
            raise UsageError(str(error)) from None
        served = ", ".join(f"{lane}:{count}" for lane, count in threads.items())
        print(f"worker {ours.name} sends to {settings.payers.address} ({served}); Ctrl-C stops it", file=sys.stderr)
        sys.stderr.flush()
        caught = stop.get()
        ours.stop()
    if caught == _REJECTED:
        print(f"groq-queue: stopped, since every request would fail alike: {ours.stopped_by}", file=sys.stderr)
        return Exit.CONFIGURATION
    if caught == _DEAD:
        print("groq-queue: stopped, since a lane broke (see above): start it again", file=sys.stderr)
        return Exit.SOME_FAILED
    return Exit.DONE


def _arguments(args: argparse.Namespace) -> dict[str, object]:
    """Return the arguments of ``GroqQueue``: as given, else its defaults."""
    parameters = inspect.signature(GroqQueue.__init__).parameters.values()
    arguments = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    given = _given(args)
    for field in given.keys() - arguments.keys():
        raise UsageError(f"--{field.replace('_', '-')} is not built into this version: leave it out")
    return arguments | given


def _given(args: argparse.Namespace) -> dict[str, object]:
    given: dict[str, object] = {
        "api_key": api_key_for(args.base_url),
        "base_url": args.base_url,
        "organization": args.organization,
        "limits": limits_of(args),
        "margin": args.margin,
        "on_daily_limit": args.on_daily_limit,
        "max_retries": args.max_retries,
        "timeout": args.timeout,
    }
    if args.limiter is not None:
        given["limiter"] = args.limiter
    if args.on_outage is not None:
        given["on_outage"] = args.on_outage
    return given

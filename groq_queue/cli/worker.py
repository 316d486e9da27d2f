"""``groq-queue worker``: sends what other processes have submitted, until it is told to stop."""

from __future__ import annotations

import argparse
import queue
import sys
from functools import partial
from typing import TYPE_CHECKING

from groq_queue.cli import Exit, UsageError, catching
from groq_queue.cli.arguments import (
    add_base_url,
    add_command,
    add_limiter,
    add_limits,
    add_sending,
    api_key_for,
    limiter_of,
    limits_of,
    seconds,
    sending_of,
)
from groq_queue.errors import ConfigurationError, GroqQueueError, MissingExtraError

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands

# What is put where signals are put: the key was rejected, a lane is served no more, look whether a signal came.
_REJECTED, _DEAD, _LOOK = 0, -1, -2


_DESCRIPTION = """\
Send what other processes submit with GroqQueue(engine="celery"), until Ctrl-C or
SIGTERM: then it returns waiting requests, finishes those in flight, and ends.

Start as many as you like, on any host. They share the limits of the account if
all have the same --limiter; without it each uses the limits as if it were alone.
"""

_EPILOG = """\
examples:
  groq-queue worker --broker redis://127.0.0.1:6379/0 --rpm 30 --tpm 6000
  groq-queue worker --broker redis://cache/0 --limiter redis://cache/1 --lanes urgent:4,bulk:16

environment: GROQ_API_KEY unless the server is this machine, GROQ_BASE_URL, GROQ_QUEUE_BROKER

exit codes: 0 stopped by a signal   1 a lane failed: start it again
  2 usage, or the broker cannot be reached   3 configuration, or the key was rejected
"""


def add_to(commands: Commands) -> None:
    """Register the ``worker`` subcommand."""
    parser = add_command(commands, "worker", "send what other processes submit", worker, _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--broker", metavar="URL", help="redis://… or amqp://… that submitters use too (default: GROQ_QUEUE_BROKER)"
    )
    parser.add_argument("--state", metavar="URL", help="the Redis that stores requests (default: the broker)")
    add_base_url(parser)
    parser.add_argument("--lanes", metavar="L",
                        help="threads for each lane: urgent (priorities 0-4), normal (5), bulk (6-10); a lane that is "
                             "left out is not served (default: urgent:4,normal:8,bulk:8)")  # fmt: skip
    parser.add_argument("--lease", type=seconds, default=15.0, metavar="S",
                        help="seconds of silence after which a worker counts as dead (default: 15)")  # fmt: skip
    add_limits(parser.add_argument_group("limits of your account (default: read from the server's responses)"))
    budget = parser.add_argument_group("budget")
    add_limiter(budget)
    budget.add_argument(
        "--organization", metavar="NAME", help="the organization that is billed, if workers have several keys"
    )
    budget.add_argument("--margin", type=float, default=0.0, metavar="F",
                        help="share of every limit to leave unused (default: 0)")  # fmt: skip
    budget.add_argument("--on-daily-limit", choices=("raise", "wait"), default="raise",
                        help="when a daily limit is used up, requests fail or wait (default: raise)")  # fmt: skip
    add_sending(parser.add_argument_group("sending"))
    parser.add_argument("--verbose", action="store_true", help="log every step to stderr")


def worker(args: argparse.Namespace) -> int:
    """Work until a signal comes or the key is rejected."""
    import logging

    from groq_queue.distributed.wakeups import DEFAULT_THREADS, parse_lanes
    from groq_queue.wiring.factory import Worker, addresses_of
    from groq_queue.wiring.settings import checked

    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    threads = dict(DEFAULT_THREADS) if args.lanes is None else parse_lanes(args.lanes)
    addresses = addresses_of(args.broker, args.state)
    settings = checked(_arguments(args) | {"max_workers": sum(threads.values()), "max_pending": None})
    stop: queue.SimpleQueue[int] = queue.SimpleQueue()
    with catching(stop.put, wake=partial(stop.put, _LOOK)):
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
        except (ConfigurationError, MissingExtraError):
            raise
        except GroqQueueError as error:  # Redis is away, or there is no thread left
            raise UsageError(str(error)) from None
        served = ", ".join(f"{lane}:{count}" for lane, count in threads.items())
        print(
            f"worker {ours.name} sends to {settings.resolved_accounts.address} ({served}); Ctrl-C stops it",
            file=sys.stderr,
        )
        sys.stderr.flush()
        while (caught := stop.get()) == _LOOK:
            pass
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
    import inspect

    from groq_queue.api.queue import GroqQueue

    parameters = inspect.signature(GroqQueue.__init__).parameters.values()
    arguments = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    given = _given(args)
    for field in given.keys() - arguments.keys():
        raise UsageError(f"--{field.replace('_', '-')} is not built into this version: leave it out")
    return arguments | given


def _given(args: argparse.Namespace) -> dict[str, object]:
    return {
        "api_key": api_key_for(args.base_url),
        "base_url": args.base_url,
        "organization": args.organization,
        "limits": limits_of(args),
        "margin": args.margin,
        "on_daily_limit": args.on_daily_limit,
        **limiter_of(args),
        **sending_of(args),
    }

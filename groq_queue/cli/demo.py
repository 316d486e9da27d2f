"""``groq-queue demo``: the same load without the queue and through it, and what it proved."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING

from groq_queue.cli import Exit
from groq_queue.cli.arguments import add_command

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands

_DESCRIPTION = """\
Send the same load twice to a simulated Groq, first with a plain thread pool and
retries, then through the queue, and compare. Takes about 10 seconds, needs no
key and no network.
"""


def add_to(commands: Commands) -> None:
    """Say what may be typed after ``groq-queue demo``."""
    parser = add_command(commands, "demo", "see it work: 10 seconds, no key", demo, _DESCRIPTION)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another load (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--svg", metavar="FILE", help="draw answers and refusals of both over time into FILE")
    parser.add_argument("--capture", metavar="FILE", help="draw what the terminal shows into FILE, as SVG")


def demo(args: argparse.Namespace) -> int:
    """Run both and compare; the exit code tells whether the queue kept its promises."""
    from dataclasses import asdict

    from groq_queue.cli import comparison
    from groq_queue.cli.batch_files import open_output, write_text
    from groq_queue.reporting.plot import terminal_svg

    with contextlib.ExitStack() as files:
        figure, capture = (None if path is None else open_output(path, files) for path in (args.svg, args.capture))
        if not args.json:
            print(comparison.INTRODUCTION, flush=True)
        _tell("1 of 2: a thread pool that sleeps Retry-After on a 429 …")
        plain, plain_log = comparison.measure(args.seed, comparison.send_plainly)
        _tell("2 of 2: through the queue …")
        queued, queued_log = comparison.measure(args.seed, comparison.send_queued)
        _tell("")

        is_proven = not queued.lost and not queued.refused
        shown = f"{comparison.table(plain, queued)}\n{comparison.conclusion(queued)}"
        if args.json:
            print(json.dumps({"pool": asdict(plain), "queue": asdict(queued), "proven": is_proven}))
        else:
            print(shown)
        if figure is not None:
            write_text(figure, comparison.figure((plain, plain_log), (queued, queued_log)))
        if capture is not None:
            write_text(capture, terminal_svg("groq-queue demo", f"{comparison.INTRODUCTION}\n{shown}"))
    return Exit.DONE if is_proven else Exit.SOME_FAILED


def _tell(step: str) -> None:
    """Show the present step on a terminal, in place of the one before."""
    if sys.stderr.isatty():
        print(f"\r{step:60}" + ("" if step else "\r"), end="", file=sys.stderr, flush=True)

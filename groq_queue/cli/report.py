"""``groq-queue report``: the report of a run, as tables, JSON or a figure."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from groq_queue.cli import Exit, UsageError
from groq_queue.cli.arguments import add_command
from groq_queue.errors import ConfigurationError

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands


_DESCRIPTION = """\
Show a report that run --report has written: as tables, as JSON, or as a figure
of answers, refusals and use of the limits over time.
"""


def add_to(commands: Commands) -> None:
    """Register the ``report`` subcommand."""
    parser = add_command(commands, "report", "show the report of a run", report, _DESCRIPTION)
    parser.add_argument("input", metavar="FILE", help="written by run --report, - for stdin")
    parser.add_argument("--svg", metavar="OUT", help="write the figure to OUT; never overwritten")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def report(args: argparse.Namespace) -> int:
    """Show the report in *args.input* and return the exit code."""
    from groq_queue.cli.batch_files import open_input, open_output, write_text
    from groq_queue.reporting.report import Report

    with contextlib.ExitStack() as files:
        source, name, _ = open_input(args.input, files)
        try:
            found = Report.from_json(source.read())
        except ConfigurationError as error:
            raise UsageError(f"{name}: {error}") from None
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror or error}") from None
        if args.svg is not None:
            write_text(open_output(args.svg, files), found.to_svg())
            if args.svg != "-":
                print(f"wrote the figure into {args.svg}", file=sys.stderr)
    if args.svg != "-":  # then the figure is what stdout is for
        print(found.to_json() if args.json else found)
    return Exit.DONE

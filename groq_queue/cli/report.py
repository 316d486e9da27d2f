"""``groq-queue report``: the report of a run, as tables, JSON or a figure."""

from __future__ import annotations

import argparse
import contextlib

from groq_queue.cli import Exit, UsageError
from groq_queue.cli.files import Sink, open_input, open_output
from groq_queue.errors import ConfigurationError
from groq_queue.reporting.report import Report


def report(args: argparse.Namespace) -> int:
    """Show the report in *args.input* and return the exit code."""
    with contextlib.ExitStack() as files:
        source, name, _ = open_input(args.input, files)
        try:
            found = Report.from_json(source.read())
        except ConfigurationError as error:
            raise UsageError(f"{name}: {error}") from None
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror or error}") from None
        if args.svg is not None:
            write_figure(open_output(args.svg, files), found.to_svg())
    if args.svg != "-":  # then the figure is what stdout is for
        print(found.to_json() if args.json else found)
    return Exit.DONE


def write_figure(sink: Sink, svg: str) -> None:
    """Write an SVG document.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        sink.write(svg.encode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot write {sink.name}: {error.strerror or error}") from None

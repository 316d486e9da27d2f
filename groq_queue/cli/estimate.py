"""``groq-queue estimate``: what the lines of a file would take; nothing is sent, and no key is needed."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING

from groq_queue.cli import Exit, UsageError
from groq_queue.cli.arguments import add_command, add_limits, count, limits_of, seconds
from groq_queue.display import plural
from groq_queue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from groq_queue.cli.arguments import Commands
    from groq_queue.reporting.estimate import Sized

_DESCRIPTION = """\
Print what sending every line of a file would take, without sending any: requests,
tokens, cost, time, the limit that sets the time, and requests that never fit.
Reads the same lines as run; needs no key and no network. An answer is taken to be
as long as max_completion_tokens allows, or 1,024 tokens where a line does not say.
The cost is in USD; a model whose price is not known is named instead of a cost.
"""

_EPILOG = """\
example:
  groq-queue estimate batch.jsonl --rpm 30 --tpm 6000 && groq-queue run batch.jsonl -o answers.jsonl

exit codes:
  0 every line can be sent   1 some never can   2 usage, or a file that cannot be read
"""


_BAD_LINES_SHOWN = 5  # bad lines that are told one by one


def add_to(commands: Commands) -> None:
    """Register the ``estimate`` subcommand."""
    parser = add_command(
        commands, "estimate", "tokens, cost and time of a file; sends nothing", estimate, _DESCRIPTION, _EPILOG
    )
    parser.add_argument("input", metavar="IN", help="file to read, - for stdin")
    parser.add_argument("--model", metavar="M", help="model of the lines that name none")
    add_limits(parser.add_argument_group("limits of your account (without them: the least time it can take)"))
    guesses = parser.add_argument_group("assumptions")
    guesses.add_argument("--workers", type=count, default=64, metavar="N",
                         help="most requests in flight at once (default: 64)")  # fmt: skip
    guesses.add_argument("--latency", type=seconds, default=1.0, metavar="S",
                         help="seconds an answer takes (default: 1)")  # fmt: skip
    guesses.add_argument("--output-share", type=_share, metavar="F",
                         help="share of max_completion_tokens that an answer uses (default: all of it)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the estimate as one JSON object")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return share


def estimate(args: argparse.Namespace) -> int:
    """Print the estimate of *args.input* and return the exit code: 1 if some lines can never be sent."""
    from groq_queue.cli.batch_files import open_input
    from groq_queue.cli.batch_lines import NotLines
    from groq_queue.core.price_table import PriceTable
    from groq_queue.reporting.estimate import estimate_load, fresh_meters

    limits = limits_of(args)
    with contextlib.ExitStack() as files:
        source, name, _ = open_input(args.input, files)
        lines = _Lines(source, args.model)
        try:
            estimated = estimate_load(
                iter(lines),
                meter_of=fresh_meters(limits),
                price_table=PriceTable(),
                latency_s=args.latency,
                max_workers=args.workers,
                output_share=args.output_share,
            )
        except NotLines as error:
            raise UsageError(f"{name}: {error}") from None
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror or error}") from None
    if args.json:
        print(json.dumps({**estimated.to_dict(), "bad_lines": lines.bad}))
    else:
        print(estimated)
    if lines.bad > _BAD_LINES_SHOWN:
        print(f"groq-queue: {plural(lines.bad, 'line')} cannot be sent", file=sys.stderr)
    return Exit.SOME_FAILED if lines.bad or estimated.too_large_count else Exit.DONE


class _Lines:
    """The requests that the lines of one input ask for; those that cannot be sent are counted and told."""

    def __init__(self, source: BinaryIO, model: str | None) -> None:
        self._source = source
        self._model = model
        self.bad = 0

    def __iter__(self) -> Iterator[Sized]:
        from groq_queue.api.estimate import request_of_line
        from groq_queue.cli.batch_lines import BadLine, LineParser, read_lines

        parser = LineParser(needs_model=self._model is None)
        for place, (number, raw) in enumerate(read_lines(self._source)):
            try:
                ask = parser.parse(number, raw)
                yield request_of_line(place, ask.payload, ask.custom_id, self._model, ask.endpoint, ask.options)
            except (BadLine, ConfigurationError, TypeError) as problem:
                self.bad += 1
                if self.bad <= _BAD_LINES_SHOWN:
                    said = str(problem) if isinstance(problem, BadLine) else f"line {number}: {problem}"
                    print(f"groq-queue: {said}", file=sys.stderr)

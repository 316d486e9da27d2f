"""``groq-queue estimate``: what the lines of a file would take; nothing is sent, and no key is needed."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import BinaryIO

from groq_queue.cli import Exit, UsageError
from groq_queue.cli.arguments import limits_of
from groq_queue.cli.files import open_input
from groq_queue.cli.lines import BadLine, LineParser, NotLines, read_lines
from groq_queue.core.checks import check_count
from groq_queue.core.prices import Tariff
from groq_queue.core.pricing import size_of
from groq_queue.core.request import build_payload, tier_of
from groq_queue.errors import ConfigurationError
from groq_queue.reporting.estimate import Sized, estimate_load, fresh_meters

_TOLD = 5  # bad lines that are told one by one


def estimate(args: argparse.Namespace) -> int:
    """Print the estimate of *args.input* and return the exit code: 1 if some lines can never be sent."""
    limits = limits_of(args)
    with contextlib.ExitStack() as files:
        source, name, _ = open_input(args.input, files)
        lines = _Lines(source, args.model)
        try:
            told = estimate_load(
                iter(lines),
                meter_of=fresh_meters(limits),
                tariff=Tariff(),
                latency_s=args.latency,
                max_workers=args.workers,
                output_share=args.output_share,
            )
        except NotLines as error:
            raise UsageError(f"{name}: {error}") from None
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror or error}") from None
    if args.json:
        print(json.dumps({**told.to_dict(), "bad_lines": lines.bad}))
    else:
        print(told)
    if lines.bad > _TOLD:
        print(f"groq-queue: {lines.bad:,} lines ask for nothing that can be sent", file=sys.stderr)
    return Exit.SOME_FAILED if lines.bad or told.too_large_count else Exit.DONE


class _Lines:
    """The requests that the lines of one input ask for; those that cannot be sent are counted and told."""

    def __init__(self, source: BinaryIO, model: str | None) -> None:
        self._source = source
        self._model = model
        self.bad = 0

    def __iter__(self) -> Iterator[Sized]:
        parser = LineParser(needs_model=self._model is None)
        for place, (number, raw) in enumerate(read_lines(self._source)):
            try:
                ask = parser.parse(number, raw)
                payload = build_payload(ask.payload, None, self._model, {}, ask.endpoint)
                size = size_of(payload, check_count("tokens", ask.options.get("tokens"), optional=True))
                yield Sized(place, ask.custom_id, payload["model"], tier_of(payload), size)
            except (BadLine, ConfigurationError, TypeError) as problem:
                self.bad += 1
                if self.bad <= _TOLD:
                    said = str(problem) if isinstance(problem, BadLine) else f"line {number}: {problem}"
                    print(f"groq-queue: {said}", file=sys.stderr)

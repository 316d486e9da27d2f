"""What arguments that several commands have in common mean."""

from __future__ import annotations

import argparse

from groq_queue.cli import UsageError
from groq_queue.core.budget import Limits


def limits_of(args: argparse.Namespace) -> Limits | None:
    """Return the limits that were given, or None if none was.

    Raises:
        UsageError: The length of a minute was given, and no limit.
    """
    given = {name: value for name in ("rpm", "rpd", "tpm", "tpd") if (value := getattr(args, name)) is not None}
    if args.minute is not None:
        if not given:
            raise UsageError("--minute says how long the minute of --rpm and --tpm is: give one of these too")
        return Limits(**given, minute_s=args.minute)
    return Limits(**given) if given else None

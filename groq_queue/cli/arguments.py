"""What the arguments of ``groq-queue run`` mean together; one by one ``argparse`` has checked them."""

from __future__ import annotations

import argparse
import os
from typing import Any
from urllib.parse import urlsplit

from groq_queue.cli import UsageError
from groq_queue.core.budget import Limits
from groq_queue.errors import ConfigurationError
from groq_queue.transport.address import is_loopback

_LOCAL_KEY = "local"  # servers on this machine ask for none, HTTP wants one


def check_files(args: argparse.Namespace) -> None:
    """Refuse what would spoil a file, or do less than was asked for."""
    if args.resume and args.output in (None, "-"):
        raise UsageError("--resume goes on in a file of answers: add -o OUT")
    if args.journal is None:
        if args.durability != "full":
            raise UsageError("--durability says how --journal is written: add --journal FILE")
        return
    for option, path in (("IN", args.input), ("-o", args.output), ("--errors", args.errors)):
        if path not in (None, "-") and os.path.realpath(path) == os.path.realpath(args.journal):
            raise UsageError(f"{path} is both {option} and --journal: name another file")


def journal_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the queue is told of a journal."""
    return {} if args.journal is None else {"journal": args.journal, "durability": args.durability}


def limits_of(args: argparse.Namespace) -> Limits | None:
    """Return the limits that were given, None if none was."""
    given = {name: value for name in ("rpm", "rpd", "tpm", "tpd") if (value := getattr(args, name)) is not None}
    if args.minute is not None:
        if not given:
            raise UsageError("--minute says how long the minute of --rpm and --tpm is: give one of these too")
        return Limits(**given, minute_s=args.minute)
    return Limits(**given) if given else None


def api_key_for(base_url: str | None) -> str | None:
    """Return None to have the key read from the environment, or the placeholder for this machine's servers."""
    if os.environ.get("GROQ_API_KEY"):
        return None
    url = base_url or os.environ.get("GROQ_BASE_URL") or ""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if host is not None and is_loopback(host):
        return _LOCAL_KEY
    raise ConfigurationError("GROQ_API_KEY is not set: export GROQ_API_KEY=…, or see it work without: groq-queue demo")

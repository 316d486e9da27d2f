"""Arguments that several commands have: how each is read, what it means, and how a wrong one is refused.

A function that reads one argument raises ArgumentTypeError, whose message
``argparse`` shows behind the argument's name. Nothing that is slow to load is
imported before a command runs: a page of help waits for nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from groq_queue.cli import Exit, UsageError
from groq_queue.errors import ConfigurationError, excerpt

if TYPE_CHECKING:
    from groq_queue.core.limits import Limits

    Commands = argparse._SubParsersAction["Parser"]

_LOCAL_KEY = "local"  # servers on this machine ask for none, HTTP wants one


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations, shows pages of help as they are written, and never repeats a key."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """Refuse what a command does not know in its own name, whose --help tells what it knows."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        if "api-key" in message or "api_key" in message or "gsk_" in message:
            message = "no argument takes the API key: set the environment variable GROQ_API_KEY instead"
        print(f"{self.prog}: {excerpt(message)}\nTry '{self.prog} --help'.", file=sys.stderr)
        raise SystemExit(int(Exit.USAGE))


# One argument.


def count(text: str) -> int:
    """Read a number from 1 up."""
    return _whole(text, 1)


def count_from_0(text: str) -> int:
    """Read a number from 0 up."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        found = int(text.replace(",", ""))
    except ValueError:
        found = least - 1
    if found < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
    return found


def seconds(text: str) -> float:
    """Read a duration of up to 366 days."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.001 <= found <= 31_622_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return found


# Arguments that belong together.


def add_base_url(parser: argparse.ArgumentParser) -> None:
    """Add --base-url."""
    parser.add_argument("--base-url", metavar="U", help="where the API is (default: GROQ_BASE_URL, else Groq)")


def api_key_for(base_url: str | None) -> str | None:
    """Return None to have the key read from the environment, or the placeholder for this machine's servers.

    Raises:
        ConfigurationError: The address cannot be used, or it needs a key and there is none.
    """
    from urllib.parse import urlsplit

    from groq_queue.transport.address import is_loopback, resolve_base_url

    url = base_url or os.environ.get("GROQ_BASE_URL")
    # Before the key: who mistyped the address of a server that needs none is not to be asked for one.
    host = None if not url else urlsplit(resolve_base_url(url)).hostname
    if os.environ.get("GROQ_API_KEY"):
        return None
    if host is not None and is_loopback(host):
        return _LOCAL_KEY
    raise ConfigurationError("GROQ_API_KEY is not set: export GROQ_API_KEY=…, or see it work without: groq-queue demo")


def add_limits(limits: argparse._ArgumentGroup) -> None:
    """Add --rpm, --rpd, --tpm, --tpd and --minute."""
    limits.add_argument("--rpm", type=count, metavar="N", help="requests per minute")
    limits.add_argument("--rpd", type=count, metavar="N", help="requests per day")
    limits.add_argument("--tpm", type=count, metavar="N", help="tokens per minute")
    limits.add_argument("--tpd", type=count, metavar="N", help="tokens per day")
    limits.add_argument("--minute", type=seconds, metavar="S", help="length of a minute in seconds, for simulators")


def limits_of(args: argparse.Namespace) -> Limits | None:
    """Return the limits that were given, None if none was."""
    from groq_queue.core.limits import Limits

    given = {name: value for name in ("rpm", "rpd", "tpm", "tpd") if (value := getattr(args, name)) is not None}
    if args.minute is not None:
        if not given:
            raise UsageError("--minute says how long the minute of --rpm and --tpm is: give one of these too")
        return Limits(**given, minute_s=args.minute)
    return Limits(**given) if given else None


def add_limiter(budget: argparse._ArgumentGroup) -> None:
    """Add --limiter and --on-outage."""
    budget.add_argument("--limiter", metavar="URL",
                        help="share the limits with other programs: sqlite:///PATH on one host, redis://… on several "
                             "(default: this process has them alone)")  # fmt: skip
    budget.add_argument("--on-outage", choices=("wait", "raise", "local_share"), default="wait",
                        help="while the limiter cannot be reached: requests wait, fail, or are sent with a share "
                             "of the limits (default: wait)")  # fmt: skip


def limiter_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of ``GroqQueue`` that --limiter and --on-outage set."""
    return {"limiter": args.limiter, "on_outage": args.on_outage}


def add_sending(sending: argparse._ArgumentGroup) -> None:
    """Add --max-retries and --timeout."""
    sending.add_argument("--max-retries", type=count_from_0, default=5, metavar="N",
                         help="further attempts after the first (default: 5)")  # fmt: skip
    sending.add_argument("--timeout", type=seconds, default=60.0, metavar="S",
                         help="seconds of silence after which an attempt is given up (default: 60)")  # fmt: skip


def sending_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of ``GroqQueue`` that these two set; a connection may take five seconds."""
    return {"max_retries": args.max_retries, "timeout": (min(5.0, args.timeout), args.timeout)}


def add_command(
    commands: Commands,
    name: str,
    brief: str,
    command: Callable[[argparse.Namespace], int],
    description: str,
    epilog: str | None = None,
) -> Parser:
    """Register the subcommand *name*, which calls *command*, and return its parser."""
    parser = commands.add_parser(name, help=brief, description=description, epilog=epilog)
    parser.set_defaults(command=command)
    return parser

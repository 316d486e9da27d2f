"""``groq-queue doctor``: looks at everything a run depends on and sends no request that costs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from groq_queue.cli import Exit
from groq_queue.cli.arguments import add_base_url, add_command, count, seconds

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands

_DESCRIPTION = """\
Check what a run depends on: key, base URL, proxy, network, clock, open files,
and a journal and a limiter if you name them. Sends one GET for the list of
models, which costs nothing. The key is never printed.
"""

_EPILOG = """\
exit codes: 0 nothing failed   1 network, server, journal or limiter   3 key or settings
"""


def add_to(commands: Commands) -> None:
    """Say what may be typed after ``groq-queue doctor``."""
    parser = add_command(
        commands, "doctor", "check key, address, network, clock, journal and limiter", doctor, _DESCRIPTION, _EPILOG
    )
    add_base_url(parser)
    parser.add_argument("--model", metavar="M", help="also check that the API serves this model")
    parser.add_argument("--journal", metavar="FILE", help="also check this journal")
    parser.add_argument("--limiter", metavar="URL", help="also check this limiter")
    parser.add_argument("--workers", type=count, default=64, metavar="N",
                        help="requests on their way at once that you plan (default: 64)")  # fmt: skip
    parser.add_argument("--timeout", type=seconds, default=10.0, metavar="S",
                        help="seconds to wait for the network (default: 10)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the checks as one JSON object")


def doctor(args: argparse.Namespace) -> int:
    """Check everything, print it, and return 0, or 3 for settings that cannot work, or 1 for anything else."""
    from groq_queue.cli.checkup import Doctor

    checks = []
    for check in Doctor(args).checks():
        checks.append(check)
        if not args.json:
            print(f"{check.level:<5} {check.name:<11} {check.text}", flush=True)
    failed = [check for check in checks if check.level == "fail"]
    code = Exit.DONE
    if failed:
        code = Exit.CONFIGURATION if any(check.is_configuration for check in failed) else Exit.SOME_FAILED
    if args.json:
        report = {
            "checks": [{"name": each.name, "level": each.level, "text": each.text} for each in checks],
            "ok": not failed,
            "exit_code": int(code),
        }
        print(json.dumps(report))
    else:
        warned = sum(check.level == "warn" for check in checks)
        print(f"\n{len(failed)} failed, {warned} to look at" if failed or warned else "\nall ok", file=sys.stderr)
    return code

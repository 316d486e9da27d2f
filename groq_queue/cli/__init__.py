"""The command line: what the exit codes mean.

Results go to stdout or to ``-o``, everything else to stderr. The API key is read
from the environment only: an argument would show it to everybody who may list
processes. Each command stands in a file of its own, below what may be typed after
it; what it works with is imported when it is called.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from groq_queue.errors import ConfigurationError, JournalError, LimiterUnavailable, MissingExtraError

if TYPE_CHECKING:
    import argparse


class Exit(IntEnum):
    """Exit codes; 128 + signal when interrupted."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    LIMIT = 4
    INTERRUPTED = 130
    TERMINATED = 143


class UsageError(Exception):
    """What was typed cannot be done; the message names the cure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: The arguments without the program's name; None takes the process's own.
    """
    try:
        code = _main(argv)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can still be told that what was printed did not arrive
        return code
    except BrokenPipeError:
        silence_stdout()
        return Exit.SOME_FAILED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EIO) or error.filename is not None:
            raise
        silence_stdout()
        _say(f"cannot write stdout: {error.strerror or error}")
        return Exit.USAGE


def _main(argv: Sequence[str] | None) -> int:
    from groq_queue.cli.parser import build_parser

    try:
        args = build_parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = args.command
        return command(args)
    except SystemExit as leaving:  # argparse: --help, --version, usage
        return leaving.code if isinstance(leaving.code, int) else Exit.USAGE
    except (UsageError, JournalError, LimiterUnavailable) as error:
        _say(error)
        return Exit.USAGE
    except (ConfigurationError, MissingExtraError) as error:
        _say(error)
        return Exit.CONFIGURATION
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return Exit.INTERRUPTED


def silence_stdout() -> None:
    """Stop the interpreter from complaining at exit that nobody reads its output any more."""
    import os

    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # stdout is not a file, so nothing will be flushed to one


def _say(message: object) -> None:
    print(f"groq-queue: {message}", file=sys.stderr)

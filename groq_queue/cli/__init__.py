"""The command line: its page of help, its exit codes, its signals and its streams.

Results go to stdout or to ``-o``, everything else to stderr. The API key is read
from the environment only: an argument would show it to everybody who may list
processes. Each command has a file of its own, which registers its arguments
first; the modules it works with are imported when it is called.
"""

from __future__ import annotations

import errno
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING

from groq_queue.errors import ConfigurationError, JournalError, LimiterUnavailable, MissingExtraError

if TYPE_CHECKING:
    import argparse

    from groq_queue.cli.arguments import Parser

EXIT_CODES = """\
exit codes:
  0 all done   1 some failed   2 usage, or a file or a limiter that cannot be used
  3 configuration or key   4 stopped by a daily or spend limit
  130 interrupted (143: by SIGTERM, 129: the terminal hung up); finished answers are written
  after 3, 4, 129, 130 and 143 continue with the same command and --resume
"""

_DESCRIPTION = "Send thousands of LLM requests and stay exactly at your rate limits."

_EPILOG = f"""\
start here:
  groq-queue demo                        see it work, no key needed
  groq-queue run prompts.txt --model llama-3.1-8b-instant -o answers.jsonl

The API key is read from the environment variable GROQ_API_KEY.

{EXIT_CODES}"""

_ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
    _be_lenient()
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


def build_parser() -> Parser:
    """Return the parser of the whole command line; what it parses has the function to call as ``command``."""
    from groq_queue import __version__
    from groq_queue.cli import completion, demo, doctor, estimate, journal, report, run, simulate, worker
    from groq_queue.cli.arguments import Parser

    parser = Parser(prog="groq-queue", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"groq-queue {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for module in (demo, run, estimate, report, simulate, journal, worker, doctor, completion):
        module.add_to(commands)
    return parser


@contextmanager
def catching(on_signal: Callable[[int], None], wake: Callable[[], object]) -> Iterator[None]:
    """Call ``on_signal(number)`` for SIGINT, SIGTERM and SIGHUP while the block runs.

    An ignored signal stays ignored: ``nohup``, or a shell that runs us in the background, has set that.

    It is called in the main thread between any two steps, also while that thread
    holds a lock: it may set flags, raise, and put into a ``queue.SimpleQueue``,
    the only way to wake a waiter that is safe here. Off the main thread, where
    Python has no handlers, this does nothing.

    Args:
        on_signal: Called with the number of each signal.
        wake: Ends the wait of the main thread, by an event that means nothing. Called on another thread after each
            signal: one that comes just before the main thread sleeps is noticed by Python when the thread wakes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    with _waking(wake):
        try:
            for number in _ENDING_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, lambda caught, _frame: on_signal(caught))
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _waking(wake: Callable[[], object]) -> Iterator[None]:
    """Call *wake* on a thread of its own after each signal that Python's handlers are to be called for."""
    import socket

    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def follow() -> None:
        while reader.recv(1):
            wake()

    thread = threading.Thread(target=follow, name="groq-queue-signals", daemon=True)
    try:
        with suppress(RuntimeError):  # no thread is left: then a signal is noticed with the next event, at worst
            thread.start()
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
    finally:
        writer.close()  # which ends the thread
        if thread.ident is not None:
            thread.join()
        reader.close()


def silence_stdout() -> None:
    """Keep the interpreter from complaining at exit that its output has no reader any more."""
    import os

    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # stdout is not a file, so nothing will be flushed to one


def _be_lenient() -> None:
    """Let neither a closed stderr nor a terminal without some characters keep a command from its work."""
    import os

    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _say(message: object) -> None:
    print(f"groq-queue: {message}", file=sys.stderr)

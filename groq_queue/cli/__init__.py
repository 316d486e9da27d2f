"""The command line: what may be typed, and what the exit code means.

Results go to stdout or to ``-o``, everything else to stderr. The API key is read
from the environment only: an argument would show it to everybody who may list
processes. Each command's own module is imported when that command is called.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NoReturn

from groq_queue.errors import ConfigurationError, excerpt


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


DEFAULT_MODELS = ("llama-3.1-8b-instant", "llama-3.3-70b-versatile", "openai/gpt-oss-20b", "openai/gpt-oss-120b")

_EXIT_CODES = """\
exit codes:
  0 all done   1 some failed   2 usage, or a file that cannot be read or written
  3 configuration or key   4 stopped by a daily or spend limit
  130 interrupted (143: by SIGTERM); what is done is written, the rest unsent
"""

_DESCRIPTION = "Send thousands of LLM requests and stay exactly at your rate limits."

_EPILOG = f"""\
start here:
  groq-queue demo                        see it work, no key needed
  groq-queue run prompts.txt --model llama-3.1-8b-instant -o answers.jsonl

The API key is read from the environment variable GROQ_API_KEY.

{_EXIT_CODES}"""

_RUN_DESCRIPTION = """\
Send every line of a file as one request, and write one line for each answer.

A line is one of
  {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}}
  {"prompt": …} or {"messages": […]}, with custom_id, model, priority, client
      and any parameter of the API
  plain text, one prompt a line, if the first line does not begin with {
Answers have the form of Batch output files and come in the order they end;
custom_id tells which is which ("line-7" where line 7 has none).
"""

_RUN_EPILOG = f"""\
examples:
  groq-queue run batch.jsonl -o answers.jsonl --errors failed.jsonl
  groq-queue run batch.jsonl -o answers.jsonl --rpm 30 --tpm 6000
  groq-queue run - --model llama-3.1-8b-instant < prompts.txt |
      jq -r '.response.body.choices[0].message.content'

environment: GROQ_BASE_URL, and GROQ_API_KEY unless the server is this machine

{_EXIT_CODES}"""

_SIMULATE_DESCRIPTION = """\
Serve a Groq look-alike on this machine: real HTTP, real rate limiting,
made-up answers, no key, no cost.

The first line of stdout is its base URL. It runs until Ctrl-C, then prints what
it counted. Meanwhile GET /simulator/stats, at the same address without
/openai/v1, tells the counts as JSON.
"""

_ESTIMATE_DESCRIPTION = """\
Say what sending every line of a file would take, and send nothing: requests,
tokens, money, time, the limit that says so, and what never fits. Reads the same
lines as run; needs no key and no network.
"""

_ESTIMATE_EPILOG = """\
example:
  groq-queue estimate batch.jsonl --rpm 30 --tpm 6000 && groq-queue run batch.jsonl -o answers.jsonl

exit codes:
  0 every line can be sent   1 some never can   2 usage, or a file that cannot be read
"""

_REPORT_DESCRIPTION = """\
Show a report that run --report has written: as tables, as JSON, or as a figure
of answers, refusals and use of the limits over time.
"""

_DEMO_DESCRIPTION = """\
Send the same load twice to a simulated Groq, first with a plain thread pool and
retries, then through the queue, and compare. Takes about 10 seconds, needs no
key and no network.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: The arguments without the program's name; None takes the process's own.
    """
    try:
        args = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = args.command
        return command(args)
    except SystemExit as leaving:  # argparse: --help, --version, usage
        return leaving.code if isinstance(leaving.code, int) else Exit.USAGE
    except UsageError as error:
        _say(error)
        return Exit.USAGE
    except ConfigurationError as error:
        _say(error)
        return Exit.CONFIGURATION
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return Exit.SOME_FAILED


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


def _run(args: argparse.Namespace) -> int:
    from groq_queue.cli.run import run

    return run(args)


def _estimate(args: argparse.Namespace) -> int:
    from groq_queue.cli.estimate import estimate

    return estimate(args)


def _report(args: argparse.Namespace) -> int:
    from groq_queue.cli.report import report

    return report(args)


def _simulate(args: argparse.Namespace) -> int:
    from groq_queue.cli.simulate import simulate

    return simulate(args)


def _demo(args: argparse.Namespace) -> int:
    from groq_queue.cli.demo import demo

    return demo(args)


class _Parser(argparse.ArgumentParser):
    """Refuses abbreviations, and never repeats a key."""

    def error(self, message: str) -> NoReturn:
        if "api-key" in message or "api_key" in message or "gsk_" in message:
            message = "no argument takes the API key: set the environment variable GROQ_API_KEY instead"
        print(f"{self.prog}: {excerpt(message)}\nTry '{self.prog} --help'.", file=sys.stderr)
        raise SystemExit(int(Exit.USAGE))


def _parser() -> argparse.ArgumentParser:
    from groq_queue import __version__

    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="groq-queue", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"groq-queue {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)

    demo = commands.add_parser(
        "demo", help="see it work: 10 seconds, no key", description=_DEMO_DESCRIPTION, formatter_class=raw,
        allow_abbrev=False,
    )  # fmt: skip
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="another load (default: 0)")
    demo.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    demo.add_argument("--svg", metavar="FILE", help="draw answers and refusals of both over time into FILE")
    demo.add_argument("--capture", metavar="FILE", help="draw what the terminal shows into FILE, as SVG")
    demo.set_defaults(command=_demo)

    run = commands.add_parser(
        "run", help="send every line of a file", description=_RUN_DESCRIPTION, epilog=_RUN_EPILOG, formatter_class=raw,
        allow_abbrev=False,
    )  # fmt: skip
    _add_run_arguments(run)
    run.set_defaults(command=_run)

    estimate = commands.add_parser(
        "estimate", help="say what a file would take, and send nothing", description=_ESTIMATE_DESCRIPTION,
        epilog=_ESTIMATE_EPILOG, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    _add_estimate_arguments(estimate)
    estimate.set_defaults(command=_estimate)

    report = commands.add_parser(
        "report", help="show the report of a run", description=_REPORT_DESCRIPTION, formatter_class=raw,
        allow_abbrev=False,
    )  # fmt: skip
    report.add_argument("input", metavar="FILE", help="written by run --report, - for stdin")
    report.add_argument("--svg", metavar="OUT", help="draw the figure into OUT; never overwritten")
    report.add_argument("--json", action="store_true", help="print the report as one JSON object")
    report.set_defaults(command=_report)

    simulate = commands.add_parser(
        "simulate", help="serve a local Groq look-alike", description=_SIMULATE_DESCRIPTION, formatter_class=raw,
        allow_abbrev=False,
    )  # fmt: skip
    _add_simulate_arguments(simulate)
    simulate.set_defaults(command=_simulate)
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="file to read, - for stdin")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="file for the answers (default: stdout); never overwritten"
    )
    parser.add_argument("--errors", metavar="FILE", help="file for what failed (default: among the answers)")
    parser.add_argument("--model", metavar="M", help="model of the lines that name none")
    parser.add_argument("--priority", metavar="P", type=_priority, default="normal",
                        help="critical, high, normal, low, background or 0-10, where a line has none")  # fmt: skip
    parser.add_argument("--client", metavar="C", default="default", help="whose turn it uses, where a line has none")
    parser.add_argument("--base-url", metavar="U", help="where the API is (default: GROQ_BASE_URL, else Groq)")
    _add_limits(parser.add_argument_group("limits of your account (default: learnt from the server's answers)"))
    sending = parser.add_argument_group("sending")
    sending.add_argument("--workers", type=_count, default=64, metavar="N",
                         help="most requests on their way at once (default: 64)")  # fmt: skip
    sending.add_argument("--max-retries", type=_count_from_0, default=5, metavar="N",
                         help="further attempts after the first (default: 5)")  # fmt: skip
    sending.add_argument("--timeout", type=_seconds, default=60.0, metavar="S",
                         help="seconds of silence after which an attempt is given up (default: 60)")  # fmt: skip
    showing = parser.add_argument_group("showing")
    showing.add_argument("--json", action="store_true",
                         help="summary as JSON: on stdout with -o, else the last line of stderr")  # fmt: skip
    showing.add_argument("--report", metavar="FILE", help="file for a report of the run, for groq-queue report")
    showing.add_argument("--quiet", action="store_true", help="no progress and no summary, errors only")


def _add_estimate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="file to read, - for stdin")
    parser.add_argument("--model", metavar="M", help="model of the lines that name none")
    _add_limits(parser.add_argument_group("limits of your account (without them: the least time it can take)"))
    guesses = parser.add_argument_group("what cannot be known before")
    guesses.add_argument("--workers", type=_count, default=64, metavar="N",
                         help="most requests on their way at once (default: 64)")  # fmt: skip
    guesses.add_argument("--latency", type=_seconds, default=1.0, metavar="S",
                         help="seconds an answer takes (default: 1)")  # fmt: skip
    guesses.add_argument("--output-share", type=_share, metavar="F",
                         help="share of max_completion_tokens that an answer uses (default: all of it)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the estimate as one JSON object")


def _add_limits(limits: argparse._ArgumentGroup) -> None:
    limits.add_argument("--rpm", type=_count, metavar="N", help="requests per minute")
    limits.add_argument("--rpd", type=_count, metavar="N", help="requests per day")
    limits.add_argument("--tpm", type=_count, metavar="N", help="tokens per minute")
    limits.add_argument("--tpd", type=_count, metavar="N", help="tokens per day")
    limits.add_argument("--minute", type=_seconds, metavar="S", help="seconds of a minute, for simulators")


def _add_simulate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=_count_from_0, default=0, metavar="N", help="port (default: any free one)")
    parser.add_argument("--model", action="append", metavar="NAME", dest="models",
                        help=f"model to serve, may be repeated (default: {', '.join(DEFAULT_MODELS)})")  # fmt: skip
    limits = parser.add_argument_group("limits of each model (0: none)")
    limits.add_argument(
        "--rpm", type=_count_from_0, default=1_000, metavar="N", help="requests per minute (default: 1000)"
    )
    limits.add_argument("--rpd", type=_count_from_0, default=0, metavar="N", help="requests per day")
    limits.add_argument("--tpm", type=_count_from_0, default=250_000, metavar="N",
                        help="tokens per minute (default: 250000)")  # fmt: skip
    limits.add_argument("--tpd", type=_count_from_0, default=0, metavar="N", help="tokens per day")
    limits.add_argument("--itpm", type=_count_from_0, default=0, metavar="N", help="input tokens per minute")
    limits.add_argument("--otpm", type=_count_from_0, default=0, metavar="N", help="output tokens per minute")
    limits.add_argument("--minute", type=_seconds, default=60.0, metavar="S", help="seconds of a minute (default: 60)")
    answers = parser.add_argument_group("answers")
    answers.add_argument("--latency", type=_range, default=(0.2, 0.8), metavar="S",
                         help="seconds an answer takes, such as 0.5 or 0.2-2 (default: 0.2-0.8)")  # fmt: skip
    answers.add_argument("--arrival-delay", type=_range, default=0.0, metavar="S",
                         help="seconds before a request is metered, in the same form (default: 0)")  # fmt: skip
    answers.add_argument("--output", type=_range, default=0.5, metavar="F",
                         help="share of max_completion_tokens used, such as 0.5 or 0.2-0.8 (default: 0.5)")  # fmt: skip
    answers.add_argument("--settlement", choices=("corrected", "kept", "deferred"), default="corrected",
                         help="corrected: charged as requested, then as used; kept: as requested; "
                              "deferred: prompt first, answer later (default: corrected)")  # fmt: skip
    answers.add_argument(
        "--seed", type=int, default=0, metavar="N", help="makes latencies and answers repeat (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the counts at the end as one JSON object, on stdout")


# What an argument's text means. argparse shows the message of an ArgumentTypeError behind the argument's name.


def _count(text: str) -> int:
    return _whole(text, 1)


def _count_from_0(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        count = int(text.replace(",", ""))
    except ValueError:
        count = least - 1
    if count < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} up")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= 31_622_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return share


def _range(text: str) -> float | tuple[float, float]:
    """Read ``0.5`` or ``0.2-2``."""
    found = re.fullmatch(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a range such as 0.2-2")
    low = float(found[1])
    if found[2] is None:
        return low
    high = float(found[2])
    if high < low:
        raise argparse.ArgumentTypeError(f"{text!r} ends below its start: write the smaller number first")
    return low, high


def _priority(text: str) -> int:
    from groq_queue.core.rank import parse_priority

    try:
        return parse_priority(int(text) if text.isdecimal() else text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

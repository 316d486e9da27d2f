"""The command line: what may be typed, and what the exit code means.

Results go to stdout or to ``-o``, everything else to stderr. The API key is read
from the environment only: an argument would show it to everybody who may list
processes. Each command's own module is imported when that command is called.
"""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NoReturn

from groq_queue.errors import ConfigurationError, JournalError, excerpt


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

_ENDED = ("completed", "failed", "cancelled", "expired")

_EXIT_CODES = """\
exit codes:
  0 all done   1 some failed   2 usage, or a file that cannot be read or written
  3 configuration or key   4 stopped by a daily or spend limit
  130 interrupted (143: by SIGTERM); what is done is written, the rest unsent
  after 3, 4, 130 and 143 the same command with --resume goes on
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
custom_id tells which is which ("line-7" where line 7 has none). With --ordered
they come in the order of the lines: an answer is held in memory until all before
it are written, or until the run is stopped.

--resume goes on where an interrupted run was: a line that stands in OUT or in
the file of --errors is not sent again, and a piece of a line at the end of OUT
is cut off. It looks at these files alone, so what was on its way at a crash is
sent, and paid for, again. With --journal every request is stored before it is
sent and every answer before it is written: then only the few requests without
a stored answer are sent. A request that is kept there unsent goes out with the
next run on that journal. Failed lines are sent again after
groq-queue retry-failed; their answers are written into OUT.
"""

_RUN_EPILOG = f"""\
examples:
  groq-queue run batch.jsonl -o answers.jsonl --errors failed.jsonl
  groq-queue run batch.jsonl -o answers.jsonl --rpm 30 --tpm 6000
  groq-queue run batch.jsonl -o answers.jsonl --journal run.db --resume
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

_STATUS_DESCRIPTION = """\
Show what a journal holds: requests by status, how long the oldest waits, how
many were answered in the last minute, errors by kind, sizes, and who has it
open. It only looks, and disturbs nobody who is at work on it.
"""

_STATUS_EPILOG = """\
examples:
  groq-queue status --journal run.db
  watch -n 5 groq-queue status --journal run.db
  groq-queue status --journal run.db --json | jq .counts.pending
"""

_EXPORT_DESCRIPTION = """\
Copy a journal into one new file, as it is at this moment, while its owner goes
on. (cp would miss what still stands in its log.) With --batch write the
requests that wait as the lines of a Batch file instead, for the Batch API or
for groq-queue run.
"""

_EXPORT_EPILOG = """\
examples:
  groq-queue export --journal run.db backup.db
  groq-queue export --journal run.db rest.jsonl --batch
"""

_PRUNE_DESCRIPTION = """\
Delete requests that have ended, with their answers, and make the file small
again. Their custom_ids are forgotten: submitted again, they are sent again.
What waits, or is on its way, is always kept.
"""

_PRUNE_EPILOG = """\
examples:
  groq-queue prune --journal run.db                      keeps what failed
  groq-queue prune --journal run.db --keep completed     deletes what failed
"""

_RETRY_FAILED_DESCRIPTION = """\
Let failed requests wait again; the next run with this journal sends them. So do
those that were on their way when the last owner ended.
"""

_RETRY_FAILED_EPILOG = """\
examples:
  groq-queue retry-failed --journal run.db
  groq-queue retry-failed --journal run.db --kind poison
  groq-queue run batch.jsonl -o answers.jsonl --journal run.db --resume
"""

_DOCTOR_DESCRIPTION = """\
Check what a run depends on: key, base URL, proxy, network, clock, open files,
and a journal if you name one. Sends one GET for the list of models, which costs
nothing. The key is never printed.
"""

_DOCTOR_EPILOG = """\
exit codes: 0 nothing failed   1 network, server or journal   3 key or settings
"""

_COMPLETION_DESCRIPTION = """\
Print a completion script. To use it in every new shell:
  bash   groq-queue completion bash > ~/.local/share/bash-completion/completions/groq-queue
  zsh    groq-queue completion zsh > ~/.zsh/_groq-queue     (a directory in $fpath)
  fish   groq-queue completion fish > ~/.config/fish/completions/groq-queue.fish
"""

_WORKER_DESCRIPTION = """\
Send what other processes submit with GroqQueue(engine="celery"), until Ctrl-C or
SIGTERM: then it gives back what waits, finishes what is on its way, and ends.

Start as many as you like, on any host. They share the limits of the account if
all have the same --limiter; without it each believes that it is alone.
"""

_WORKER_EPILOG = """\
examples:
  groq-queue worker --broker redis://127.0.0.1:6379/0 --rpm 30 --tpm 6000
  groq-queue worker --broker redis://cache/0 --limiter redis://cache/1 --lanes urgent:4,bulk:16

environment: GROQ_API_KEY unless the server is this machine, GROQ_BASE_URL, GROQ_QUEUE_BROKER

exit codes: 0 it was stopped   1 it broke: start it again
  2 usage, or the broker cannot be reached   3 configuration, or the key was rejected
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
    except JournalError as error:
        _say(error)
        return Exit.USAGE
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


def _status(args: argparse.Namespace) -> int:
    from groq_queue.cli.journal import status

    return status(args)


def _export(args: argparse.Namespace) -> int:
    from groq_queue.cli.journal import export

    return export(args)


def _prune(args: argparse.Namespace) -> int:
    from groq_queue.cli.journal import prune

    return prune(args)


def _retry_failed(args: argparse.Namespace) -> int:
    from groq_queue.cli.journal import retry_failed

    return retry_failed(args)


def _doctor(args: argparse.Namespace) -> int:
    from groq_queue.cli.doctor import doctor

    return doctor(args)


def _worker(args: argparse.Namespace) -> int:
    from groq_queue.cli.worker import worker

    return worker(args)


def _completion(args: argparse.Namespace) -> int:
    from groq_queue.cli.completion import completion

    return completion(args, _parser())


class _Parser(argparse.ArgumentParser):
    """Refuses abbreviations, and never repeats a key."""

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
    _add_journal_commands(commands)

    worker = commands.add_parser(
        "worker", help="send what other processes submit", description=_WORKER_DESCRIPTION, epilog=_WORKER_EPILOG,
        formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    _add_worker_arguments(worker)
    worker.set_defaults(command=_worker)

    doctor = commands.add_parser(
        "doctor", help="check key, address, network, clock and journal", description=_DOCTOR_DESCRIPTION,
        epilog=_DOCTOR_EPILOG, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    _add_doctor_arguments(doctor)
    doctor.set_defaults(command=_doctor)

    completion = commands.add_parser(
        "completion", help="print what lets a shell complete these commands", description=_COMPLETION_DESCRIPTION,
        formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")
    completion.set_defaults(command=_completion)
    return parser


def _add_journal_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    def add(name: str, brief: str, description: str, epilog: str, command: Callable[..., int]) -> _Parser:
        parser = commands.add_parser(
            name, help=brief, description=description, epilog=epilog, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        parser.add_argument("--journal", metavar="FILE", required=True, help="the journal")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.set_defaults(command=command)
        return parser

    add("status", "what a journal holds", _STATUS_DESCRIPTION, _STATUS_EPILOG, _status)
    export = add("export", "copy a journal while it is used", _EXPORT_DESCRIPTION, _EXPORT_EPILOG, _export)
    export.add_argument("output", metavar="OUT", help="file to make; never overwritten")
    export.add_argument("--batch", action="store_true", help="only what waits, as lines of a Batch file")
    prune = add("prune", "delete what has ended from a journal", _PRUNE_DESCRIPTION, _PRUNE_EPILOG, _prune)
    prune.add_argument("--keep", nargs="+", metavar="STATUS", choices=_ENDED,
                       help=f"what to keep, of {', '.join(_ENDED)} (default: failed)")  # fmt: skip
    retry = add("retry-failed", "let failed requests of a journal wait again", _RETRY_FAILED_DESCRIPTION,
                _RETRY_FAILED_EPILOG, _retry_failed)  # fmt: skip
    retry.add_argument("--kind", nargs="+", metavar="KIND", help="kinds of error, as status names them (default: all)")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="file to read, - for stdin")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="file for the answers (default: stdout); never overwritten, see --resume"
    )
    parser.add_argument("--errors", metavar="FILE", help="file for what failed (default: among the answers)")
    parser.add_argument("--model", metavar="M", help="model of the lines that name none")
    parser.add_argument("--priority", metavar="P", type=_priority, default="normal",
                        help="critical, high, normal, low, background or 0-10, where a line has none")  # fmt: skip
    parser.add_argument(
        "--client", metavar="C", type=_client, default="default", help="whose turn it uses, where a line has none"
    )
    parser.add_argument("--base-url", metavar="U", help="where the API is (default: GROQ_BASE_URL, else Groq)")
    _add_limits(parser.add_argument_group("limits of your account (default: learnt from the server's answers)"))
    sending = parser.add_argument_group("sending")
    sending.add_argument("--workers", type=_count, default=64, metavar="N",
                         help="most requests on their way at once (default: 64)")  # fmt: skip
    sending.add_argument("--max-retries", type=_count_from_0, default=5, metavar="N",
                         help="further attempts after the first (default: 5)")  # fmt: skip
    sending.add_argument("--timeout", type=_seconds, default=60.0, metavar="S",
                         help="seconds of silence after which an attempt is given up (default: 60)")  # fmt: skip
    sending.add_argument("--ordered", action="store_true",
                         help="write answers in the order of the lines")  # fmt: skip
    keeping = parser.add_argument_group("going on after an interruption")
    keeping.add_argument(
        "--resume", action="store_true", help="skip the lines that stand in OUT or in the file of --errors, add to both"
    )
    keeping.add_argument(
        "--journal", metavar="FILE", help="keep requests and answers in this SQLite file; none is answered twice"
    )
    keeping.add_argument("--durability", choices=("full", "normal"), default="full",
                         help="full: what is kept survives a power cut; normal: a crash of the program, and is "
                              "faster (default: full)")  # fmt: skip
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


def _add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--broker", metavar="URL", help="redis://… or amqp://… that submitters use too (default: GROQ_QUEUE_BROKER)"
    )
    parser.add_argument("--state", metavar="URL", help="the Redis in which requests stand (default: the broker)")
    parser.add_argument("--base-url", metavar="U", help="where the API is (default: GROQ_BASE_URL, else Groq)")
    parser.add_argument("--lanes", metavar="L", help="threads for each lane (default: urgent:4,normal:8,bulk:8)")
    parser.add_argument("--lease", type=_seconds, default=15.0, metavar="S",
                        help="seconds of silence after which a worker counts as dead (default: 15)")  # fmt: skip
    _add_limits(parser.add_argument_group("limits of your account (default: learnt from the server's answers)"))
    budget = parser.add_argument_group("budget")
    budget.add_argument("--limiter", metavar="URL", help="where all workers count together, sqlite:///… or redis://…")
    budget.add_argument("--on-outage", choices=("wait", "raise", "local_share"),
                        help="while the limiter is away (default: wait)")  # fmt: skip
    budget.add_argument("--organization", metavar="NAME", help="who pays, where workers have several keys")
    budget.add_argument("--margin", type=float, default=0.0, metavar="F",
                        help="share of every limit to leave unused (default: 0)")  # fmt: skip
    budget.add_argument("--on-daily-limit", choices=("raise", "wait"), default="raise",
                        help="raise: requests fail when a day's limit is spent (default: raise)")  # fmt: skip
    sending = parser.add_argument_group("sending")
    sending.add_argument("--max-retries", type=_count_from_0, default=5, metavar="N",
                         help="further attempts after the first (default: 5)")  # fmt: skip
    sending.add_argument("--timeout", type=_seconds, default=(5, 60), metavar="S",
                         help="seconds of silence after which an attempt is given up (default: 60)")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="tell every step on stderr")


def _add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", metavar="U", help="where the API is (default: GROQ_BASE_URL, else Groq)")
    parser.add_argument("--model", metavar="M", help="also check that the API serves this model")
    parser.add_argument("--journal", metavar="FILE", help="also check this journal")
    parser.add_argument("--limiter", metavar="URL", help="also check this limiter")
    parser.add_argument("--workers", type=_count, default=64, metavar="N",
                        help="requests on their way at once that you plan (default: 64)")  # fmt: skip
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="S",
                        help="seconds to wait for the network (default: 10)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the checks as one JSON object")


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


def _client(text: str) -> str:
    from groq_queue.core.checks import check_text

    try:
        check_text("client", text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _priority(text: str) -> int:
    from groq_queue.core.rank import parse_priority

    try:
        return parse_priority(int(text) if text.isdecimal() else text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None

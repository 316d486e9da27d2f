"""``groq-queue run``: its arguments, and the files and the queue that it opens."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from groq_queue.cli import EXIT_CODES, UsageError
from groq_queue.cli.arguments import (
    add_base_url,
    add_command,
    add_limiter,
    add_limits,
    add_sending,
    api_key_for,
    count,
    limiter_of,
    limits_of,
    sending_of,
)
from groq_queue.errors import ConfigurationError

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands

_DESCRIPTION = """\
Send every line of a file as one request, and write one line for each answer.

A line is one of
  {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}}
      with options beside the body
  {"prompt": …} or {"messages": […]}, with options and parameters of the API
  plain text, one prompt a line, if the first line does not begin with {

Options are model, endpoint, priority, client, custom_id, tokens, audio_seconds,
shrink, max_wait, deadline, not_before and dedupe.
A Batch line has its model in the body and its endpoint in the url. A name that
is nearly an option's or a parameter's is refused, and so is a parameter beside
a body.

Answers have the form of Batch output files and are written as they arrive;
custom_id tells which is which ("line-7" if line 7 has none). With --ordered they
are written in input order: an answer is held in memory until all before it are
written, or until the run is stopped.

--resume continues an interrupted run: a line whose answer is in OUT or in the
file of --errors is not sent again, and an incomplete line at the end of OUT is
cut off. It reads these files only, so requests in flight at a crash are sent,
and paid for, again. With --journal every request is stored before it is sent
and every answer before it is written: then only the few requests without a
stored answer are sent again. Requests that the journal holds unsent are sent by
the next run with that journal. Failed lines are sent again after
groq-queue retry-failed; their answers are written into OUT.
"""

_EPILOG = f"""\
examples:
  groq-queue run batch.jsonl -o answers.jsonl --errors failed.jsonl
  groq-queue run batch.jsonl -o answers.jsonl --rpm 30 --tpm 6000
  groq-queue run batch.jsonl -o answers.jsonl --journal run.db --resume
  groq-queue run - --model llama-3.1-8b-instant < prompts.txt |
      jq -r '.response.body.choices[0].message.content'

environment: GROQ_BASE_URL, and GROQ_API_KEY unless the server is this machine

{EXIT_CODES}"""


def add_to(commands: Commands) -> None:
    """Register the ``run`` subcommand."""
    parser = add_command(commands, "run", "send every line of a file", run, _DESCRIPTION, _EPILOG)
    parser.add_argument("input", metavar="IN", help="file to read, - for stdin")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="file for the answers (default: stdout); never overwritten, see --resume"
    )
    parser.add_argument("--errors", metavar="FILE", help="file for what failed (default: among the answers)")
    parser.add_argument("--model", metavar="M", help="model of the lines that name none")
    parser.add_argument("--priority", metavar="P", type=_priority, default="normal",
                        help="priority of the lines that name none: critical, high, normal, low, background or 0-10 "
                             "(default: normal)")  # fmt: skip
    parser.add_argument(
        "--client",
        metavar="C",
        type=_client,
        default="default",
        help="client of the lines that name none; clients take turns (default: default)",
    )
    add_base_url(parser)
    limits = parser.add_argument_group("limits of your account (default: read from the server's responses)")
    add_limits(limits)
    add_limiter(limits)
    sending = parser.add_argument_group("sending")
    sending.add_argument("--workers", type=count, default=64, metavar="N",
                         help="most requests in flight at once (default: 64)")  # fmt: skip
    add_sending(sending)
    sending.add_argument("--ordered", action="store_true",
                         help="write answers in input order")  # fmt: skip
    resuming = parser.add_argument_group("continuing after an interruption")
    resuming.add_argument(
        "--resume",
        action="store_true",
        help="skip the lines that OUT or the file of --errors holds, and append to both",
    )
    resuming.add_argument(
        "--journal",
        metavar="FILE",
        help="keep requests and answers in this SQLite file; nothing answered is sent again",
    )
    resuming.add_argument("--durability", choices=("full", "normal"), default="full",
                         help="full survives a power cut; normal survives a crash of the program and is faster "
                              "(default: full)")  # fmt: skip
    showing = parser.add_argument_group("output")
    showing.add_argument("--json", action="store_true",
                         help="print the summary as JSON: on stdout with -o, else last on stderr")  # fmt: skip
    showing.add_argument("--report", metavar="FILE", help="write a report of the run, for groq-queue report")
    showing.add_argument("--quiet", action="store_true", help="no progress and no summary, errors only")


def _client(text: str) -> str:
    from groq_queue.core.validation import check_text

    try:
        check_text("client", text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _priority(text: str) -> int:
    from groq_queue.core.priority import parse_priority

    try:
        return parse_priority(int(text) if text.isdecimal() else text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Send the lines of *args.input* and return the exit code."""
    from groq_queue.api.queue import GroqQueue
    from groq_queue.cli.batch import BatchRun, show_warnings
    from groq_queue.cli.batch_files import Written, open_input, open_output, write_text
    from groq_queue.cli.batch_lines import NotLines, read_lines
    from groq_queue.reporting.progress import Progress

    limits, api_key = limits_of(args), api_key_for(args.base_url)
    written = Written() if args.resume else None
    _check_together(args)
    with contextlib.ExitStack() as files:
        source, name, total = open_input(args.input, files)
        # Before the queue: opening a journal sends what waits in it.
        output = open_output(args.output, files, written, may_resume=True)
        is_apart = args.errors is not None and args.errors != args.output
        errors = open_output(args.errors, files, written, may_resume=True) if is_apart else output
        client = GroqQueue(
            api_key=api_key,
            base_url=args.base_url,
            model=args.model,
            limits=limits,
            max_workers=args.workers,
            max_pending=None,  # the job's window bounds it
            **limiter_of(args),
            **sending_of(args),
            **_journal_of(args),
        )
        files.callback(client.shutdown, cancel_futures=True)
        report_file = None if args.report is None else open_output(args.report, files)
        is_typed = args.input == "-" and source.isatty()
        progress = Progress(sys.stderr, total, is_shown=not args.quiet and not is_typed)
        if is_typed and not args.quiet:
            progress.say("type one prompt a line; Ctrl-D ends")
        job = BatchRun(client, read_lines(source), output, errors, progress, args, total, written or Written())
        files.enter_context(show_warnings(job))
        try:
            job.go()
        except NotLines as error:
            raise UsageError(f"{name}: {error}") from None
        code = job.report(args)
        if report_file is not None:
            write_text(report_file, client.report().to_json() + "\n")
        return code


def _check_together(args: argparse.Namespace) -> None:
    """Refuse combinations that would spoil a file, or do less than was asked for."""
    if args.resume and args.output in (None, "-"):
        raise UsageError("--resume goes on in a file of answers: add -o OUT")
    if args.limiter is None and args.on_outage != "wait":
        raise UsageError("--on-outage says what happens while the limiter is away: add --limiter URL")
    if args.journal is None:
        if args.durability != "full":
            raise UsageError("--durability says how --journal is written: add --journal FILE")
        return
    for option, path in (("IN", args.input), ("-o", args.output), ("--errors", args.errors)):
        if path not in (None, "-") and os.path.realpath(path) == os.path.realpath(args.journal):
            raise UsageError(f"{path} is both {option} and --journal: name another file")


def _journal_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of ``GroqQueue`` that --journal and --durability set."""
    return {} if args.journal is None else {"journal": args.journal, "durability": args.durability}

"""``groq-queue status``, ``export``, ``prune`` and ``retry-failed``: a journal, looked after from outside.

The first two read through a connection that cannot write, whichever process owns the file.
The other two change it, so they own it for the moment; while another process
does, they are told its pid and change nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from groq_queue.cli import Exit
from groq_queue.cli.arguments import add_command
from groq_queue.display import duration_text, file_size, plural
from groq_queue.errors import excerpt

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands, Parser
    from groq_queue.journal import Journal, JournalSummary

_PATIENCE_S = 5.0  # for a lock of another program: somebody sits and waits


_ENDED = ("completed", "failed", "cancelled", "expired")

_STATUS_DESCRIPTION = """\
Show what a journal holds: requests by status, how long the oldest waits, how
many were answered in the last minute, errors by kind, sizes, and which process
has it open. It only reads, and does not disturb a run that uses the journal.
"""

_STATUS_EPILOG = """\
examples:
  groq-queue status --journal run.db
  watch -n 5 groq-queue status --journal run.db
  groq-queue status --journal run.db --json | jq .counts.pending
"""

_EXPORT_DESCRIPTION = """\
Copy a journal into one new file, as it is at this moment, while a run uses it.
(cp would miss what is still in its log.) With --batch write the pending
requests as lines of a Batch file instead, for the Batch API or for
groq-queue run.
"""

_EXPORT_EPILOG = """\
examples:
  groq-queue export --journal run.db backup.db
  groq-queue export --journal run.db rest.jsonl --batch
"""

_PRUNE_DESCRIPTION = """\
Delete requests that have ended, with their answers, and shrink the file. Their
custom_ids are forgotten: submitted again, they are sent again. Pending requests
and those in flight are always kept.
"""

_PRUNE_EPILOG = """\
examples:
  groq-queue prune --journal run.db                      keeps what failed
  groq-queue prune --journal run.db --keep completed     deletes what failed
"""

_RETRY_FAILED_DESCRIPTION = """\
Make failed requests pending again; the next run with this journal sends them.
Requests in flight when the last owner ended become pending too.
"""

_RETRY_FAILED_EPILOG = """\
examples:
  groq-queue retry-failed --journal run.db
  groq-queue retry-failed --journal run.db --kind poison
  groq-queue run batch.jsonl -o answers.jsonl --journal run.db --resume
"""


def add_to(commands: Commands) -> None:
    """Register the ``status``, ``export``, ``prune`` and ``retry-failed`` subcommands."""

    def add(name: str, brief: str, command: Callable[[argparse.Namespace], int], *page: str) -> Parser:
        parser = add_command(commands, name, brief, command, *page)
        parser.add_argument("--journal", metavar="FILE", required=True, help="the journal")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        return parser

    add("status", "what a journal holds", status, _STATUS_DESCRIPTION, _STATUS_EPILOG)
    copying = add("export", "copy a journal while it is used", export, _EXPORT_DESCRIPTION, _EXPORT_EPILOG)
    copying.add_argument("output", metavar="OUT", help="file to make; never overwritten")
    copying.add_argument("--batch", action="store_true", help="only pending requests, as lines of a Batch file")
    pruning = add("prune", "delete what has ended from a journal", prune, _PRUNE_DESCRIPTION, _PRUNE_EPILOG)
    pruning.add_argument("--keep", nargs="+", metavar="STATUS", choices=_ENDED,
                         help=f"statuses to keep, of {', '.join(_ENDED)} (default: failed)")  # fmt: skip
    retrying = add("retry-failed", "queue failed requests of a journal again", retry_failed,
                   _RETRY_FAILED_DESCRIPTION, _RETRY_FAILED_EPILOG)  # fmt: skip
    retrying.add_argument("--kind", nargs="+", metavar="KIND",
                          help="kinds of error, as status names them (default: all)")  # fmt: skip


def status(args: argparse.Namespace) -> int:
    """Show what the journal holds."""
    from groq_queue.clock import NS_PER_S, SystemClock
    from groq_queue.journal import Reader

    with Reader.open(args.journal, busy_timeout_s=_PATIENCE_S) as reader:
        summary = reader.summary()
    oldest_s = None
    if summary.oldest_pending_ns is not None:
        oldest_s = max(0.0, SystemClock().wall_s() - summary.oldest_pending_ns / NS_PER_S)
    if args.json:
        _print_json(_as_json(summary, oldest_s))
    else:
        print("\n".join(_as_table(summary, oldest_s)))
    return Exit.DONE


def export(args: argparse.Namespace) -> int:
    """Copy the journal, or its pending requests as a Batch file."""
    from groq_queue.journal import Reader

    with Reader.open(args.journal, busy_timeout_s=_PATIENCE_S) as reader:
        if not args.batch:
            reader.export(args.output)
            facts: dict[str, Any] = {"output": args.output, "bytes": os.path.getsize(args.output)}
            _tell(args, facts, f"{args.output}: a copy of {args.journal}, {file_size(facts['bytes'])}")
            return Exit.DONE
        count = reader.export_batch(args.output)
        summary = reader.summary()
    in_flight = summary.counts["processing"]
    facts = {"output": args.output, "requests": count, "in_flight": in_flight}
    _tell(args, facts, f"{args.output}: {plural(count, 'pending request')} of {args.journal}")
    if in_flight:
        if summary.owner_pid is None:
            why = (
                "in flight when the journal's last owner ended, and perhaps answered; "
                f"to send again what was not: groq-queue retry-failed --journal {args.journal}"
            )
        else:
            why = f"in flight, sent by process {summary.owner_pid}"
        print(f"groq-queue: {plural(in_flight, 'request')} not exported: {why}", file=sys.stderr)
    return Exit.DONE


def prune(args: argparse.Namespace) -> int:
    """Delete what has ended, and make the file small again."""
    keep = {"pending", "processing", "failed"} if args.keep is None else {"pending", "processing", *args.keep}
    with _owned(args.journal) as journal:
        before = os.path.getsize(journal.path)
        deleted = journal.prune(keep=keep)
        after = os.path.getsize(journal.path)
    facts = {"deleted": deleted, "kept": sorted(keep), "bytes_before": before, "bytes": after}
    _tell(args, facts, f"{plural(deleted, 'request')} deleted; {file_size(before)} before, {file_size(after)} now")
    return Exit.DONE


def retry_failed(args: argparse.Namespace) -> int:
    """Let failed requests wait again, and those that the last owner left on their way."""
    with _owned(args.journal) as journal:
        recovery = journal.recover()
        retried = journal.retry_failed(kinds=args.kind)
        left = journal.errors_by_kind()
        waiting = journal.counts()["pending"]
    facts = {"retried": retried, "recovered": recovery.resent, "failed": sum(left.values()), "pending": waiting}
    text = f"pending again: {plural(retried, 'failed request')}"
    if recovery.resent:
        text += f", and {plural(recovery.resent, 'request')} in flight when the last owner ended"
    text += f"\nin all {plural(waiting, 'request')} pending: the next run with --journal sends them"
    if left:
        text += f"\nstill failed: {_kinds(left)}"
    _tell(args, facts, text)
    return Exit.DONE


def _owned(path: str) -> Journal:
    """Own a journal that is there; a mistyped path, or an empty file, must not become an empty journal."""
    from groq_queue.journal import Journal

    return Journal.open(path, busy_timeout_s=_PATIENCE_S, may_make=False)


# How it is told.


def _as_json(summary: JournalSummary, oldest_s: float | None) -> dict[str, Any]:
    return {
        "journal": summary.path,
        "schema": summary.schema,
        "counts": summary.counts,
        "oldest_pending_s": None if oldest_s is None else round(oldest_s, 3),
        "completed_last_minute": summary.completed_last_minute,
        "errors_by_kind": summary.errors_by_kind,
        "file_bytes": summary.file_bytes,
        "wal_bytes": summary.wal_bytes,
        "owner_pid": summary.owner_pid,
    }


def _as_table(summary: JournalSummary, oldest_s: float | None) -> list[str]:
    counts = summary.counts
    notes = dict.fromkeys(counts, "")
    if oldest_s is not None:
        notes["pending"] = f"the oldest for {duration_text(round(oldest_s, 1))}"
    if counts["processing"] and summary.owner_pid is None:
        notes["processing"] = "in flight when the last owner ended; the next run sends them again or fails them"
    if counts["completed"]:
        notes["completed"] = f"{summary.completed_last_minute:,} in the last minute"
    if summary.errors_by_kind:
        notes["failed"] = _kinds(summary.errors_by_kind)
    owner = "none" if summary.owner_pid is None else f"process {summary.owner_pid}"
    width = max(len(f"{count:,}") for count in counts.values())
    return [
        f"journal     {summary.path}",
        f"owner       {owner}",
        f"size        {file_size(summary.file_bytes)}, and {file_size(summary.wal_bytes)} in its log",
        *(f"{name:<11} {count:>{width},}  {notes[name]}".rstrip() for name, count in counts.items()),
    ]


def _kinds(errors: dict[str, int]) -> str:
    return ", ".join(f"{excerpt(str(kind))} {count:,}" for kind, count in errors.items())


def _tell(args: argparse.Namespace, facts: dict[str, Any], text: str) -> None:
    if args.json:
        _print_json(facts)
    else:
        print(text)


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(facts))

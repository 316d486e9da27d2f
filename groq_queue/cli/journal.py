"""``groq-queue status``, ``export``, ``prune`` and ``retry-failed``: a journal, looked after from outside.

The first two look through a connection that cannot write, whoever owns the file.
The other two change it, so they own it for the moment; while another process
does, they are told its pid and change nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from groq_queue.cli import Exit, UsageError
from groq_queue.clock import NS_PER_S, SystemClock
from groq_queue.errors import excerpt
from groq_queue.journal import Journal, JournalSummary, Reader
from groq_queue.reporting.line import duration, plural

_PATIENCE_S = 5.0  # for a lock of another program: somebody sits and waits


def status(args: argparse.Namespace) -> int:
    """Show what the journal holds."""
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
    with Reader.open(args.journal, busy_timeout_s=_PATIENCE_S) as reader:
        if not args.batch:
            reader.export(args.output)
            told: dict[str, Any] = {"output": args.output, "bytes": os.path.getsize(args.output)}
            _tell(args, told, f"{args.output}: a copy of {args.journal}, {_size(told['bytes'])}")
            return Exit.DONE
        count = reader.export_batch(args.output)
        summary = reader.summary()
    in_flight = summary.counts["processing"]
    told = {"output": args.output, "requests": count, "in_flight": in_flight}
    _tell(args, told, f"{args.output}: {plural(count, 'request')} that wait in {args.journal}")
    if in_flight:
        if summary.owner_pid is None:
            why = (
                "were on their way when its last owner ended, and may have been answered: "
                f"not exported; groq-queue retry-failed --journal {args.journal} lets them wait again"
            )
        else:
            why = f"are on their way just now, sent by process {summary.owner_pid}: not exported"
        print(f"groq-queue: {plural(in_flight, 'more request')} {why}", file=sys.stderr)
    return Exit.DONE


def prune(args: argparse.Namespace) -> int:
    """Delete what has ended, and make the file small again."""
    keep = {"pending", "processing", "failed"} if args.keep is None else {"pending", "processing", *args.keep}
    with _owned(args.journal) as journal:
        before = os.path.getsize(journal.path)
        deleted = journal.prune(keep=keep)
        after = os.path.getsize(journal.path)
    told = {"deleted": deleted, "kept": sorted(keep), "bytes_before": before, "bytes": after}
    _tell(args, told, f"{plural(deleted, 'request')} deleted; {_size(before)} before, {_size(after)} now")
    return Exit.DONE


def retry_failed(args: argparse.Namespace) -> int:
    """Let failed requests wait again, and those that the last owner left on their way."""
    with _owned(args.journal) as journal:
        recovery = journal.recover()
        retried = journal.retry_failed(kinds=args.kind)
        left = journal.errors_by_kind()
        waiting = journal.counts()["pending"]
    told = {"retried": retried, "recovered": recovery.resent, "failed": sum(left.values()), "pending": waiting}
    text = f"{plural(retried, 'failed request')} put back"
    if recovery.resent:
        text += f", and {recovery.resent:,} that were on their way when the last owner ended"
    text += f"; {waiting:,} wait now, the next run with --journal sends them"
    if left:
        text += f"\nstill failed: {_kinds(left)}"
    _tell(args, told, text)
    return Exit.DONE


def _owned(path: str) -> Journal:
    """Own a journal that is there; a mistyped path must not become an empty journal."""
    if not os.path.exists(path):
        raise UsageError(f"journal {path}: there is no such file; check the path")
    return Journal.open(path, busy_timeout_s=_PATIENCE_S)


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
        notes["pending"] = f"the oldest for {duration(oldest_s)}"
    if counts["processing"] and summary.owner_pid is None:
        notes["processing"] = "on their way when the last owner ended; the next one decides"
    if counts["completed"]:
        notes["completed"] = f"{summary.completed_last_minute:,} in the last minute"
    if summary.errors_by_kind:
        notes["failed"] = _kinds(summary.errors_by_kind)
    owner = "none" if summary.owner_pid is None else f"process {summary.owner_pid}"
    width = max(len(f"{count:,}") for count in counts.values())
    return [
        f"journal     {summary.path}",
        f"owner       {owner}",
        f"size        {_size(summary.file_bytes)}, and {_size(summary.wal_bytes)} in its log",
        *(f"{name:<11} {count:>{width},}  {notes[name]}".rstrip() for name, count in counts.items()),
    ]


def _kinds(errors: dict[str, int]) -> str:
    return ", ".join(f"{excerpt(str(kind))} {count:,}" for kind, count in errors.items())


def _size(count: int) -> str:
    """Return *count* bytes as people read them.

    >>> _size(0), _size(4096), _size(12_300_000)
    ('0.0 MB', '0.0 MB', '12.3 MB')
    """
    return f"{count / 1e6:,.1f} MB"


def _tell(args: argparse.Namespace, told: dict[str, Any], text: str) -> None:
    if args.json:
        _print_json(told)
    else:
        print(text)


def _print_json(told: dict[str, Any]) -> None:
    print(json.dumps(told))

"""What was accepted, tried and answered, kept in one SQLite file.

This room remembers and decides nothing: which request goes next is the
engine's, whether one is sent again after a crash is a policy that the queue
passes to ``recover``. It starts no thread and keeps no row in memory.

Accepted means stored: ``add`` returns when the request is on disk. Tried means
counted: ``claim`` is on disk before the first byte leaves. Answered means
answered: result and status change in one transaction, and no final status is
ever overwritten. One process owns a file at a time; others may look.

Units: wall-clock nanoseconds of the Unix epoch, tokens, seconds of audio.

Source: https://www.sqlite.org/wal.html and https://www.sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

from groq_queue.journal.idempotency import is_short
from groq_queue.journal.journal import Journal
from groq_queue.journal.reader import Reader
from groq_queue.journal.records import (
    Accepted,
    Cursor,
    Entry,
    JournalSummary,
    Recovery,
    Row,
    SavedLevel,
    Stack,
    Stored,
)

__all__ = [
    "Accepted",
    "Cursor",
    "Entry",
    "Journal",
    "JournalSummary",
    "Reader",
    "Recovery",
    "Row",
    "SavedLevel",
    "Stack",
    "Stored",
    "is_short",
]

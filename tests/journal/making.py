"""Entries for tests, and the other process: ``python making.py COMMAND PATH ...``."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from groq_queue.core.token_estimate import PromptSize
from groq_queue.journal import Entry, Journal


def entry(name: str | int, *, text: str | None = None, **fields: Any) -> Entry:
    """Make an entry; the same name makes the same payload."""
    payload = json.dumps({"messages": [{"role": "user", "content": f"question {name}" if text is None else text}]})
    made = Entry(
        request_id=f"id-{name}",
        custom_id=f"c-{name}",
        lane="m",
        model="m",
        endpoint="chat/completions",
        priority=5,
        client="default",
        payload=payload.encode(),
        size=PromptSize(10, 20),
        created_ns=1_000,
    )
    return made._replace(**fields)


def answer(name: str) -> bytes:
    """Return the only right result of a request."""
    return f'{{"answer to":"{name}"}}'.encode()


def say(line: str) -> None:
    """Tell the parent, in one write, so that a kill cannot cut a line that it sees."""
    os.write(1, f"{line}\n".encode())


def life(path: str, seed: str, rounds: str = "1000000") -> None:
    """Accept, claim, release and finish; a line is said only after the call has returned."""
    with Journal.open(path, busy_timeout_s=5) as journal:
        say("open")
        journal.recover(max_sends=1_000_000)
        say("recovered")
        for number in range(int(rounds)):
            name = f"{seed}-{number}"
            text = "x" * (3_000 if number % 4 == 2 else 30)
            own = (journal.add(entry(name, text=text)).row_id, f"c-{name}")
            say(f"added c-{name}")
            # every third waits for those who come later, who take the oldest
            oldest = [(row.row_id, row.custom_id) for row in journal.pending(limit=1)]
            for row_id, custom_id in [[own], oldest, []][number % 3]:
                journal.claim(row_id)
                say(f"sent {custom_id}")
                if number % 5 == 0:
                    journal.release(row_id)
                    say(f"released {custom_id}")
                else:
                    journal.finish(row_id, "completed", result=answer(custom_id), usage=(1, 2, 0))
                    say(f"done {custom_id}")


def some(path: str) -> None:
    """Live a short life on a disk that refuses once; say whether the error was ours."""
    from groq_queue.errors import JournalError

    for attempt in range(2):
        try:
            life(path, str(attempt), "8")
        except JournalError as error:
            say(f"typed {error}")
        except BaseException as error:
            say(f"raw {type(error)} {error}")


def add_and_wait(path: str, name: str) -> None:
    """Accept one request, say so, and wait for the end."""
    journal = Journal.open(path, busy_timeout_s=5)
    journal.add(entry(name))
    say(f"added c-{name}")
    time.sleep(60)


def hold(path: str, seconds: str) -> None:
    """Be another program that keeps a write lock on the file for a while."""
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    time.sleep(float(seconds))
    connection.execute("ROLLBACK")


def own(path: str) -> None:
    """Own the journal until killed."""
    journal = Journal.open(path)
    say(f"open {journal.path}")
    time.sleep(60)


def own_with_child(path: str) -> None:
    """Own the journal, with a forked child that lives on when this process is killed."""
    journal = Journal.open(path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b".")  # it has let go: what is to be done in a child is done inside fork()
        time.sleep(60)
        os._exit(0)
    os.read(reading, 1)
    say(f"child {child} {journal.path}")
    time.sleep(60)


def fork(path: str) -> None:
    """Fork with an open journal; the child tries everything and then ends as a program does."""
    from groq_queue.errors import JournalError

    journal = Journal.open(path)
    row_id = journal.add(entry("before")).row_id
    child = os.fork()
    if child == 0:
        calls = [
            lambda: journal.add(entry("child")),
            lambda: journal.add_many([entry("child")]),
            lambda: journal.claim(row_id),
            lambda: journal.release(row_id),
            lambda: journal.finish(row_id, "failed"),
            lambda: journal.payload(row_id),
            lambda: journal.pending(),
            lambda: journal.get("c-before"),
            lambda: journal.counts(),
            lambda: journal.summary(),
            lambda: journal.recover(),
            lambda: journal.save_levels([]),
            lambda: journal.load_levels(),
            lambda: journal.prune(),
            lambda: journal.retry_failed(),
            lambda: journal.export(path + ".copy"),
            lambda: journal.export_batch(path + ".jsonl"),
        ]
        refused = 0
        for call in calls:
            try:
                call()
            except JournalError as error:
                refused += "opened in another process" in str(error)
        journal.close()
        say(f"refused {refused} of {len(calls)}")
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    journal.add(entry("after"))
    journal.close()
    say(f"child ended with {status}")


def full_disk(path: str) -> None:
    """Fill a disk that ends at 256 kB a file, then give space back."""
    import resource

    from groq_queue.errors import JournalError

    journal = Journal.open(path)
    first = journal.add(entry("first")).row_id
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, resource.RLIM_INFINITY))
    accepted, refused, told = [], [], []
    for number in range(40):
        try:
            journal.add(entry(number, text="x" * 16_000))
            accepted.append(f"c-{number}")
        except JournalError as error:
            refused.append(f"c-{number}")
            told.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    unclaimed = False
    try:
        journal.claim(first)
    except JournalError:
        unclaimed = True
    seen = journal.counts()["pending"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.add(entry("after"))
    say(json.dumps([accepted, refused, told, unclaimed, seen, journal.counts()["pending"]]))
    os._exit(0)  # no close: the file is read as a crash leaves it


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

"""What does an accepted request cost on disk, against bare sqlite3 that waits for the disk as often?

All store the same 500-byte payloads under a unique id, in a table with an index
of what waits. Ours also hashes, guards, counts and serves many threads; measured
once at the journal, and once at ``GroqQueue.submit``, which checks, serialises and
prices as well. Two baselines, both one thread: one row a commit, and as many rows
a commit as there are threads, which is the best that sharing can reach. Rounds
alternate, so that a noisy machine disturbs all alike. With ``--json`` the figures
go to a file.

persist-queue and huey (``fsync=True``), both in WAL mode with synchronous=FULL as
ours, are measured too where they are installed, with as many threads.

    python benchmarks/journal.py [--quick] [--json FILE] [--directory DIR]
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from rig.measure import parser_of, write_json

from groq_queue import GroqQueue, Limits
from groq_queue.core.token_estimate import PromptSize
from groq_queue.journal import Entry, Journal

PAYLOAD = b'{"messages":[{"role":"user","content":"' + b"x" * 456 + b'"}]}'


def entry(name: str) -> Entry:
    return Entry(f"i{name}", f"c{name}", "m", "m", "chat/completions", 5, "default", PAYLOAD, PromptSize(10, 10), 1)


def ours(path: str, durability: str, threads: int, count: int) -> float:
    """Add *count* entries from *threads* threads; entries are made before the watch starts, as theirs are."""
    entries = [entry(str(number)) for number in range(count)]
    with Journal.open(path, durability=durability) as journal:  # type: ignore[arg-type]
        return per_second(lambda number: journal.add(entries[number]), threads, count)


def per_second(store: Callable[[int], object], threads: int, count: int) -> float:
    """Call *store* with each number below *count*, from *threads* threads at once."""
    barrier = threading.Barrier(threads + 1)

    def run(first: int) -> None:
        barrier.wait()
        for number in range(first, count, threads):
            store(number)

    workers = [threading.Thread(target=run, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return count / (time.perf_counter() - began)


def bare(path: str, durability: str, rows_a_commit: int, count: int) -> float:
    names = [f"c{number}" for number in range(count)]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {durability}")
    connection.execute(
        "CREATE TABLE queue (id INTEGER PRIMARY KEY, priority INTEGER, custom_id TEXT UNIQUE, status TEXT, body BLOB)"
    )
    connection.execute("CREATE INDEX waits ON queue (status, priority, id)")
    began = time.perf_counter()
    for start in range(0, count, rows_a_commit):
        connection.execute("BEGIN IMMEDIATE")
        for name in names[start : start + rows_a_commit]:
            connection.execute(
                "INSERT INTO queue (priority, custom_id, status, body) VALUES (5, ?, 'pending', ?)", (name, PAYLOAD)
            )
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return count / took


def submits(path: str, durability: str, threads: int, count: int) -> float:
    """Submit from *threads* threads to a queue that is paused."""
    with GroqQueue(
        api_key="none",
        base_url="http://127.0.0.1:9",
        model="m",
        limits=Limits(),
        max_pending=None,
        journal=path,
        durability=durability,  # type: ignore[arg-type]
    ) as queue:
        queue.pause()
        prompts = [f"{number} " + "x" * 450 for number in range(count)]
        per_s = per_second(lambda number: queue.submit(prompts[number], custom_id=f"c{number}"), threads, count)
        queue.shutdown(wait=False, cancel_futures=True)
    return per_s


def persist_queue(path: str, threads: int, count: int) -> float | None:
    try:
        from persistqueue import SQLiteQueue  # type: ignore[import-not-found]
    except ImportError:
        return None
    queue = SQLiteQueue(path, auto_commit=True, multithreading=True)
    return per_second(lambda _: queue.put(PAYLOAD), threads, count)


def huey(path: str, threads: int, count: int) -> float | None:
    try:
        from huey import SqliteHuey  # type: ignore[import-not-found]
    except ImportError:
        return None
    storage = SqliteHuey(filename=path, fsync=True).storage
    return per_second(lambda _: storage.enqueue(PAYLOAD), threads, count)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--directory", help="where the files are made; the disk that is measured")
    options = parser.parse_args()
    count, rounds = (320, 1) if options.quick else (8_000, 5)

    rows = []
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        number = 0

        def fresh() -> str:
            nonlocal number
            number += 1
            return os.path.join(place, f"{number}.db")

        for durability in ("full", "normal"):
            for threads in (1, 8, 32):
                taken = [
                    (
                        ours(fresh(), durability, threads, count),
                        bare(fresh(), durability, 1, count),
                        bare(fresh(), durability, threads, count),
                    )
                    for _ in range(rounds)
                ]
                singly = [mine / one for mine, one, _ in taken]
                shared = [mine / many for mine, _, many in taken]
                rows.append(
                    {
                        "durability": durability,
                        "threads": threads,
                        "ours_per_s": round(statistics.median(mine for mine, _, _ in taken)),
                        "bare_per_s": round(statistics.median(one for _, one, _ in taken)),
                        "bare_shared_per_s": round(statistics.median(many for _, _, many in taken)),
                        "ratio": round(statistics.median(singly), 3),
                        "ratio_min": round(min(singly), 3),
                        "ratio_max": round(max(singly), 3),
                        "ratio_to_shared": round(statistics.median(shared), 3),
                    }
                )
                row = rows[-1]
                print(
                    f"{durability.upper():6} {threads:2} threads: {row['ours_per_s']:>7,} adds/s, sqlite3 one a commit "
                    f"{row['bare_per_s']:>7,}/s, ratio {row['ratio']:.2f} "
                    f"[{row['ratio_min']:.2f}..{row['ratio_max']:.2f}], to {threads} a commit "
                    f"{row['bare_shared_per_s']:>7,}/s {row['ratio_to_shared']:.2f}"
                )
        for threads in (1, 8):
            pairs = [(submits(fresh(), "full", threads, count), bare(fresh(), "full", 1, count)) for _ in range(rounds)]
            ratio = statistics.median(mine / one for mine, one in pairs)
            mine = statistics.median(mine for mine, _ in pairs)
            rows.append({"submit": "full", "threads": threads, "per_s": round(mine), "ratio": round(ratio, 3)})
            print(
                f"GroqQueue.submit, FULL, {threads} threads: {mine:,.0f}/s, ratio to sqlite3 one a commit {ratio:.2f}"
            )
        others: dict[str, Callable[[str, int, int], float | None]] = {"persist-queue": persist_queue, "huey": huey}
        for name, measure in others.items():
            for threads in (1, 8):
                taken_by_both = [
                    (ours(fresh(), "full", threads, count), measure(fresh(), threads, count)) for _ in range(rounds)
                ]
                ratios = [mine / theirs for mine, theirs in taken_by_both if theirs is not None]
                if not ratios:
                    print(f"{name}: not installed")
                    break
                ratio = statistics.median(ratios)
                rows.append({"other": name, "threads": threads, "ratio": round(ratio, 2)})
                print(
                    f"{name}, {threads} threads: ours FULL is {ratio:.2f} times as fast "
                    f"[{min(ratios):.2f}..{max(ratios):.2f}]"
                )
    write_json(options.json, "journal", sqlite=sqlite3.sqlite_version, rounds=rounds, adds=count, rows=rows)
    sys.exit(0)


if __name__ == "__main__":
    main()

"""Programs that use a queue with a journal, until they are killed, stopped, or their disk is full.

Each is one run of ``python living.py NAME ARGUMENTS``, and says on stdout what a call
has promised, after the call: what is said is held against the file and against what
the server saw.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

from groq_queue import Completion, GroqQueue, Limits
from groq_queue.errors import GroqQueueError, JournalError
from groq_queue.wiring import durable

MODEL = "llama-3.1-8b-instant"


def say(line: str) -> None:
    """Write one whole line at once: a kill cannot cut a line that it sees."""
    os.write(1, f"{line}\n".encode())


def opened(path: str, url: str, **options: Any) -> GroqQueue:
    options = {"limits": Limits(rpm=10**7), "max_pending": 64} | options
    return GroqQueue(api_key="local", base_url=url, model=MODEL, journal=path, **options)


def told(name: str, future: Future[Completion]) -> None:
    if not future.cancelled() and future.exception() is None:
        say(f"done {name} {future.result().get('id')}")  # the server numbers its answers


def submit(queue: GroqQueue, name: str) -> Future[Completion]:
    """Accept one request, whose prompt is its custom_id, so that the server can tell who it is."""
    future = queue.submit(name, custom_id=name, max_completion_tokens=16)
    say(f"accepted {name}")
    future.add_done_callback(lambda done: told(name, done))
    return future


def life(path: str, url: str, seed: str, rounds: str = "1000000000") -> None:
    """Two threads accept for ever; each begins with requests of the life before, some of them answered."""
    queue = opened(path, url)
    say("open")

    def work(thread: int) -> None:
        for number in range(6):
            submit(queue, f"{int(seed) - 1}-{thread}-{number}")
        for number in range(int(rounds)):
            submit(queue, f"{seed}-{thread}-{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.shutdown()


def drain(path: str, url: str) -> None:
    """Do what is left, and end as a program does."""
    with opened(path, url):
        say("open")


def accept(path: str, url: str, name: str) -> None:
    """Die as soon as one request is accepted."""
    queue = opened(path, url)
    queue.submit(name, custom_id=name, max_completion_tokens=16)
    os.kill(os.getpid(), signal.SIGKILL)


def again(path: str, url: str, count: str) -> None:
    """Ask for the same *count* requests; say the answers."""
    with opened(path, url, max_pending=None) as queue:
        futures = {f"n{number}": queue.submit(f"n{number}", custom_id=f"n{number}") for number in range(int(count))}
        say(json.dumps({name: future.result().text for name, future in futures.items()}))


def own(path: str, url: str) -> None:
    """Have the journal open, accept one request, and wait for a word."""
    queue = opened(path, url)
    future = submit(queue, "owned")
    for line in sys.stdin:
        if line == "end\n":
            break
    future.result(timeout=30)
    queue.shutdown()
    say("ended")


def try_to_open(path: str, url: str) -> None:
    """Open a journal that somebody has; say how long that took and what was said."""
    begin = time.monotonic()
    try:
        opened(path, url).shutdown()
        said = "opened"
    except GroqQueueError as error:
        said = f"{type(error).__name__}: {error}"
    say(json.dumps([time.monotonic() - begin, said]))


def full_disk(path: str, url: str) -> None:
    """Accept on a disk that ends at 256 kB a file, then get space back and drain."""
    queue = opened(path, url, max_pending=None)
    queue.pause()  # what is sent is sent after the last refusal
    accepted, refused, errors = [], [], []
    queue.submit("first", custom_id="first")
    _limit_files(256 * 1024)
    for number in range(40):
        name = f"n{number}"
        try:
            queue.submit(f"{name} " + "x" * 16_000, custom_id=name, max_completion_tokens=16)
            accepted.append(name)
        except JournalError as error:
            refused.append(name)
            errors.append(str(error))
    _limit_files(None)
    queue.submit("after", custom_id="after")
    queue.resume()
    queue.shutdown()
    say(json.dumps([accepted, refused, errors]))


def full_disk_later(path: str, url: str) -> None:
    """Let nothing more be written once all is accepted, try to send until all are given up, then get space back."""
    durable._TRY_AGAIN_S = (0.01, 0.02)  # type: ignore[assignment]
    queue = opened(path, url, max_pending=None, max_retries=1)
    queue.pause()
    futures = [queue.submit(f"n{number}", custom_id=f"n{number}") for number in range(40)]
    _limit_files(4096)
    queue.resume()
    kinds: dict[str, int] = {}
    for future in futures:
        error = future.exception(timeout=30)
        kind = "answered" if error is None else type(error).__name__
        kinds[kind] = kinds.get(kind, 0) + 1
    _limit_files(None)
    queue.shutdown(cancel_futures=True)
    say(json.dumps(kinds))


def _limit_files(size: int | None) -> None:
    most = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


def flood(path: str, url: str, count: str) -> None:
    """Send *count* requests, and say how much memory and log there was on the way."""
    waits = threading.BoundedSemaphore(2_000)  # Futures that are held
    largest_wal = 0
    memory = []
    failed = itertools.count()
    queue = opened(path, url, max_pending=None, max_workers=16, durability="normal")

    def ended(future: Future[Completion]) -> None:
        if future.cancelled() or future.exception() is not None:
            next(failed)
        waits.release()

    for number in range(int(count)):
        waits.acquire()
        queue.submit(f"n{number} " + "word " * 80, custom_id=f"n{number}", max_completion_tokens=16).add_done_callback(
            ended
        )
        if number % 100 == 0:
            largest_wal = max(largest_wal, os.stat(path + "-wal").st_size)
        if number % (int(count) // 10) == 0:
            memory.append(_rss_mb())
    queue.shutdown()
    say(json.dumps({"wal": largest_wal, "memory": memory, "failed": next(failed)}))


def start_up(path: str, url: str) -> None:
    """Open a journal in which much waits, work on it until told to leave, and leave the rest there."""
    begin = time.monotonic_ns()
    queue = opened(path, url)
    ready = time.monotonic_ns()
    assert "leave\n" == sys.stdin.readline()
    peak = _rss_mb("VmHWM")
    leaving = time.monotonic_ns()
    queue.shutdown(cancel_futures=True)
    left = time.monotonic_ns()
    say(json.dumps({"begin": begin, "ready": ready, "peak_mb": peak, "leave_s": (left - leaving) / 1e9}))


def _rss_mb(field: str = "VmRSS") -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])

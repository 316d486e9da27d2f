"""The accounting law: whatever a server does, what it got is what is told, and what it may bill is booked.

A play is a queue, its requests, and a server drawn by the play's number: it answers,
refuses, resets before and after working, closes, times out, cuts, lies, and stands
behind gateways that give up. The server counts what it read and what it did, and shares nothing with
the library. The law, for every play:

* read by the server = attempts told, less those certainly not sent, and less at most those that it or the client gave
  up unread: connections that it closed without a word, attempts that ran into their time-out. Told means alike by
  answers and errors, ``stats()``, the report, the journal and observers;
* money booked >= what may have been billed;
* levels >= the server's: of requests, what it read and did not refuse; of tokens, what it charged for these.

The queue's clock hurries, so that half a minute of backoff passes in an instant; the periods of its limits
are so long that nothing drains.

    python -m pytest -q -s -m slow tests/faults/test_accounting_law.py
"""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from groq_queue import GroqQueue, Limits
from groq_queue.errors import APIConnectionError, APIError, APITimeoutError, AuthenticationError
from tests.hasty import HastyClock

PATIENCE_S = 60.0
TIMES = 1_000  # as fast as the machine's clock
SILENCE_S = 0.08  # after which the queue gives an attempt up
TOTAL, CAP = 30, 20  # tokens that each request names, and of these for its answer
OVERUSE = 50  # tokens beyond them that a server may take
MODEL = "m"
PRICES = {MODEL: (1.0, 1.0)}  # USD per million: a token is a millionth
ENDLESS_S = 1e9
LIMITS = Limits(rpm=10**3, tpm=10**4, minute_s=ENDLESS_S)


class Books:
    """What the server did in one play; ``lock`` guards it."""

    def __init__(self, seed: int, wildness: float, kinds: list[Callable[[Visit], bool]]) -> None:
        self.lock = threading.Lock()
        self.seed = seed
        self.wildness = wildness  # share of the attempts that meet something else than an answer
        self.kinds = kinds
        self.read: Counter[str] = Counter()  # by prompt: requests that were read whole
        self.refused = 0
        self.not_taken = 0  # requests that were turned away with a status that says so
        self.billed = 0  # tokens
        self.charged = 0  # tokens that count against the limit
        self.unread = 0  # connections that were closed without reading what may have come


class Visit:
    """One request that was read, and the means to answer it in any way."""

    def __init__(self, sock: socket.socket, books: Books, prompt: str) -> None:
        self.sock, self.books, self.prompt = sock, books, prompt
        with books.lock:
            books.read[prompt] += 1
            number = books.read[prompt]
        self.rng = random.Random(f"{books.seed} {prompt} {number}")

    def did(self, billed: int, charged: int = TOTAL) -> None:
        """Note work: tokens that are billed, and tokens that count against the limit."""
        with self.books.lock:
            self.books.billed += billed
            self.books.charged += charged

    def worked(self) -> None:
        """Note, as if by the toss of a coin, that the whole work was done before what follows."""
        if self.rng.random() < 0.5:
            self.did(TOTAL)

    def completion(self, usage: Any = None) -> bytes:
        if usage is None:
            prompt, completion = self.rng.randint(1, TOTAL - CAP), self.rng.randint(1, CAP)
            usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            self.did(prompt + completion, prompt + CAP)  # a limit counts what was asked for
        return json.dumps({"choices": [{"message": {"content": self.prompt}}], "usage": usage}).encode()

    def send(self, body: bytes, status: str = "200 OK", *headers: str, before: bytes = b"") -> bool:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        self.sock.sendall(before + "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return True

    def raw(self, raw: bytes) -> bool:
        self.sock.sendall(raw)
        return False

    def reset(self) -> bool:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def until_left(self) -> bool:
        """Say nothing until the client goes."""
        while self.sock.recv(65_536):
            pass
        return False


# What a server may do with a request it has read. True: the connection goes on.


def answers(visit: Visit) -> bool:
    return visit.send(visit.completion())


def answers_slowly(visit: Visit) -> bool:
    threading.Event().wait(visit.rng.random() * SILENCE_S / 4)
    return answers(visit)


def answers_in_chunks(visit: Visit) -> bool:
    body = visit.completion()
    half = len(body) // 2
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]))
    visit.raw(head + pieces + b"0\r\n\r\n")
    return True


def answers_and_says_that_it_closes(visit: Visit) -> bool:
    visit.send(visit.completion(), "200 OK", "Connection: close")
    return False


def answers_and_closes_without_a_word(visit: Visit) -> bool:
    visit.send(visit.completion())
    with visit.books.lock:
        visit.books.unread += 1
    return False


def answers_and_resets_a_little_later(visit: Visit) -> bool:
    visit.send(visit.completion())
    threading.Event().wait(visit.rng.random() * 0.005)
    with visit.books.lock:
        visit.books.unread += 1
    return visit.reset()


def answers_after_interim_ones(visit: Visit) -> bool:
    return visit.send(visit.completion(), before=b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")


def answers_with_many_headers(visit: Visit) -> bool:
    return visit.send(visit.completion(), "200 OK", *(f"X-{number}: 1" for number in range(150)))


def answers_without_usage(visit: Visit) -> bool:
    visit.did(TOTAL)
    return visit.send(visit.completion(usage=0))


def lies_about_usage(visit: Visit) -> bool:
    visit.did(TOTAL)
    told = visit.rng.choice(
        [{}, "much", {"prompt_tokens": -5}, {"prompt_tokens": "9"}, {"prompt_tokens": 10**30}, {"prompt_tokens": None}]
    )
    return visit.send(visit.completion(usage=told))


def uses_more_than_was_asked_for(visit: Visit) -> bool:
    visit.did(TOTAL + OVERUSE, TOTAL + OVERUSE)
    return visit.send(visit.completion(usage={"prompt_tokens": TOTAL + OVERUSE - 10, "completion_tokens": 10}))


def refuses(visit: Visit) -> bool:
    with visit.books.lock:
        visit.books.refused += 1
        visit.books.not_taken += 1
    body, headers = visit.rng.choice(
        [
            ("{}", ()),
            ("slow down", ("Retry-After: 1",)),
            ('{"error": {"message": "Rate limit reached. Please try again in 20ms"}}', ()),
            ('{"error": {"message": "Rate limit reached"}}', ("Retry-After: 0",)),
        ]
    )
    return visit.send(body.encode(), "429 Too Many Requests", *headers)


def fails_after_work_perhaps(visit: Visit) -> bool:
    """As a gateway does that gave up waiting for a server which goes on."""
    visit.worked()
    status = visit.rng.choice([408, 500, 502, 504, 507, 520, 524, 561, 599])
    return visit.send(b"<html>oops</html>", f"{status} No", *visit.rng.choice([(), ("Retry-After: 2",)]))


def fails_before_work(visit: Visit) -> bool:
    status = visit.rng.choice([409, 425, 498, 503, 521, 522, 523, 529, 530])
    if status == 498:
        with visit.books.lock:
            visit.books.not_taken += 1
    return visit.send(b"{}", f"{status} No", *visit.rng.choice([(), ("Retry-After: 2",)]))


def rejects(visit: Visit) -> bool:
    status = visit.rng.choice([307, 400, 403, 404, 413, 422])
    return visit.send(b'{"error": {"message": "no"}}', f"{status} No", "Location: http://127.0.0.1:9/")


def resets(visit: Visit) -> bool:
    visit.worked()
    return visit.reset()


def works_and_resets(visit: Visit) -> bool:
    threading.Event().wait(0.002 + visit.rng.random() * SILENCE_S / 2)
    visit.did(TOTAL)
    return visit.reset()


def closes(visit: Visit) -> bool:
    visit.worked()
    return False


def works_and_closes(visit: Visit) -> bool:
    threading.Event().wait(0.002 + visit.rng.random() * SILENCE_S / 2)
    visit.did(TOTAL)
    return False


def says_nothing(visit: Visit) -> bool:
    visit.did(TOTAL)
    return visit.until_left()


def drips_headers(visit: Visit) -> bool:
    visit.did(TOTAL)
    visit.raw(b"HTTP/1.1 200 OK\r\n")
    for _ in range(1_000):
        visit.raw(b"X: 1\r\n")
        threading.Event().wait(SILENCE_S / 4)
    return False


def cuts(visit: Visit) -> bool:
    body = visit.completion(usage={})
    visit.did(TOTAL)
    return visit.raw(
        visit.rng.choice(
            [
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-9],
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body[:-9],
                b"HTTP/1.1 200 OK\r\n\r\n" + body[:-9],
                b"HTTP/1.1 200 OK\r\nContent-Le",
                b"HTTP/1.1 2",
            ]
        )
    )


def talks_nonsense(visit: Visit) -> bool:
    visit.worked()
    with visit.books.lock:
        visit.books.unread += 1  # some of it looks like a whole answer of a connection that goes on
    return visit.raw(
        visit.rng.choice(
            [
                b"EHLO\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
                b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\n\x01\x02\x03",
                b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            ]
        )
    )


def locks_out(visit: Visit) -> bool:
    with visit.books.lock:
        visit.books.not_taken += 1
    return visit.send(b'{"error": {"message": "Invalid API Key"}}', "401 Unauthorized")


WELL = [answers, answers, answers_in_chunks, answers_slowly, answers_after_interim_ones, answers_with_many_headers]
ODD = [
    *(answers_and_says_that_it_closes, answers_and_closes_without_a_word, answers_and_resets_a_little_later),
    *(answers_without_usage, lies_about_usage, uses_more_than_was_asked_for),
    *(refuses, fails_after_work_perhaps, fails_before_work, rejects, resets, works_and_resets, closes),
    *(works_and_closes, cuts, talks_nonsense),
]
LONG = [says_nothing, drips_headers]  # each costs its whole time-out


class Server:
    """Serves one play."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._is_over = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        """Wait until everything that came was read."""
        self._is_over = True
        with socket.create_connection(("127.0.0.1", self._port)):  # behind all that wait to be accepted
            self._threads[0].join(PATIENCE_S)
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a connection stays open"
        self._listener.close()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()
            if self._is_over and not self._has_more():
                return

    def _has_more(self) -> bool:
        return bool(select.select([self._listener], [], [], 0)[0])

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(PATIENCE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sock.makefile("rb") as file:
                while file.readline():
                    length = 0
                    while header := file.readline().strip():
                        name, _, value = header.lower().partition(b":")
                        length = int(value) if name == b"content-length" else length
                    body = file.read(length)
                    if len(body) < length:
                        return
                    visit = Visit(sock, self._books, json.loads(body)["messages"][-1]["content"])
                    if not self._behaviour(visit)(visit):
                        return

    @staticmethod
    def _behaviour(visit: Visit) -> Callable[[Visit], bool]:
        if visit.rng.random() < visit.books.wildness:
            return visit.rng.choice(visit.books.kinds)
        return visit.rng.choice(WELL)


class Told(NamedTuple):
    """What the library said of one request."""

    attempts: int | None
    error: BaseException | None


class Play:
    """One queue against one server, and what each of them says afterwards."""

    def __init__(self, number: int, directory: Path) -> None:
        rng = random.Random(number)
        self.number = number
        self.count = rng.randint(2, 10)
        kinds = rng.sample(ODD, rng.randint(1, len(ODD)))
        if rng.random() < 0.1:
            kinds.append(rng.choice(LONG))
        if rng.random() < 0.05:
            kinds.append(locks_out)
        self.books = Books(number, rng.choice([0.1, 0.3, 0.6, 1.0]), kinds)
        server = Server(self.books)
        self.events: defaultdict[str, list[Any]] = defaultdict(list)
        self._lock = threading.Lock()
        self.journal = directory / f"{number}.db" if rng.random() < 0.1 else None
        self.is_limited = rng.random() < 0.7
        session = requests.Session() if rng.random() < 0.3 else None
        self.queue = GroqQueue(
            api_key="gsk_x",
            base_url=server.url,
            model=MODEL,
            limits=LIMITS if self.is_limited else Limits(),
            max_workers=rng.randint(1, 6),
            max_retries=rng.choice([0, 1, 2, 5, 5]),
            timeout=(
                TIMES * SILENCE_S * 1.5,
                SILENCE_S,
            ),  # their sum is told by the queue's clock, silence by the socket's
            prices=PRICES,
            session=session,
            journal=self.journal,
            clock=HastyClock(TIMES),
            observer=self._observe,
        )
        self.told: dict[str, Told] = {}
        self.kept: dict[str, int] = {}
        try:
            self._run()
        finally:
            if session is not None:
                # urllib3 leaves the idle connections of a forgotten pool to the garbage collector.
                pools: Any = session.get_adapter(server.url).poolmanager.pools  # type: ignore[attr-defined]
                for key in list(pools.keys()):
                    pools[key].close()
                session.close()
            server.stop()

    def _observe(self, event: Any) -> None:
        with self._lock:
            self.events[event.custom_id].append(event)

    def _run(self) -> None:
        with self.queue as queue:
            futures = {
                name: queue.submit(name, custom_id=name, tokens=TOTAL, max_completion_tokens=CAP)
                for name in (f"p{index}" for index in range(self.count))
            }
            for name, future in futures.items():
                error = future.exception(PATIENCE_S)
                attempts = future.result().attempts if error is None else getattr(error, "attempts", None)
                self.told[name] = Told(attempts, error)
            queue.join(PATIENCE_S)
            self.stats, self.report = queue.stats(), queue.report()
            if self.journal is not None:
                self.kept = {name: queue.get(name).attempts for name in futures}

    def violations(self) -> list[str]:
        """Return every clause of the law that does not hold."""
        books, stats, found = self.books, self.stats, []

        def check(holds: bool, text: str) -> None:
            if not holds:
                found.append(f"play {self.number}: {text}")

        sent = given_up = 0
        for name, told in self.told.items():
            events = self.events[name]
            numbers = [event.attempt for event in events]
            check(numbers == list(range(1, len(events) + 1)), f"{name}: events count {numbers}")
            check(told.attempts == len(events), f"{name}: {len(events)} events, {told.attempts} told by {told.error!r}")
            check(isinstance(told.error, (APIError, type(None))), f"{name}: ends with {told.error!r}")
            kept = self.kept.get(name, len(events))
            is_waiting = isinstance(told.error, AuthenticationError)  # it stays in the journal, with what was sent
            check(kept == len(events) or is_waiting, f"{name}: {len(events)} events, {kept} in the journal")
            given_up += sum(isinstance(event.error, APITimeoutError) for event in events)
            unsent = sum(isinstance(event.error, APIConnectionError) and event.error.sent == "no" for event in events)
            sent += len(events) - unsent
            read = books.read[name]
            check(read <= len(events) - unsent, f"{name}: read {read} times, {len(events)} - {unsent} told")
        total = sum(map(len, self.events.values()))
        read = sum(books.read.values())
        unread = books.unread + given_up
        check(sent - unread <= read, f"read {read} times, {sent} told, at most {unread} of them unread")
        check(total == stats.attempts == self.report.attempts, f"{total} events, {stats.attempts} in stats")
        check(total == sum(model.attempts for model in self.report.models), "the report's models tell others")
        check(
            stats.refused <= books.refused <= stats.refused + given_up and stats.refused == self.report.refused,
            f"{books.refused} refused, {stats.refused} told, {given_up} given up",
        )
        started = sum(1 for events in self.events.values() if events)
        was_stopped = any(isinstance(told.error, AuthenticationError) for told in self.told.values())
        unused = stats.retried - (total - started)  # retries that were waited for when the key was rejected
        check(unused == 0 or (was_stopped and unused > 0), f"{stats.retried} retries, {total} attempts of {started}")
        booked = round(stats.cost * 1e6)
        unseen = OVERUSE * given_up  # of an answer that went beyond its allowance, and that nobody waited for
        check(booked >= books.billed - unseen, f"{books.billed} tokens may be billed, {booked} are booked")
        check(stats.cost == self.report.cost, "the report tells another cost")
        if self.is_limited:
            (lane,) = stats.lanes
            used = {level.dimension: level.used for level in lane.limits}
            check(
                used["TPM"] >= books.charged - unseen,
                f"the server charged {books.charged} tokens, the level is {used['TPM']}",
            )
            counted = read - books.not_taken
            check(used["RPM"] >= counted, f"the server counted {counted} requests, the level is {used['RPM']}")
        return found


def play_all(numbers: range, directory: Path, at_once: int) -> tuple[list[str], Counter[str]]:
    sums: Counter[str] = Counter()

    def play(number: int) -> list[str]:
        played = Play(number, directory)
        sums["requests"] += played.count
        sums["attempts"] += played.stats.attempts
        sums["read"] += sum(played.books.read.values())
        sums["billed"] += played.books.billed
        sums["booked"] += round(played.stats.cost * 1e6)
        return played.violations()

    with ThreadPoolExecutor(at_once) as threads:
        found = [line for lines in threads.map(play, numbers) for line in lines]
    return found, sums


def test_what_a_server_got_and_may_bill_is_what_is_told_and_booked(tmp_path):
    """
    The quick form, of forty plays.
    """
    found, sums = play_all(range(40), tmp_path, 8)

    assert [] == found
    assert sums["attempts"] > sums["requests"] > 100, "the servers do misbehave"


@pytest.mark.slow
def test_ten_thousand_servers_find_no_way_around_the_law(tmp_path):
    began = time.monotonic()
    found, sums = play_all(range(1_000, 11_000), tmp_path, 8)

    print(f"\n10,000 plays in {time.monotonic() - began:.0f} s: {dict(sums)}, violations {len(found)}")
    assert [] == found[:50]

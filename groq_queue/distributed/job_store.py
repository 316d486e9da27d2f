"""The status of each request: the Redis that submitters and workers share.

Every call may block for as long as Redis takes to answer, but not longer than ``PATIENCE_S`` and one time-out of the
socket; it is repeated meanwhile, which the scripts allow. A Redis that takes no writes, because its memory is full or
because it is a replica at the moment, is waited for as one that is away: a script that may not write writes nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.errors import ConfigurationError, EngineUnavailable, MissingExtraError

PATIENCE_S = 5.0
SOCKET_TIMEOUT_S = 4.0
RESULT_TTL_MS = 3_600_000
UNSTARTED_TTL_MS = 7 * 86_400_000  # a request that no worker has sent by then is forgotten
LISTEN_S = 5  # so long a listener waits for news at a time
_AGAIN_S = 0.1
_PASSING = ("MISCONF ", "MASTERDOWN ")  # how what Redis says begins while its disk is full, or its master away
_CHUNK = 500
_FOLDER = Path(__file__).parent / "lua"
_SCRIPTS = (
    *("enqueue", "withdraw", "move", "attach"),  # a submitting process's
    *("claim", "begin", "rest", "finish", "release", "heartbeat", "expire_dead"),  # a worker's
)
_T = TypeVar("_T")


class Claimed(NamedTuple):
    """A request that a worker has taken.

    Attributes:
        counts: What other workers counted of it and passed to ``rest``.
        rest_ms: Milliseconds before which it is not to be sent.
    """

    id: str
    record: str
    attempts: int
    unknown: int
    age_ms: int
    priority: int
    weight: float
    counts: str = ""
    rest_ms: int = 0


class JobStatus(NamedTuple):
    """The status of a request; ``status`` is None if the store does not know it."""

    status: str | None
    ending: str | None
    custom_id: str | None


class JobStore:
    """One connection pool to the Redis at *url*; safe to use from many threads.

    ``_waits`` guards nothing: a thread that finds Redis away waits on it, until ``close`` wakes all.

    Raises:
        ConfigurationError: The address cannot be used.
        MissingExtraError: The redis package is not installed.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise MissingExtraError.needed("engine='celery'", "celery") from None
        self.address = shown_address(url)
        self._clock = clock
        self._waits = threading.Condition()
        self._is_closed = False
        self._away: tuple[type[Exception], ...] = (redis.ConnectionError, redis.TimeoutError)
        self._full = redis.OutOfMemoryError
        self._takes_no_writes: tuple[type[Exception], ...] = (redis.OutOfMemoryError, redis.ReadOnlyError)
        self._refused = redis.RedisError
        try:
            self._redis = redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=2.0,
                socket_timeout=SOCKET_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as problem:
            raise ConfigurationError(f"{self.address}: {problem}; use redis://host:6379/0") from None
        self._listening = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=2.0,
            socket_timeout=LISTEN_S + SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        shared = _text_of("shared")
        self._scripts = {name: self._redis.register_script(shared + _text_of(name)) for name in _SCRIPTS}

    # -- the submitting process

    def enqueue(
        self, id: str, record: str, *, priority: int, model: str, client: str, weight: float, cost: int, reply: str,
        custom_id: str | None,
    ) -> int:  # fmt: skip
        """Let a request wait for a worker; once, however often this is called.

        Returns:
            How many of its priority and model wait with it.
        """
        facts = (id, record, priority, model, client, weight, cost, reply, custom_id or "")
        return int(self._run("enqueue", *facts, UNSTARTED_TTL_MS))

    def withdraw(self, ids: Sequence[str], status: str, ending: str) -> list[int]:
        """End requests that are not on their way.

        Returns:
            For each 1 if it has that status now, 0 if it is on its way or has ended, -1 if the store does not know it.
        """
        answers: list[int] = []
        for start in range(0, len(ids), _CHUNK):
            answers += self._ask(partial(self._withdraw, ids[start : start + _CHUNK], status, ending))
        return answers

    def move(self, id: str, priority: int) -> bool:
        """Let a request wait at the end of another level; False if no longer in line."""
        return bool(self._run("move", id, priority))

    def statuses(self, ids: Sequence[str]) -> list[JobStatus]:
        """Return where requests stand."""
        found: list[JobStatus] = []
        for start in range(0, len(ids), _CHUNK):
            found += self._ask(partial(self._standings, ids[start : start + _CHUNK]))
        return found

    def attach(self, id: str, reply: str) -> JobStatus:
        """Return the status of a request, and have its end reported to *reply* too."""
        found = self._run("attach", id, reply)
        return JobStatus(None, None, None) if found is None else JobStatus(found[0], found[1], found[2] or None)

    def listen(self, reply: str) -> list[list[Any]]:
        """Wait some seconds for events sent to *reply*, and return them: none if none came.

        Raises:
            EngineUnavailable: At once, if Redis cannot be reached.
        """
        key = f"gqc:reply:{reply}"
        try:
            first = self._listening.blpop([key], timeout=LISTEN_S)
            if first is None:
                return []
            more: Any = self._listening.lpop(key, _CHUNK)
        except self._away as problem:
            raise self._unavailable(problem) from None
        return [json.loads(text) for text in (first[1], *(more or ()))]

    def wake(self, reply: str) -> None:
        """Make ``listen`` return; raises nothing."""
        try:
            self._redis.rpush(f"gqc:reply:{reply}", '["wake"]')
            self._redis.pexpire(f"gqc:reply:{reply}", 60_000)
        except self._refused:
            return

    def forget_replies(self, reply: str) -> None:
        """Remove what is left of a list that has no reader any more; raises nothing."""
        try:
            self._redis.delete(f"gqc:reply:{reply}")
        except self._refused:
            return

    def workers(self) -> int:
        """Return how many workers have been heard of lately."""
        return int(self._ask(lambda: self._redis.zcard("gqc:workers")))

    # -- a worker

    def claim(self, owner: str, lease_ms: int, first: int, last: int, without: Iterable[str] = ()) -> Claimed | None:
        """Take the request that is next at priorities *first* to *last*, of models other than *without*."""
        found = self._run("claim", owner, lease_ms, first, last, *without)
        if found is None:
            return None
        id, record, attempts, unknown, age_ms, priority, weight, counts, rest_ms = found
        return Claimed(id, record, attempts, unknown, age_ms, priority, float(weight), counts, rest_ms)

    def begin(self, id: str, owner: str, lease_ms: int) -> int:
        """Note that a request is about to be sent; return its number of attempts, or 0 if it must not be."""
        return int(self._run("begin", id, owner, lease_ms, RESULT_TTL_MS))

    def rest(self, id: str, owner: str, unknown: int, error: str, counts: str = "", rest_ms: int = 0) -> bool:
        """Note that a request waits for a further attempt, at least *rest_ms*; its next worker gets *counts*."""
        return bool(self._run("rest", id, owner, unknown, error, counts, rest_ms, RESULT_TTL_MS))

    def finish(self, id: str, status: str, ending: str) -> int:
        """Note how a request ended; 1, or 0 if it had ended, or -1 if the store does not know it."""
        return int(self._run("finish", id, status, ending, RESULT_TTL_MS))

    def release(self, id: str, owner: str) -> bool:
        """Let a request that is not on its way wait for another worker, in its old place."""
        return bool(self._run("release", id, owner))

    def heartbeat(self, owner: str, lease_ms: int, ids: Iterable[str]) -> list[str]:
        """Extend the leases of *ids* and return those that *owner* has no more."""
        return list(self._run("heartbeat", owner, lease_ms, *ids))

    def expire_dead(self, period_ms: int, most_unknown: int, ending: str, *, may_expire: bool) -> list[int] | None:
        """Take back what dead workers held.

        Returns:
            How many wait at each priority, or None if another worker has swept in this period.
        """
        counts = self._run("expire_dead", period_ms, most_unknown, ending, RESULT_TTL_MS, int(may_expire))
        return None if counts is None else [int(count) for count in counts[1:]]

    def leave(self, owner: str) -> None:
        """Forget a worker that ends; raises nothing."""
        try:
            self._redis.zrem("gqc:workers", owner)
        except self._refused:
            return

    # -- both

    def check(self) -> None:
        """Raise ``EngineUnavailable`` if Redis cannot be reached."""
        self._ask(self._redis.ping)

    def close(self) -> None:
        """Let go of the connections; calls that wait for Redis end with their error."""
        with self._waits:
            self._is_closed = True
            self._waits.notify_all()
        self._redis.close()
        self._listening.close()

    def pause(self, seconds: float) -> None:
        """Wait before Redis is asked again, at most until ``close``."""
        until_ns = self._clock.now_ns() + round(seconds * NS_PER_S)
        with self._waits:
            while not self._is_closed and self._clock.now_ns() < until_ns:
                self._clock.wait(self._waits, until_ns)

    def _run(self, name: str, *arguments: Any) -> Any:
        return self._ask(lambda: self._scripts[name](args=arguments))

    def _withdraw(self, ids: Sequence[str], status: str, ending: str) -> list[int]:
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                self._scripts["withdraw"](args=[id, status, ending, RESULT_TTL_MS], client=pipe)
            return [int(answer) for answer in pipe.execute()]

    def _standings(self, ids: Sequence[str]) -> list[JobStatus]:
        with self._redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hmget(f"gqc:job:{id}", ["status", "ending", "custom_id"])
            return [JobStatus(*fields) for fields in pipe.execute()]

    def _ask(self, ask: Callable[[], _T]) -> _T:
        """Ask until Redis answers or patience ends."""
        until_ns = self._clock.now_ns() + round(PATIENCE_S * NS_PER_S)
        while True:
            try:
                return ask()
            except self._refused as problem:
                is_over = self._is_closed or self._clock.now_ns() >= until_ns
                if is_over or not self._may_pass(problem):
                    raise self._unavailable(problem) from None
            self.pause(_AGAIN_S)

    def _may_pass(self, problem: Exception) -> bool:
        """Return whether what Redis said, or that it said nothing, may be otherwise in a moment."""
        return isinstance(problem, (*self._away, *self._takes_no_writes)) or str(problem).startswith(_PASSING)

    def _unavailable(self, problem: Exception) -> EngineUnavailable:
        cure = "see that it runs and that this address reaches it, then submit again"
        if isinstance(problem, self._full):
            cure = "its memory is full: raise its maxmemory, or remove what else it holds, then submit again"
        return EngineUnavailable(
            f"the Redis at {self.address} cannot be used ({type(problem).__name__}: {problem}): {cure}",
            address=self.address,
        )


def _text_of(script: str) -> str:
    return (_FOLDER / f"{script}.lua").read_text(encoding="utf-8")


def shown_address(url: str) -> str:
    """Return *url* without name, password and options.

    >>> shown_address("redis://:secret@cache:6379/1?x=y")
    'redis://cache:6379/1'
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"

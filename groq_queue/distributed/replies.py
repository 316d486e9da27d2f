"""How a submitting process learns what becomes of its requests: the thread that listens, and what it hears means.

The thread waits on a list in Redis. In case an event was lost, as in a restart of Redis, it also asks for the status
of each open request: every five seconds, and whenever Redis has come back.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.request import State
from groq_queue.distributed.codec import Ending, decode_ending, is_final
from groq_queue.distributed.job_store import JobStatus, JobStore
from groq_queue.distributed.submitted import SubmittedRequests
from groq_queue.engine.log import log_fields
from groq_queue.errors import EngineUnavailable, GroqQueueError, error_of
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_ASK_NS = 5 * NS_PER_S
_AGAIN_S = 0.5
_AFTER_FAILURE_S = 1.0  # of the machine's own clock, since ours may be what failed


class ReplyListener:
    """Calls back with what Redis tells; the callbacks run on its thread and may raise ``EngineUnavailable``.

    ``_lock`` guards ``_thread``, ``_is_starting`` and ``_is_closed``; the other flags are the thread's own. Nothing
    that a callback, the store or the clock raises ends the thread before ``close``.

    Args:
        store: The Redis to listen to.
        clock: Tells the time.
        reply: The name under which this process receives events.
        on_news: Called with the events that came, oldest first.
        on_doubt: Called when the open requests are to be asked for.
        on_end: Called once, when it was closed and listens no more.
    """

    def __init__(
        self,
        store: JobStore,
        clock: Clock,
        reply: str,
        *,
        on_news: Callable[[list[list[Any]]], None],
        on_doubt: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._reply = reply
        self._on_news = on_news
        self._on_doubt = on_doubt
        self._on_end = on_end
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_starting = False
        self._is_closed = False
        self._closed = threading.Event()
        self._is_away = False
        self._is_broken = False  # the last try ended in a bug, or there was no memory
        self._asked_ns: int | None = None

    def begin(self) -> bool:
        """Listen from now on; more than once is once.

        Returns:
            False if the system refuses the thread: to be called again.
        """
        if self._thread is not None:
            return True
        with self._lock:
            if self._thread is not None or self._is_starting or self._is_closed:
                return True
            self._is_starting = True
        try:
            thread = threading.Thread(target=self._listen, name="groq_queue-replies", daemon=True)
            thread.start()
            with self._lock:
                self._thread = self._thread or thread
        except RuntimeError as error:
            _log.warning(
                "the thread that receives answers could not be started and will be tried again soon: %s",
                error,
                extra=log_fields("no_thread"),
            )
            return False
        finally:
            self._is_starting = False
        return True

    def close(self) -> None:
        """Listen no more; returns when the thread has ended. Not to be called on it."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            self._closed.set()
            thread = self._thread
        if was_closed:
            return
        if thread is not None:
            self._store.wake(self._reply)
            thread.join()
        self._on_end()

    def _listen(self) -> None:
        me = threading.current_thread()
        with self._lock:
            self._thread = self._thread or me
            if self._thread is not me:
                return  # a Ctrl-C came while it was started, and another has been started since
        while not self._is_closed:
            try:
                self._listen_once()
            except BaseException:  # a bug, or no memory, must not leave every Future open
                if not self._is_broken:
                    _log.exception(
                        "answers of the workers could not be read, tried again: a bug, or no memory was left",
                        extra=log_fields("store_away"),
                    )
                self._is_broken = True
                self._closed.wait(_AFTER_FAILURE_S)

    def _listen_once(self) -> None:
        try:
            if self._is_broken:  # what came then may have been lost
                self._on_doubt()
                self._is_broken = False
            self._on_news(self._store.listen(self._reply))
            now_ns = self._clock.now_ns()
            if self._asked_ns is None:
                self._asked_ns = now_ns
            if self._is_away or now_ns - self._asked_ns >= _ASK_NS:
                self._on_doubt()
                self._asked_ns = self._clock.now_ns()
            if self._is_away:
                _log.warning("%s can be reached again", self._store.address, extra=log_fields("store_back"))
            self._is_away = False
        except EngineUnavailable as error:
            if not self._is_away and not self._is_closed:
                _log.warning(
                    "answers of the workers cannot be read until Redis can be reached again: %s",
                    error,
                    extra=log_fields("store_away"),
                )
            self._is_away = True
            if not self._is_closed:
                self._store.pause(_AGAIN_S)


class ReplyReader:
    """Reads news; used by the listener's thread.

    Args:
        store: Knows how requests ended.
        submitted: Notes what happens to them; the lock of *not_full* guards it.
        not_full: Notified when a request waits no more.
        clock: Tells the time.
        end: Has the Future of a request end; called without the lock.
    """

    def __init__(
        self,
        store: JobStore,
        submitted: SubmittedRequests,
        not_full: threading.Condition,
        clock: Clock,
        end: Callable[[str, Ending], None],
    ) -> None:
        self._store = store
        self._submitted = submitted
        self._not_full = not_full
        self._clock = clock
        self._end = end

    def hear(self, news: list[list[Any]]) -> None:
        """Note what workers reported.

        Raises:
            EngineUnavailable: Redis cannot be reached to ask how requests ended.
        """
        ended = []
        with self._not_full:
            now_ns = self._clock.now_ns()
            for word, *facts in news:
                if word == "began":
                    self._submitted.began(facts[0], facts[1], now_ns)
                    self._not_full.notify_all()
                elif word == "rests":
                    error = error_of(json.loads(facts[1])) if facts[1] else None
                    self._submitted.rests(facts[0], error, now_ns)
                elif word == "ended" and facts[0] in self._submitted.open:
                    ended.append(facts[0])
        if ended:
            self._ask(ended)

    def ask_all(self) -> None:
        """Ask for the status of every open request.

        Raises:
            EngineUnavailable: Redis cannot be reached.
        """
        with self._not_full:
            ids = self._submitted.awaited()
        self._ask(ids)

    def _ask(self, ids: list[str]) -> None:
        """Ask where requests stand, and have the Futures of those that ended end."""
        for id, found in zip(ids, self._store.statuses(ids), strict=True):
            if found.status is None:
                with self._not_full:
                    is_lost = id in self._submitted.awaited()  # else it ended, long ago or just now
                if is_lost:
                    self._end(id, Ending(State.FAILED, error=self._lost(id)))
            elif is_final(found.status):
                self._end(id, _ending_of(id, found.status, found))

    def _lost(self, id: str) -> GroqQueueError:
        return EngineUnavailable(
            f"request {id[:8]}: the Redis at {self._store.address} has forgotten it, so its data was deleted or lost; "
            "it is not known whether it was sent: submit it again, and let Redis write its data (appendonly yes, "
            "maxmemory-policy noeviction)",
            address=self._store.address,
            request_id=id,
        )


def _ending_of(id: str, status: str, found: JobStatus) -> Ending:
    """Return how a request ended; one ending that cannot be read must not keep all others from being read."""
    try:
        return decode_ending(status, found.ending, custom_id=found.custom_id or None)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        error = GroqQueueError(
            f"request {id[:8]}: it is {status}, but its outcome cannot be read ({problem!r:.200}): "
            "use the same version of groq_queue here and in the workers",
            request_id=id,
        )
        return Ending(State.FAILED, error=error)

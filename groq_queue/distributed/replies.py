"""One thread of a submitting process that hears what becomes of its requests.

It waits on a list in Redis. In case a word was lost, as in a restart of Redis, it also asks where each
open request stands: every five seconds, and whenever Redis has come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.distributed.job_store import JobStore
from groq_queue.engine.log import log_fields
from groq_queue.errors import EngineUnavailable
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
        reply: The name under which this process is told.
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
                "the thread that hears of answers could not be started, tried again soon: %s",
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

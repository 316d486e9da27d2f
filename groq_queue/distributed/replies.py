"""One thread of a submitting process that hears what becomes of its requests.

It waits on a list in Redis. In case a word was lost, as in a restart of Redis, it also asks where each
open request stands: every five seconds, and whenever Redis has come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.distributed.store import JobStore
from groq_queue.engine.log import told
from groq_queue.errors import EngineUnavailable
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_ASK_NS = 5 * NS_PER_S
_AGAIN_S = 0.5


class Listener:
    """Calls back with what Redis tells; the callbacks run on its thread and may raise ``EngineUnavailable``.

    ``_lock`` guards the two flags and the thread.

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
        self._is_closed = False

    def begin(self) -> None:
        """Listen from now on; more than once is once."""
        with self._lock:
            if self._thread is not None or self._is_closed:
                return
            self._thread = threading.Thread(target=self._listen, name="groq_queue-replies", daemon=True)
            thread = self._thread
        thread.start()

    def close(self) -> None:
        """Listen no more; returns when the thread has ended. Not to be called on it."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            thread = self._thread
        if was_closed:
            return
        if thread is not None:
            self._store.wake(self._reply)
            thread.join()
        self._on_end()

    def _listen(self) -> None:
        asked_ns = self._clock.now_ns()
        is_away = False
        while not self._is_closed:
            try:
                self._on_news(self._store.listen(self._reply))
                if is_away or self._clock.now_ns() - asked_ns >= _ASK_NS:
                    self._on_doubt()
                    asked_ns = self._clock.now_ns()
                if is_away:
                    _log.warning("%s can be reached again", self._store.address, extra=told("store_back"))
                is_away = False
            except EngineUnavailable as error:
                if not is_away and not self._is_closed:
                    _log.warning(
                        "answers of the workers cannot be read until Redis can be reached again: %s",
                        error,
                        extra=told("store_away"),
                    )
                is_away = True
                if not self._is_closed:
                    self._store.pause(_AGAIN_S)
            except Exception:  # a bug must not leave every Future open
                _log.exception(
                    "answers of the workers could not be read, tried again: a bug, please report it",
                    extra=told("store_away"),
                )
                is_away = True
                self._store.pause(_AGAIN_S)

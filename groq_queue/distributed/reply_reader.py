"""What workers tell a submitting process: noted in its register, and asked for where a word may be lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from groq_queue.clock import Clock
from groq_queue.core.request import State
from groq_queue.distributed.codec import Ending, decode_ending, is_final
from groq_queue.distributed.job_store import JobStatus, JobStore
from groq_queue.distributed.submitted import SubmittedRequests
from groq_queue.errors import EngineUnavailable, GroqQueueError, error_of


class ReplyReader:
    """Reads news; used by the listener's thread.

    Args:
        store: Knows how requests ended.
        register: Notes what happens to them; the lock of *room* guards it.
        room: Notified when a request waits no more.
        clock: Tells the time.
        end: Has the Future of a request end; called without the lock.
    """

    def __init__(
        self,
        store: JobStore,
        register: SubmittedRequests,
        room: threading.Condition,
        clock: Clock,
        end: Callable[[str, Ending], None],
    ) -> None:
        self._store = store
        self._register = register
        self._room = room
        self._clock = clock
        self._end = end

    def hear(self, news: list[list[Any]]) -> None:
        """Note what workers told.

        Raises:
            EngineUnavailable: Redis cannot be reached to ask how requests ended.
        """
        ended = []
        with self._room:
            now_ns = self._clock.now_ns()
            for word, *facts in news:
                if word == "began":
                    self._register.began(facts[0], facts[1], now_ns)
                    self._room.notify_all()
                elif word == "rests":
                    error = error_of(json.loads(facts[1])) if facts[1] else None
                    self._register.rests(facts[0], error, now_ns)
                elif word == "ended" and facts[0] in self._register.open:
                    ended.append(facts[0])
        if ended:
            self._ask(ended)

    def ask_all(self) -> None:
        """Ask where every open request stands.

        Raises:
            EngineUnavailable: Redis cannot be reached.
        """
        with self._room:
            ids = self._register.awaited()
        self._ask(ids)

    def _ask(self, ids: list[str]) -> None:
        """Ask where requests stand, and have the Futures of those that ended end."""
        for id, standing in zip(ids, self._store.standings(ids), strict=True):
            if standing.status is None:
                with self._room:
                    is_lost = id in self._register.awaited()  # else it ended, long ago or just now
                if is_lost:
                    self._end(id, Ending(State.FAILED, error=self._lost(id)))
            elif is_final(standing.status):
                self._end(id, _ending_of(id, standing.status, standing))

    def _lost(self, id: str) -> GroqQueueError:
        return EngineUnavailable(
            f"request {id[:8]}: the Redis at {self._store.address} has forgotten it, so its data was deleted or lost; "
            "nobody knows whether it was sent: submit it again, and let Redis write its data (appendonly yes, "
            "maxmemory-policy noeviction)",
            address=self._store.address,
            request_id=id,
        )


def _ending_of(id: str, status: str, standing: JobStatus) -> Ending:
    """Return how a request ended; one ending that cannot be read must not keep all others from being read."""
    try:
        return decode_ending(status, standing.ending, custom_id=standing.custom_id or None)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        error = GroqQueueError(
            f"request {id[:8]}: it is {status}, but its outcome cannot be read ({problem!r:.200}): "
            "use the same version of groq_queue here and in the workers",
            request_id=id,
        )
        return Ending(State.FAILED, error=error)

"""What a submitting process has Redis and the broker do: store its requests, take them back, wake workers.

Knows of no Future and holds no lock; every call may block for as long as Redis takes to answer, see ``store``.
"""

from __future__ import annotations

from collections.abc import Sequence

from groq_queue.core.request import Request, State
from groq_queue.distributed.codec import Ending, encode_ending, encode_request
from groq_queue.distributed.job_store import JobStore
from groq_queue.distributed.wakeups import Notifier, lane_for
from groq_queue.engine.log import log_fields
from groq_queue.errors import EngineUnavailable
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_CALLS = 256  # more requests that wait need no further wake-up calls: who is awake goes on until none waits


class Submitter:
    """Safe to use from many threads.

    Args:
        store: Where requests stand; closed with the outbox.
        bell: Wakes workers; closed with the outbox.
        reply: The name under which this process is told how they end.
        base_url: Where the requests may be sent only; None: wherever the workers send.
    """

    def __init__(self, store: JobStore, notifier: Notifier, reply: str, base_url: str | None) -> None:
        self._store = store
        self._notifier = notifier
        self._reply = reply
        self._base_url = base_url

    def send(self, request: Request, weight: float) -> None:
        """Store a request for its client of that weight, and wake a worker.

        Raises:
            EngineUnavailable: Redis or the broker cannot be reached, and no worker will get it.
        """
        waiting = self._store.enqueue(
            request.id,
            encode_request(request, self._base_url),
            priority=request.priority,
            model=request.model,
            client=request.client,
            weight=weight,
            cost=request.turn_cost,
            reply=self._reply,
            custom_id=request.custom_id,
        )
        try:
            if waiting <= _CALLS:
                self._notifier.notify(lane_for(request.priority))
        except EngineUnavailable:
            # Redis has it but the broker is away. If it can be taken back submit() says so; if a worker was
            # faster, or Redis is away now too, it is accepted: workers look for what nobody was woken for.
            if self._is_taken_back(request.id):
                raise

    def withdraw(self, ids: Sequence[str], ending: Ending) -> list[bool]:
        """Let requests that no worker is sending end so, and return for each whether it does.

        Raises:
            EngineUnavailable: Redis cannot be reached; some may have ended so.
        """
        answers = self._store.withdraw(ids, ending.state.value, encode_ending(ending)) if ids else []
        return [answer == 1 for answer in answers]

    def move(self, id: str, priority: int) -> bool:
        """Let a request wait at the end of another level; False if it is no longer in line.

        Raises:
            EngineUnavailable: Redis cannot be reached.
        """
        if not self._store.move(id, priority):
            return False
        try:
            self._notifier.notify(lane_for(priority))
        except EngineUnavailable as error:  # workers also look by themselves
            _log.debug("no worker is woken: %s", error, extra=log_fields("store_away"))
        return True

    def close(self) -> None:
        """Let go of the connections, once nobody listens for replies any more."""
        self._store.forget_replies(self._reply)
        self._store.close()
        self._notifier.close()

    def _is_taken_back(self, id: str) -> bool:
        try:
            return self.withdraw([id], Ending(State.CANCELLED)) == [True]
        except EngineUnavailable:
            return False

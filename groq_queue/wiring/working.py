"""What a worker process consists of: an embedded queue between the lanes of a broker and the API."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Mapping

from groq_queue.distributed.celery_worker import LaneWorkers
from groq_queue.distributed.job_store import JobStore
from groq_queue.distributed.wakeups import Notifier
from groq_queue.distributed.worker import LeasedJobs
from groq_queue.wiring.factory import assemble
from groq_queue.wiring.settings import Settings
from groq_queue.wiring.sharing import Addresses


class Worker:
    """A worker process's parts, joined; made once in a process.

    Args:
        settings: Of the embedded engine.
        addresses: Of broker and state.
        threads: ``{lane: threads}``.
        lease_s: Seconds after the last sign of life in which what this worker holds is its own.
        on_stopped: Called when a rejected key, or the like, makes further work pointless.
        on_dead: Called when a lane is served no more though nobody has stopped it.

    Raises:
        EngineUnavailable: Redis cannot be reached.
    """

    def __init__(
        self,
        settings: Settings,
        addresses: Addresses,
        *,
        threads: Mapping[str, int],
        lease_s: float,
        on_stopped: Callable[[], None],
        on_dead: Callable[[], None],
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._bell = Notifier(addresses.broker)
        self._store = JobStore(addresses.state, settings.clock)
        self._store.check()
        self._leased = LeasedJobs(
            self._store,
            self._bell,
            settings.clock,
            owner=self.name,
            lease_s=lease_s,
            threads=dict(threads),
            base_url=settings.payers.address,
            on_stopped=on_stopped,
        )
        self._parts = assemble(settings, around=self._leased.fence)
        self._lanes = LaneWorkers(addresses.broker, dict(threads), self.name, self._leased.work, on_dead)

    def start(self) -> None:
        """Begin to work.

        Raises:
            EngineUnavailable: Redis cannot be reached.
            GroqQueueError: The system refuses a thread.
        """
        self._leased.begin(self._parts.accept, self._parts.engine)
        try:
            self._lanes.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take nothing more, give back what is not on its way, and wait for what is."""
        self._lanes.stop()
        self._leased.stop()
        self._lanes.join()
        self._leased.close()
        self._parts.engine.shutdown(wait=True, cancel_futures=True)
        self._store.close()
        self._bell.close()

    @property
    def stopped_by(self) -> Exception | None:
        """The error that made further work pointless, or None."""
        return self._leased.stopped_by

"""What a queue consists of, and the way of a request through it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

from groq_queue.core.request import Request
from groq_queue.core.response import Completion
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.protocols import Engine
from groq_queue.wiring.accounts import Limiter
from groq_queue.wiring.admission import Admission

if TYPE_CHECKING:
    from groq_queue.wiring.durable import JournalBridge


class Submitting(threading.local):
    """Whether the calling thread is in the middle of a submit, which a signal handler may have interrupted."""

    depth = 0


class Parts(NamedTuple):
    """What a queue consists of."""

    engine: Engine
    limiter: Limiter
    admission: Admission
    bridge: JournalBridge | None
    submitting: Submitting

    def accept(
        self, request: Request, callback: Callable[[Future[Completion]], object] | None
    ) -> RequestFuture[Completion]:
        """Price a request, store it if there is a journal, and let the engine have it."""
        self.submitting.depth += 1
        try:
            if self.bridge is not None:
                return self.bridge.submit(request, callback)
            self.admission.prepare(request)
            return self.engine.submit(request, callback=callback)
        finally:
            self.submitting.depth -= 1

"""The engine of a submitting process: requests go into Redis, workers elsewhere send them, their ends come back.

What ``ThreadEngine`` promises holds here too: a Future ends once, is cancellable until bytes leave, and its
callbacks run in this process. What cannot hold is refused, see ``wiring.options``.

What comes back is heard and read in ``replies``.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import NoReturn

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.price_table import PriceTable
from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion
from groq_queue.core.token_estimate import PromptSize
from groq_queue.distributed.codec import Ending, decode_ending, encode_ending, encode_request, is_final
from groq_queue.distributed.job_store import JobStore
from groq_queue.distributed.replies import ReplyListener, ReplyReader
from groq_queue.distributed.submitted import SubmittedRequests
from groq_queue.distributed.wakeups import Notifier, lane_for
from groq_queue.engine import failures
from groq_queue.engine.background import Timers
from groq_queue.engine.explain import info_at
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.log import log_fields
from groq_queue.engine.metrics import RunFacts
from groq_queue.engine.paging import Group
from groq_queue.engine.stats import Explanation, RequestInfo, Stats
from groq_queue.engine.thread_engine import close_all
from groq_queue.engine.worker_pool import WorkerPool
from groq_queue.errors import ConfigurationError, EngineUnavailable, QueueClosed
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_TRY_AGAIN_S = 1
_CALLS = 256  # more requests that wait need no further wake-up calls: who is awake goes on until none waits
_MOST_TRIES = 25  # of what breaks, 0.2 s apart: 5 s in which there may be memory again
_Task = Callable[[], None]


class CeleryEngine:
    """Has workers elsewhere send what it is given, and ends the Futures of this process.

    ``_lock`` guards the submitted requests, the tasks of the pool and the flags. Redis and the broker are
    asked outside it. The pool has one thread, which ends Futures and so runs the callbacks; while a callback waits for
    another Future a second one takes its place. What workers tell is noted by the listener's thread.

    Args:
        store: Where requests stand; closed with the engine.
        notifier: Wakes workers; closed with the engine.
        clock: Tells the time.
        timers: Calls back at instants; closed with the engine.
        price: Returns how many tokens a request is priced at.
        max_pending: Most requests of this process waiting, or None.
        max_pending_per_client: The same for each client.
        when_full: ``"block"`` or ``"raise"``.
        price_table: Prices.
        base_url: Where the requests may be sent only; None: wherever the workers send.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        notifier: Notifier,
        clock: Clock,
        timers: Timers,
        price: Callable[[Request], int],
        max_pending: int | None = None,
        max_pending_per_client: int | None = None,
        when_full: str = "block",
        price_table: PriceTable | None = None,
        base_url: str | None = None,
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self._timers = timers
        self._price = price
        self._base_url = base_url
        self._when_full = when_full
        self._reply = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._not_full = threading.Condition(self._lock)
        self._quiet = threading.Condition(self._lock)
        self._pool: WorkerPool[_Task] = WorkerPool(self, self._lock, clock, 1, "groq_queue-celery")
        self.inside = self._pool.inside
        self._submitted = SubmittedRequests(price_table or PriceTable(), max_pending, max_pending_per_client)
        self._tasks: deque[_Task] = deque()
        self._weights: dict[str, float] = {}
        reader = ReplyReader(store, self._submitted, self._not_full, clock, self._end_soon)
        self._listener = ReplyListener(
            store, clock, self._reply, on_news=reader.hear, on_doubt=reader.ask_all, on_end=self._disconnect
        )
        timers.on_refused = self._look_at_timers
        self._closes: list[Callable[[], None]] = []
        self._is_deaf = False  # the listener's thread was refused, and a timer tries again
        self._broken: dict[int, int] = {}  # times that tasks broke, by their id, while they are to be tried again
        self._is_closed = False
        self._is_sealed = False  # closed to callbacks too, which may submit while the queue drains
        self._pid = os.getpid()

    # -- what callers ask for

    def check_open(self) -> None:
        """Refuse if the queue was shut down, or came here by a fork; a callback may still submit while it drains.

        Raises:
            QueueClosed: It was.
        """
        if self._pid != os.getpid():
            raise QueueClosed(f"this queue was made in process {self._pid}, before a fork: make a new GroqQueue here")
        if self._is_closed and (self._is_sealed or not self._pool.is_inside()):
            raise QueueClosed("submit() after shutdown: make a new GroqQueue")

    def at_close(self, close: Callable[[], None], *, in_children: bool = True) -> None:
        """Call *close*, possibly more than once, when the last request has ended after ``shutdown``."""
        self._closes.append(close)

    def submit(
        self, request: Request, *, callback: Callable[[Future[Completion]], object] | None = None
    ) -> RequestFuture[Completion]:
        """Store a request for the workers; blocks while the queue is full, if so configured.

        Raises:
            QueueClosed: The queue was shut down.
            QueueFull: There is no room, and the queue does not block.
            QueueTimeout: Its time passed while the queue was full.
            ConfigurationError: A request with this custom_id has not ended yet.
            EngineUnavailable: Redis or the broker cannot be reached.
        """
        self.check_open()
        self._pool.ensure_one()
        future: RequestFuture[Completion] = RequestFuture(request, self)
        if callback is not None:
            future.add_done_callback(callback)
        with self._lock:
            self._wait_for_capacity(request)
            self.check_open()
            request.submitted_ns = self._clock.now_ns()
            request.future = future
            self._submitted.accept(request)
        try:
            if request.not_before_ns is None:
                self._send_out(request)
            else:
                self._send_later(request, request.not_before_ns)
        except BaseException:
            with self._lock:
                self._submitted.undo(request)
                self._not_full.notify_all()
                self._note_if_quiet()
            raise
        self._hear()
        for bound, after_ns in (("max_wait", request.max_wait_ns), ("deadline", request.deadline_ns)):
            if after_ns is not None:
                self._expire_after(request, bound, after_ns)
        return future

    def call_back(self, future: RequestFuture[Completion], callback: Callable[[Future[Completion]], object]) -> None:
        """Call *callback* when *future* has ended; if it has, a worker of the pool calls it."""
        if not future.call_at_end(callback):
            self._do(partial(future.call, callback))

    def attach(self, request_id: str) -> RequestFuture[Completion]:
        """Return a Future of a request that any process submitted.

        Raises:
            ConfigurationError: There is no request of that id.
            EngineUnavailable: Redis cannot be reached.
        """
        found = self._store.attach(request_id, self._reply)
        if found.status is None:
            raise ConfigurationError(
                f"request_id={request_id!r:.100}: {self._store.address} knows no such request; "
                "how a request ended is kept for an hour"
            )
        request = Request(
            model="", endpoint="", body=None, size=PromptSize(0, 0), priority=5, custom_id=found.custom_id,
            request_id=request_id,
        )  # fmt: skip
        future: RequestFuture[Completion] = RequestFuture(request, self)
        request.submitted_ns = self._clock.now_ns()
        request.future = future
        self._pool.ensure_one()
        with self._lock:
            self._submitted.accept(request)
            self._submitted.stored.add(request_id)
        if is_final(found.status):
            self._end_soon(request_id, decode_ending(found.status, found.ending, custom_id=request.custom_id))
        else:
            self._hear()
        return future

    def cancel(self, request: Request) -> bool:
        """Cancel a request that no worker is sending; see ``RequestFuture.cancel``.

        Raises:
            EngineUnavailable: Redis, which alone knows, cannot be reached.
        """
        with self._lock:
            if request.state is not State.PENDING:
                return request.state is State.CANCELLED
            is_here = request.id in self._submitted.open and request.id not in self._submitted.stored
        cancelled = Ending(State.CANCELLED)
        if not is_here and self._withdraw([request.id], cancelled) != [True]:
            return False
        self._end(request.id, cancelled)
        return True

    def cancel_all(self, is_meant: Callable[[Request | Group], bool]) -> int:
        """Cancel every request that *is_meant* and that no worker is sending; return how many.

        Raises:
            EngineUnavailable: Redis cannot be reached; those that it has go on.
        """
        with self._lock:
            meant = [request for request in self._submitted.pending() if is_meant(request)]
        return self._cancel_many(meant)

    def set_priority(self, request: Request, priority: int) -> bool:
        """Move a request that no worker has taken to the end of another level; False if one has."""
        with self._lock:
            if request.state is not State.PENDING:
                return False
            is_stored = request.id in self._submitted.stored
        if is_stored and not self._move(request.id, priority):
            return False
        with self._lock:
            if request.state is State.PENDING:
                self._submitted.change_priority(request, priority)
        return True

    def request_of(self, custom_id: str) -> Request | None:
        """Return the request of that custom_id that has not ended, or None."""
        with self._lock:
            return self._submitted.find(custom_id)

    def set_weight(self, client: str, weight: float) -> None:
        """Give what *client* submits here from now on that many times the turns of a client of weight 1."""
        with self._lock:
            self._weights[client] = weight

    def pause(self, model: str | None) -> None:
        """Refuse: the workers serve others too."""
        _refuse_pause()

    def resume(self, model: str | None) -> None:
        """Refuse, as ``pause``."""
        _refuse_pause()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every request of this process has ended; False if *timeout_s* passed first."""
        until_ns = None if timeout_s is None else self._clock.now_ns() + round(timeout_s * NS_PER_S)
        with self._lock:
            while self._submitted.open and not self._pool.is_inside():
                if until_ns is not None and self._clock.now_ns() >= until_ns:
                    return False
                self._clock.wait(self._quiet, until_ns)
            return not self._submitted.open

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Refuse new requests; let workers end the others, or cancel those that none is sending."""
        with self._lock:
            self._is_closed = True
            self._is_sealed = cancel_futures or self._is_sealed or self._pool.is_inside()
            self._not_full.notify_all()
            dropped = self._submitted.pending() if cancel_futures else []
        interrupt: BaseException | None = None
        try:
            self._cancel_many(dropped)
        except EngineUnavailable as error:  # the queue ends all the same: their Futures say why
            for request in dropped:
                self._end(request.id, Ending(State.FAILED, error=error.copy()))
        except BaseException as raised:
            interrupt = raised
        with self._lock:
            self._note_if_quiet()
            is_idle = self._pool.is_empty() and self.is_over()
        if is_idle:
            self.all_left()
        if isinstance(interrupt, KeyboardInterrupt):
            raise interrupt  # a Ctrl-C that came meanwhile: who is in a hurry does not wait
        if wait and not self._pool.is_inside():
            self.join()
            self._pool.join()
            self._timers.close(wait=True)
        if interrupt is not None:
            raise interrupt

    @property
    def is_kept(self) -> bool:
        """False: what ``leave`` counts was never given to the workers."""
        return False

    def leave(self, timeout_s: float) -> int:
        """Prepare for the end of the interpreter: what workers were to send, they still will.

        Returns:
            How many requests will never be sent, because this process kept them until their ``not_before``.
        """
        with self._lock:
            self._is_closed = self._is_sealed = True
            open_count = len(self._submitted.open)
            kept = sum(id not in self._submitted.stored for id in self._submitted.open)
        if open_count:
            _log.warning(
                "the program ends while %d of its requests are with the workers; GroqQueue.attach(request_id, ...) "
                "reads how they end, for an hour",
                open_count - kept,
                extra=log_fields("left_to_workers"),
            )
        return kept

    def stats(self) -> Stats:
        """Return one consistent snapshot of what this process submitted, as far as it has heard from Redis."""
        with self._lock:
            return self._submitted.stats(is_running=not self._is_closed)

    def facts(self) -> tuple[Stats, RunFacts]:
        """Return what a report is made of, as of one instant."""
        with self._lock:
            counters = self._submitted.counters
            return self.stats(), counters.history.facts(self._clock.now_ns(), counters.mean_flight_ns())

    def info(self, request: Request) -> RequestInfo:
        """Return one request's state."""
        with self._lock:
            return info_at(request, self._price(request), self._clock.now_ns())

    def explain(self, request: Request) -> Explanation:
        """Return why a request waits; when it starts only the workers could tell."""
        with self._lock:
            state, is_stored = request.state, request.id in self._submitted.stored
        reason = None
        if state is State.PENDING:
            reason = "its not_before" if not is_stored else "its turn at the workers"
            if is_stored and not self._store.workers():
                reason = "a worker: none is running; start one with `groq-queue worker`"
        return Explanation(request.id, request.custom_id, state.value, None, reason, None)

    def blocking_section(self) -> AbstractContextManager[None]:
        """Let another thread end Futures while the calling one waits for one."""
        return self._pool.blocking_section()

    def keep(self, future: RequestFuture[Completion], row_id: int) -> None:
        """Not called: there is no journal."""

    # -- what the pool asks for

    def find_job(self) -> tuple[_Task | None, int | None]:
        """Return the next thing to be done."""
        return (self._tasks.popleft() if self._tasks else None), self._timers.due_without_thread_ns()

    def has_more(self) -> bool:
        """Return whether anything is left to be done."""
        return bool(self._tasks)

    def is_over(self) -> bool:
        """Return whether there will never be anything to do again."""
        return self._is_closed and not self._submitted.open and not self._tasks

    def prepare(self) -> None:
        """Do what is due if the system refuses the thread that would."""
        self._timers.run_due()

    def is_prepared(self) -> bool:
        """Return whether ``prepare`` has certainly nothing to do."""
        return self._timers.due_without_thread_ns() is None

    def run(self, job: _Task) -> None:
        """Do it."""
        job()
        self._broken.pop(id(job), None)

    def broke(self, job: _Task | None, error: BaseException) -> bool:
        """Try some times more what a bug, or no memory, kept from being done, and log it."""
        times = self._broken.pop(id(job), 0) + 1
        if times == 1 or times >= _MOST_TRIES:
            _log.error(
                "a Future could not be ended%s: a bug, or no memory was left",
                "" if times >= _MOST_TRIES else " and is tried again",
                exc_info=error,
                extra=log_fields("attempt_broke"),
            )
        if job is None:
            return False
        if times < _MOST_TRIES:
            with self._lock:
                self._broken[id(job)] = times
                self._tasks.append(job)
        return times < 2

    def all_left(self) -> None:
        """Close what the engine was given: all of it, though one part, or the user's clock, may fail."""
        close_all([partial(self._timers.close, wait=False), self._listener.close, *self._closes])

    # -- under the lock

    def _wait_for_capacity(self, request: Request) -> None:
        """Wait until there is room, or raise; callbacks never wait, because they make the room."""
        bounds = request.bounds_ns
        until_ns = self._clock.now_ns() + min(bounds) if bounds else None
        while not self._submitted.has_room(request.client) and not self._is_closed:
            if self._when_full == "raise":
                raise self._submitted.full(request, self._clock.now_ns())
            if self._pool.is_inside():
                return
            if until_ns is not None and self._clock.now_ns() >= until_ns:
                raise failures.timed_out(request, "max_wait or deadline", min(bounds), "room")
            self._clock.wait(self._not_full, until_ns)

    def _note_if_quiet(self) -> None:
        if not self._submitted.open:
            self._quiet.notify_all()
            if self._is_closed:
                self._pool.dismiss()

    def _look_at_timers(self) -> None:
        """Wake a worker to run due timers, since no timer thread could be started.

        A worker that waits already does not know of the latest timer.
        """
        with self._lock:
            self._pool.wake()

    # -- outside the lock

    def _hear(self) -> None:
        """Start the listener; a thread that is refused is asked for again soon."""
        if self._is_deaf or self._listener.begin():
            return
        self._is_deaf = True
        self._timers.after(_TRY_AGAIN_S, self._hear_again)

    def _hear_again(self) -> None:
        self._is_deaf = False
        self._hear()

    def _send_out(self, request: Request) -> None:
        """Store a request and wake a worker.

        Raises:
            EngineUnavailable: Redis or the broker cannot be reached, and no worker will get it.
        """
        with self._lock:
            weight = self._weights.get(request.client, 1.0)
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
            # faster, or Redis is away now too, it is accepted: workers also look for requests without a wake-up call.
            if self._is_taken_back(request.id):
                raise
        with self._lock:
            if request.id in self._submitted.open:
                self._submitted.stored.add(request.id)
            request.body = None  # Redis has it

    def _send_later(self, request: Request, after_ns: int) -> None:
        request.timers += (
            self._timers.at(request.submitted_ns + after_ns, lambda: self._do(lambda: self._send_due(request))),
        )

    def _send_due(self, request: Request) -> None:
        with self._lock:
            if request.state is not State.PENDING or request.id not in self._submitted.open:
                return
        request.not_before_ns = None
        try:
            self._send_out(request)
        except EngineUnavailable as error:
            _log.warning(
                "%s is not handed to the workers yet, tried again every %g s: %s",
                request,
                _TRY_AGAIN_S,
                error,
                extra=log_fields("store_away", request),
            )
            self._timers.after(_TRY_AGAIN_S, lambda: self._do(lambda: self._send_due(request)))

    def _withdraw(self, ids: Sequence[str], ending: Ending) -> list[bool]:
        """Let requests that no worker is sending end so, and return for each whether it does.

        Raises:
            EngineUnavailable: Redis cannot be reached; some may have ended so.
        """
        answers = self._store.withdraw(ids, ending.state.value, encode_ending(ending)) if ids else []
        return [answer == 1 for answer in answers]

    def _is_taken_back(self, id: str) -> bool:
        try:
            return self._withdraw([id], Ending(State.CANCELLED)) == [True]
        except EngineUnavailable:
            return False

    def _move(self, id: str, priority: int) -> bool:
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

    def _disconnect(self) -> None:
        """Close the connections, once the listener for replies has ended."""
        self._store.forget_replies(self._reply)
        self._store.close()
        self._notifier.close()

    def _cancel_many(self, requests: Sequence[Request]) -> int:
        with self._lock:
            stored = [request.id for request in requests if request.id in self._submitted.stored]
            here = [request.id for request in requests if request.id not in self._submitted.stored]
        cancelled = Ending(State.CANCELLED)
        withdrawn = self._withdraw(stored, cancelled)
        done = here + [id for id, is_cancelled in zip(stored, withdrawn, strict=True) if is_cancelled]
        interrupt: BaseException | None = None
        for id in done:
            try:
                self._end(id, cancelled)
            except BaseException as raised:  # a Ctrl-C out of a callback must not leave the others open
                interrupt = interrupt or raised
        if interrupt is not None:
            raise interrupt
        return len(done)

    def _expire_after(self, request: Request, bound: str, after_ns: int) -> None:
        call_off = self._timers.at(
            request.submitted_ns + after_ns, lambda: self._do(lambda: self._expire(request, bound, after_ns))
        )
        with self._lock:
            if request.future is not None:
                request.timers += (call_off,)
                return
        call_off()  # it has ended meanwhile

    def _expire(self, request: Request, bound: str, after_ns: int) -> None:
        """End a request whose ``max_wait`` or ``deadline`` has come while it waits."""
        with self._lock:
            is_waiting = request.state is State.PENDING and request.id in self._submitted.open
            if not is_waiting or (bound == "max_wait" and request.attempts):
                return
            is_stored = request.id in self._submitted.stored
            error = failures.timed_out(request, bound, after_ns, "its turn at the workers")
        expired = Ending(State.EXPIRED, error=error, attempts=request.attempts)
        try:
            if is_stored and self._withdraw([request.id], expired) != [True]:
                return
        except EngineUnavailable:
            self._timers.after(_TRY_AGAIN_S, lambda: self._do(lambda: self._expire(request, bound, after_ns)))
            return
        self._end(request.id, expired)

    def _do(self, task: _Task) -> None:
        """Give *task* to the pool."""
        with self._lock:
            self._tasks.append(task)
            self._pool.wake()
        self._pool.grow()

    def _end_soon(self, id: str, ending: Ending) -> None:
        """Let a worker of the pool end the Future of a request."""
        self._do(partial(self._end, id, ending))

    def _end(self, id: str, ending: Ending) -> None:
        """End the Future of a request, unless it was ended before, and forget what it held."""
        with self._lock:
            request = self._submitted.end(id, ending, self._clock.now_ns()) or self._submitted.half_ended(id)
            self._not_full.notify_all()
            future = None if request is None else request.future
            if request is None or future is None:
                return
            request.future = None
        for call_off in request.timers:
            call_off()
        request.timers = ()
        request.body = None
        inside = self._pool.inside
        depth = inside.depth
        inside.depth = depth + 1
        try:
            if ending.state is State.CANCELLED:
                future.end_cancelled()
            else:
                future.end(ending.result, ending.error)
        finally:
            inside.depth = depth
            with self._lock:
                if future.done():
                    self._submitted.let_go(request)
                    self._note_if_quiet()
                else:  # there was no memory: the pool tries again
                    request.future = future
            if not depth and not future.done():
                self._end_soon(id, ending)


def _refuse_pause() -> NoReturn:
    raise ConfigurationError(
        "pause: with engine='celery' the workers serve other processes too; stop workers instead "
        "(what waits stays stored), or start them again to resume"
    )

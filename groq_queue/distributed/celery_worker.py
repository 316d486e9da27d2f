"""A worker process: one Celery worker for each lane, all in front of one embedded engine.

Each lane has a consumer, a connection and a pool of threads of its own, so urgent requests find a thread whatever
the other lanes are busy with; the budget they share, and so their order, is the engine's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from groq_queue.distributed.wakeups import LANES, TASK, BrokerQueue, make_app
from groq_queue.distributed.worker import start
from groq_queue.engine.log import log_fields
from groq_queue.errors import EngineUnavailable
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_REST_S = (0.5, 1.0, 2.0, 5.0)  # between two tries to consume while the broker refuses it; the last one again and again
_MOST_BREAKS = 5  # in a row, each within a minute of the one before: then a bug keeps a lane from being served
_HELD_S = 60.0
_IDLE_S = 1.0  # a consumer looks up at least so often, to see whether it is to stop
_LOOK_S = 0.2  # and so often while a call may have ended that is still to be acknowledged
_NOW_S = 0.01


class LaneWorkers:
    """The Celery workers of one process.

    Args:
        broker: Its address.
        threads: ``{lane: threads}``.
        name: Of this process; each Celery worker is called ``<lane>@<name>``.
        work: Called on a thread of a lane for each wake-up call; works until nothing waits there.
        on_dead: Called when a lane is served no more though it was not stopped.
    """

    def __init__(
        self,
        broker: str,
        threads: dict[str, int],
        name: str,
        work: Callable[[BrokerQueue], int],
        on_dead: Callable[[], None],
    ) -> None:
        self._on_dead = on_dead
        self._stopping = threading.Event()
        self._threads = []
        for lane in LANES:
            if lane.name in threads:
                outage = _Outage(lane, self._stopping)
                make = partial(_controller, broker, lane, threads[lane.name], name, work, outage)
                self._threads.append(
                    threading.Thread(
                        target=self._serve,
                        args=(lane, make, make()),  # the first one here, so that the caller gets its error at once
                        name=f"groq_queue-{lane.name}",
                        daemon=True,
                    )
                )

    def start(self) -> None:
        """Take wake-up calls from now on.

        Raises:
            GroqQueueError: The system refuses a thread; ``stop`` ends those that it did not.
        """
        unstarted, self._threads = self._threads, []
        for thread in unstarted:
            start(thread)
            self._threads.append(thread)

    def stop(self) -> None:
        """Take no more calls; returns at once. No worker of this process starts again."""
        from celery.worker import state

        self._stopping.set()
        state.should_stop = 0  # type: ignore[assignment]  # an exit code, says its code; None, say its stubs

    def join(self) -> None:
        """Wait until every call that was taken has ended."""
        for thread in self._threads:
            thread.join()

    def _serve(self, lane: BrokerQueue, make: Callable[[], Any], controller: Any) -> None:
        """Run Celery workers, one after the other, until stopped: what a broker refuses for a while ends none.

        One that breaks all the same is replaced. One that breaks again and again leaves its lane without a consumer,
        which must not go unnoticed.
        """
        breaks = 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            error: BaseException | None = None
            try:
                if controller is None:
                    controller = make()
                controller.start()
            except BaseException as raised:  # a bug, or no memory; the lane must not stay without a consumer
                error = raised
            if self._stopping.is_set():
                return
            was_shut_down = isinstance(getattr(controller, "exitcode", None), str)  # by `celery control shutdown`
            controller = None
            breaks = 1 if time.monotonic() - began_s > _HELD_S else breaks + 1
            if was_shut_down or breaks >= _MOST_BREAKS:
                self._on_dead()
                return
            _log.error(
                "the consumer of lane %s failed and is started again: a bug, or no memory was left",
                lane.name,
                exc_info=error,
                extra=log_fields("attempt_broke"),
            )
            self._stopping.wait(_REST_S[0])


class _Outage:
    """A time in which the broker refuses what a lane needs, such as room for a word. Used by the lane's thread alone.

    Args:
        lane: The lane.
        stopping: Set when every wait is to end.
    """

    def __init__(self, lane: BrokerQueue, stopping: threading.Event) -> None:
        self._lane = lane
        self._stopping = stopping
        self._tries = 0

    def met(self, error: BaseException) -> None:
        """Log the outage when it begins, and rest before the next try."""
        if not self._tries:
            _log.warning(
                "lane %s cannot be served, tried again at least every %g s: the broker refuses it (%s: %s)",
                self._lane.name,
                _REST_S[-1],
                type(error).__name__,
                error,
                extra=log_fields("store_away"),
            )
        rest_s = _REST_S[min(self._tries, len(_REST_S) - 1)]
        self._tries += 1
        self._stopping.wait(rest_s)

    def over(self) -> None:
        """Log that the outage is over, if there was one."""
        if self._tries:
            self._tries = 0
            _log.warning("lane %s is served again", self._lane.name, extra=log_fields("store_back"))


def _controller(
    broker: str, lane: BrokerQueue, threads: int, name: str, work: Callable[[BrokerQueue], int], outage: _Outage
) -> Any:
    from celery.worker import WorkController

    app = make_app(broker)

    @app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
    def take_next() -> int:
        try:
            return work(lane)
        except EngineUnavailable as error:  # the next sweep sends the wake-up call again
            _log.warning(
                "a wake-up of lane %s is dropped, another one follows: %s",
                lane.name,
                error,
                extra=log_fields("store_away"),
            )
            return 0
        except BaseException:  # a call that ends so would never be acknowledged, and keep its thread's place for ever
            _log.exception(
                "a call of lane %s broke: a bug, or no memory was left", lane.name, extra=log_fields("attempt_broke")
            )
            return 0

    app.finalize()
    app.conf.worker_consumer = _consumer_class(outage)
    return WorkController(
        app=app,
        hostname=f"{lane.name}@{name}",
        queues=[lane.queue],
        concurrency=threads,
        pool_cls=_pool_class(app),
        use_eventloop=False,  # kombu has one event loop for a process, and there are several consumers in this one
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )


def _pool_class(app: Any) -> type[Any]:
    """Return Celery's pool of threads, each of which knows whose tasks it runs: there are several apps here."""
    from concurrent.futures import ThreadPoolExecutor

    from celery.concurrency.thread import TaskPool

    class LanePool(TaskPool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.executor = ThreadPoolExecutor(self.limit, "groq_queue-lane", initializer=app.set_current)

    return LanePool


def _consumer_class(outage: _Outage) -> type[Any]:
    """Return Celery's consumer with a loop that can wait in a thread of its own."""
    from celery.worker import state
    from celery.worker.consumer import Consumer
    from kombu.common import ignore_errors

    bootsteps: Any = import_module("celery.bootsteps")  # whose stubs do not name RUN

    class LaneConsumer(Consumer):
        """Acknowledges on the thread that reads, and takes no calls beyond its threads.

        Celery's own blocking loop sleeps for two seconds on end while every thread is busy, and does not notice
        when one becomes free.
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._freed = threading.Event()
            self._todo: deque[Callable[[], Any]] = deque()
            super().__init__(*args, **kwargs)

        def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            self._todo.append(partial(p, *args, **kwargs))
            self._freed.set()

        call_soon_ack = call_soon  # another thread must not write into the connection that this one reads

        def on_connection_error_after_connected(self, exc: Exception) -> None:
            """Begin anew: at once over a new connection if this one broke, after a rest if the broker refuses."""
            if self._is_lost(exc):
                super().on_connection_error_after_connected(exc)
                return
            connection: Any = self.connection
            self.connection = None
            with ignore_errors(connection):
                connection.collect()
            outage.met(exc)

        def on_connection_error_before_connected(self, exc: Exception) -> None:
            if self._is_lost(exc):
                super().on_connection_error_before_connected(exc)
            else:
                outage.met(exc)

        def _is_lost(self, error: Exception) -> bool:
            """Return whether the connection broke, else the broker refused the command."""
            errors: tuple[type[Exception], ...] = self.connection_errors  # type: ignore[attr-defined]
            return isinstance(error, errors)

        def perform_pending_operations(self) -> None:
            while self._todo:
                try:
                    self._todo.popleft()()
                except Exception as error:
                    # It came over a connection that is lost by now, and comes again over another one: no harm.
                    _log.debug("a call is not acknowledged: %r", error, extra=log_fields("store_away"))

        def loop(  # replaces an attribute of Celery's consumer, called with exactly these
            self, obj: Any, connection: Any, consumer: Any, blueprint: Any, hub: Any, qos: Any, *_: Any, **__: Any
        ) -> None:
            # Else kombu tries to put calls back over the connection that it closes because it is broken, and the
            # error that this raises ends the consumer for good. A call that is lost is made again by who sweeps.
            consumer.channel.do_restore = connection.default_channel.do_restore = False
            consumer.on_message = self.create_task_handler()
            consumer.consume()
            self.on_ready()
            outage.over()  # on the way here much was written
            while blueprint.state == bootsteps.RUN and self.connection:
                state.maybe_shutdown()
                if qos.prev != qos.value:
                    qos.update()
                self._freed.clear()
                self.perform_pending_operations()
                timeout_s = _LOOK_S
                can_consume = getattr(getattr(consumer.channel, "qos", None), "can_consume", None)
                if can_consume is not None:
                    timeout_s = _IDLE_S if can_consume() else _NOW_S
                    if timeout_s == _NOW_S:  # every thread is busy: nothing will come but commands
                        self._freed.wait(_LOOK_S)
                try:
                    connection.drain_events(timeout=timeout_s)
                except TimeoutError:
                    pass
                except OSError:
                    if blueprint.state == bootsteps.RUN:
                        raise

    return LaneConsumer

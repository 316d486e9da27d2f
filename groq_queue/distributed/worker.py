"""A worker process: one Celery worker for each lane, all in front of one embedded engine.

Each lane has a consumer, a connection and a pool of threads of its own, so urgent requests find a thread whatever
the other lanes are busy with; the budget they share, and so their order, is the engine's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from groq_queue.distributed.broker import TASK, make_app
from groq_queue.distributed.lanes import LANES, Lane
from groq_queue.engine.log import told
from groq_queue.errors import EngineUnavailable
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

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
        on_dead: Called when a lane is served no more though nobody has stopped it.
    """

    def __init__(
        self,
        broker: str,
        threads: dict[str, int],
        name: str,
        work: Callable[[Lane], int],
        on_dead: Callable[[], None],
    ) -> None:
        self._on_dead = on_dead
        self._is_stopping = False
        self._threads = [
            threading.Thread(
                target=self._serve,
                args=(_controller(broker, lane, threads[lane.name], name, work),),
                name=f"groq_queue-{lane.name}",
                daemon=True,
            )
            for lane in LANES
            if lane.name in threads
        ]

    def start(self) -> None:
        """Take wake-up calls from now on."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no more calls; returns at once. No worker of this process starts again."""
        from celery.worker import state

        self._is_stopping = True
        state.should_stop = 0  # type: ignore[assignment]  # an exit code, says its code; None, say its stubs

    def join(self) -> None:
        """Wait until every call that was taken has ended."""
        for thread in self._threads:
            thread.join()

    def _serve(self, controller: Any) -> None:
        """Run a Celery worker; one that ends by itself leaves its lane to nobody, which must not go unnoticed."""
        try:
            controller.start()
        finally:
            if not self._is_stopping:
                self._on_dead()


def _controller(broker: str, lane: Lane, threads: int, name: str, work: Callable[[Lane], int]) -> Any:
    from celery.worker import WorkController

    app = make_app(broker)

    @app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
    def take_next() -> int:
        try:
            return work(lane)
        except EngineUnavailable as error:  # whoever sweeps calls again
            _log.warning(
                "a wake-up of lane %s is dropped, another one follows: %s", lane.name, error, extra=told("store_away")
            )
            return 0

    app.finalize()
    app.conf.worker_consumer = _consumer_class()
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


def _consumer_class() -> type[Any]:
    """Return Celery's consumer with a loop that can wait in a thread of its own."""
    from celery.worker import state
    from celery.worker.consumer import Consumer

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

        def perform_pending_operations(self) -> None:
            while self._todo:
                try:
                    self._todo.popleft()()
                except Exception as error:
                    # It came over a connection that is lost by now, and comes again over another one: no harm.
                    _log.debug("a call is not acknowledged: %r", error, extra=told("store_away"))

        def loop(  # replaces an attribute of Celery's consumer, called with exactly these
            self, obj: Any, connection: Any, consumer: Any, blueprint: Any, hub: Any, qos: Any, *_: Any, **__: Any
        ) -> None:
            # Else kombu tries to put calls back over the connection that it closes because it is broken, and the
            # error that this raises ends the consumer for good. A call that is lost is made again by who sweeps.
            consumer.channel.do_restore = connection.default_channel.do_restore = False
            consumer.on_message = self.create_task_handler()
            consumer.consume()
            self.on_ready()
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

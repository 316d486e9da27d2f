"""The Celery app that submitters and workers share: one task, three queues, JSON only.

Its messages are wake-up calls without content: see the package. Each of the three queues has threads that less
urgent requests cannot occupy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from groq_queue.distributed.job_store import shown_address
from groq_queue.errors import ConfigurationError, EngineUnavailable, MissingExtraError

TASK = "groq_queue.take_next"
_MOST_THREADS = 1_000

_SETTINGS = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_create_missing_queues": False,
    "task_default_queue": "gq.normal",
    "worker_pool": "threads",
    "worker_prefetch_multiplier": 1,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,  # what a broker refuses, such as a word more while it is full, it takes later
    "broker_connection_timeout": 2,
}
_REDIS_OPTIONS = {
    # A call that is delivered twice finds another request or none: this need not be longer than a task takes.
    "visibility_timeout": 3_600,
    "socket_connect_timeout": 2,
    "socket_timeout": 10,
    "socket_keepalive": True,
}


class BrokerQueue(NamedTuple):
    """One queue of the broker, and the priorities of the requests it is for, both ends included."""

    name: str
    first: int
    last: int

    @property
    def queue(self) -> str:
        """Its name in the broker."""
        return f"gq.{self.name}"


LANES = (BrokerQueue("urgent", 0, 4), BrokerQueue("normal", 5, 5), BrokerQueue("bulk", 6, 10))
DEFAULT_THREADS = {"urgent": 4, "normal": 8, "bulk": 8}


def lane_for(priority: int) -> BrokerQueue:
    """Return the lane of requests of that priority.

    >>> lane_for(1).name, lane_for(5).name, lane_for(10).queue
    ('urgent', 'normal', 'gq.bulk')
    """
    return next(lane for lane in LANES if priority <= lane.last)


def parse_lanes(text: str) -> dict[str, int]:
    """Return ``{lane: threads}`` of ``"urgent:4,normal:8"``; lanes that are left out are not served.

    >>> parse_lanes("urgent:2,bulk:16")
    {'urgent': 2, 'bulk': 16}

    Raises:
        ConfigurationError: It has another form.
    """
    known = [lane.name for lane in LANES]
    threads: dict[str, int] = {}
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        if name not in known or name in threads or not count.isdecimal() or not 1 <= int(count) <= _MOST_THREADS:
            raise ConfigurationError(
                f"lanes={text!r:.100}: use lane:threads, separated by commas, such as urgent:4,normal:8,bulk:8 "
                f"(1 to {_MOST_THREADS:,} threads each)"
            )
        threads[name] = int(count)
    return threads


def make_app(broker: str) -> Any:
    """Return a Celery app of that broker; nothing is connected yet.

    Raises:
        ConfigurationError: The address names no broker that is supported.
        MissingExtraError: Celery is not installed.
    """
    scheme = check_broker(broker)
    try:
        from celery import Celery
        from kombu import Queue

        if scheme.startswith("redis"):
            import redis  # noqa: F401 - without it kombu fails later, with an AttributeError
    except ImportError:
        raise MissingExtraError.needed("engine='celery'", "celery") from None
    app = Celery("groq_queue", broker=broker, set_as_current=False, fixups=[])
    app.conf.update(
        _SETTINGS,
        broker_transport_options={} if scheme.startswith("amqp") else dict(_REDIS_OPTIONS),
        task_queues=[Queue(lane.queue, routing_key=lane.queue) for lane in LANES],
    )
    return app


def check_broker(broker: str) -> str:
    """Return the scheme of an address.

    Raises:
        ConfigurationError: It names no broker that is supported.
    """
    scheme = broker.partition("://")[0]
    if scheme not in ("redis", "rediss", "amqp", "amqps") or "://" not in broker:
        raise ConfigurationError(
            f"broker={shown_address(broker)!r:.100}: use redis://host:6379/0, rediss://… or amqp://user@host//"
        )
    return scheme


class Notifier:
    """Rings for a free worker: sends messages to the broker; safe to use from many threads."""

    def __init__(self, broker: str) -> None:
        self._app = make_app(broker)
        self._address = shown_address(broker)
        app = self._app
        self._trouble = (*app.connection_for_write().connection_errors, *app.connection_for_write().channel_errors)

    def notify(self, lane: BrokerQueue, times: int = 1) -> None:
        """Send wake-up calls.

        Raises:
            EngineUnavailable: The broker cannot be reached.
        """
        try:
            with self._app.producer_or_acquire() as producer:
                for _ in range(times):
                    self._app.send_task(TASK, queue=lane.queue, producer=producer, retry=False, ignore_result=True)
        except self._errors() as problem:
            raise EngineUnavailable(
                f"the broker at {self._address} cannot be used ({type(problem).__name__}: {problem}): "
                "see that it runs and that this address reaches it, then submit again",
                address=self._address,
            ) from None

    def waiting(self, lane: BrokerQueue) -> int:
        """Return how many calls no worker has answered yet.

        Raises:
            EngineUnavailable: The broker cannot be reached.
        """
        try:
            with self._app.connection_or_acquire() as connection, connection.channel() as channel:
                queue = self._app.amqp.queues[lane.queue].bind(channel)
                return int(queue.queue_declare().message_count)
        except self._errors() as problem:
            raise EngineUnavailable(f"the broker at {self._address}: {problem}", address=self._address) from None

    def close(self) -> None:
        """Let go of the connections."""
        self._app.close()

    def _errors(self) -> tuple[type[Exception], ...]:
        from kombu.exceptions import OperationalError

        return (*self._trouble, OperationalError, OSError)

"""Joins the rooms into one queue, or into one worker of ``engine="celery"``."""

from __future__ import annotations

import itertools
import os
import random
import socket
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from groq_queue.clock import Clock, SystemClock
from groq_queue.core.response import Completion
from groq_queue.engine.attempt import Runner
from groq_queue.engine.background import BackgroundTask, Timers
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.log import log_fields
from groq_queue.engine.observer import Observed
from groq_queue.engine.protocols import Attempts, Engine
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.errors import ConfigurationError
from groq_queue.limiters.in_process import ProcessLimiter
from groq_queue.logger import SafeLogger
from groq_queue.transport import make_transport
from groq_queue.wiring.accounts import Account, AccountBackend, AccountRouter, Accounts, Limiter
from groq_queue.wiring.admission import Admission, Intake
from groq_queue.wiring.settings import Settings

if TYPE_CHECKING:
    from groq_queue.distributed.celery_engine import CeleryEngine
    from groq_queue.wiring.durable import JournalBridge

_log = SafeLogger("groq_queue")


class Parts(NamedTuple):
    """What a queue consists of."""

    engine: Engine
    limiter: Limiter
    admission: Admission
    bridge: JournalBridge | None
    intake: Intake


def assemble(settings: Settings, around: Callable[[Attempts], Attempts] | None = None) -> Parts:
    """Build the parts of a queue; nothing is sent before ``JournalBridge.resume`` or the first ``submit``.

    Args:
        settings: Of the queue.
        around: Wraps the attempts, or None.

    Raises:
        ConfigurationError: Another open queue of the account counts in other periods.
        JournalError: The journal cannot be used.
    """
    if settings.engine is not None:
        return _assemble_shared(settings)
    clock = settings.clock
    timers = Timers(clock, "groq_queue")
    closes: list[Callable[[], None]] = []
    attempts, limiter = _joined(_backends(settings, timers, closes), settings.resolved_accounts)
    try:
        admission = Admission(
            limiter,
            settings.price_table,
            is_capped=settings.max_cost is not None,
            by_tokens=settings.fair_by == "tokens",
        )
        bridge = None
        if settings.journal is not None:
            attempts, bridge = _with_journal(settings, attempts, limiter, admission, timers)
        if around is not None:
            attempts = around(attempts)
    except BaseException:  # a queue that was not made must leave no limits behind
        limiter.close(clock.now_ns())
        raise
    engine = ThreadEngine(
        attempts=attempts,
        meter_of=limiter.meter,
        clock=clock,
        timers=timers,
        max_workers=settings.max_workers,
        max_pending=settings.max_pending,
        max_pending_per_client=settings.max_pending_per_client,
        when_full=settings.when_full,
        max_in_flight=settings.max_concurrency,
        ageing_ns=settings.ageing_ns,
        raises_daily=settings.on_daily_limit == "raise",
        price_table=settings.price_table,
        max_usd=settings.max_cost,
        keeper=bridge,
    )
    admission.critical_section = engine.critical_section
    for close in closes:
        engine.at_close(close)
    if bridge is not None:
        # Before the limiter forgets the limits whose levels it stores.
        engine.at_close(bridge.close, in_children=False)
    engine.at_close(lambda: limiter.close(clock.now_ns()))
    return Parts(engine, limiter, admission, bridge, Intake(admission, bridge, engine))


def _backends(settings: Settings, timers: Timers, closes: list[Callable[[], None]]) -> dict[Account, AccountBackend]:
    """Return for each account who sends and who counts; what is to be closed is added to *closes*."""
    clock = settings.clock
    backends: dict[Account, AccountBackend] = {}
    try:
        for account in settings.resolved_accounts.all():
            transport = make_transport(
                base_url=account.base_url,
                key=account.key,
                session=settings.session,
                max_connections=settings.max_workers,
                max_response_bytes=settings.max_response_bytes,
                alarm=timers.after,
                allow_http=settings.allow_http,
            )
            closes.append(transport.close)
            attempts: Attempts = Runner(transport, settings.policy, settings.timeout_s, clock, random.Random())
            if settings.observers:
                attempts = Observed(attempts, settings.observers, clock)
            backends[account] = AccountBackend(attempts, _limiter(settings, account))
    except BaseException:
        for backend in backends.values():
            backend.limiter.close(clock.now_ns())
        raise
    return backends


def _limiter(settings: Settings, account: Account) -> Limiter:
    """Return where the budgets of an account are counted.

    Raises:
        ConfigurationError: The address of a shared one is no address.
        LimiterUnavailable: It cannot be used.
    """
    clock = settings.clock
    if settings.limiter is None:
        billed_to = account.billing_id + _time_of(clock)
        return ProcessLimiter(settings.limits, account.base_url, billed_to, clock.now_ns(), settings.margin)
    from groq_queue.limiters.shared import SharedLimiter
    from groq_queue.limiters.store import open_store

    return SharedLimiter(
        open_store(settings.limiter, clock),
        settings.limits,
        account.base_url,
        account.billing_id,
        clock,
        hire=lambda client: BackgroundTask(client, clock, "groq_queue-limiter"),
        margin=settings.margin,
        on_outage=settings.on_outage,
    )


_clocks: weakref.WeakKeyDictionary[Clock, int] = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)


def _time_of(clock: Clock) -> str:
    """Name the time that *clock* tells: queues share budgets only if an instant of one means the same to the other."""
    if type(clock) is SystemClock:
        return ""
    try:
        return f" on clock {_clocks.setdefault(clock, next(_numbers))}"
    except TypeError:  # it takes no weak reference, or cannot be hashed
        return f" on clock {next(_numbers)}"


def _joined(backends: Mapping[Account, AccountBackend], resolved_accounts: Accounts) -> tuple[Attempts, Limiter]:
    """Return who sends and who counts: the one account, or a router between several."""
    default = None if resolved_accounts.default is None else backends[resolved_accounts.default]
    if default is not None and not resolved_accounts.by_model:
        return default.attempts, default.limiter
    router = AccountRouter({model: backends[account] for model, account in resolved_accounts.by_model.items()}, default)
    return router, router


def _with_journal(
    settings: Settings, attempts: Attempts, limiter: Limiter, admission: Admission, timers: Timers
) -> tuple[Attempts, JournalBridge]:
    """Open the journal, decide about what was on its way, and join it to what runs the attempts."""
    from groq_queue.journal import Journal
    from groq_queue.wiring.durable import JournalBridge, JournaledAttempts

    assert settings.journal is not None
    journal = Journal.open(settings.journal, durability=settings.durability, clock=settings.clock)
    try:
        found = journal.recover(on_unknown=settings.on_unknown)
    except BaseException:
        journal.close()
        raise
    if any(found):
        _log.warning(
            "journal %s: of the requests on their way when the last process ended, %d are sent again, "
            "%d failed because that happened too often, %d are held",
            journal.path, *found, extra=log_fields("journal_recovered"),
        )  # fmt: skip
    bridge = JournalBridge(
        journal,
        limiter=limiter,
        account=settings.resolved_accounts.name,
        clock=settings.clock,
        timers=timers,
        prepare=admission.prepare,
    )
    return JournaledAttempts(attempts, journal, may_repeat=settings.on_unknown == "resend"), bridge


# -- a queue whose requests workers send, and such a worker. Only they import ``distributed``.


class Addresses(NamedTuple):
    """Where the messages go, and where the requests are kept."""

    broker: str
    state: str


def addresses_of(broker: str | None, state: str | None) -> Addresses:
    """Check and complete the two addresses.

    Raises:
        ConfigurationError: One is missing or of an unknown kind.
    """
    from groq_queue.distributed.job_store import shown_address
    from groq_queue.distributed.wakeups import check_broker

    broker = broker or os.environ.get("GROQ_QUEUE_BROKER")
    if broker is None:
        raise ConfigurationError(
            'broker: none given and GROQ_QUEUE_BROKER is not set; engine="celery" needs one, '
            'such as broker="redis://127.0.0.1:6379/0"'
        )
    scheme = check_broker(broker)
    if state is None and not scheme.startswith("redis"):
        raise ConfigurationError(
            f"state: with broker={shown_address(broker)!r} requests are stored in a Redis: name it, "
            'such as state="redis://127.0.0.1:6379/0"'
        )
    state = state or broker
    if state.partition("://")[0] not in ("redis", "rediss", "unix"):
        raise ConfigurationError(f"state={shown_address(state)!r:.100}: use redis://host:6379/0 or rediss://…")
    return Addresses(broker, state)


def _assemble_shared(settings: Settings) -> Parts:
    """Build the parts of a queue with ``engine="celery"``, whose requests workers send.

    Raises:
        ConfigurationError: An address cannot be used.
        MissingExtraError: Celery or redis is not installed.
    """
    from groq_queue.distributed.job_store import shown_address

    clock = settings.clock
    engine_of, addresses = _opened(settings.broker, settings.state, clock)
    limiter = ProcessLimiter(settings.limits, shown_address(addresses.broker), "celery", clock.now_ns())
    try:
        admission = Admission(limiter, settings.price_table, is_capped=False, by_tokens=settings.fair_by == "tokens")
        engine = engine_of(
            price=lambda request: limiter.meter(request.lane, request.model).price(request.size).tokens,
            max_pending=settings.max_pending,
            max_pending_per_client=settings.max_pending_per_client,
            when_full=settings.when_full,
            price_table=settings.price_table,
            base_url=settings.only_base_url,
        )
    except BaseException:
        limiter.close(clock.now_ns())
        raise
    engine.at_close(lambda: limiter.close(clock.now_ns()))
    return Parts(engine, limiter, admission, None, Intake(admission, None, engine))


def attach(request_id: str, broker: str | None, state: str | None) -> RequestFuture[Completion]:
    """Return a Future of a request that any process submitted.

    Raises:
        ConfigurationError: Redis does not know it, or an address cannot be used.
        EngineUnavailable: Redis cannot be reached.
    """
    engine_of, _ = _opened(broker, state, SystemClock())
    engine = engine_of(price=lambda request: 0)
    try:
        return engine.attach(request_id)
    finally:
        engine.shutdown(wait=False, cancel_futures=False)  # it ends with the Future


def _opened(broker: str | None, state: str | None, clock: Clock) -> tuple[Callable[..., CeleryEngine], Addresses]:
    from groq_queue.distributed.celery_engine import CeleryEngine
    from groq_queue.distributed.job_store import JobStore
    from groq_queue.distributed.wakeups import Notifier

    addresses = addresses_of(broker, state)
    notifier = Notifier(addresses.broker)
    store = JobStore(addresses.state, clock)

    def engine_of(**options: Any) -> CeleryEngine:
        return CeleryEngine(store=store, notifier=notifier, clock=clock, timers=Timers(clock, "groq_queue"), **options)

    return engine_of, addresses


class Worker:
    """What a worker process consists of: an embedded queue between the lanes of a broker and the API.

    Made once in a process.

    Args:
        settings: Of the embedded engine.
        addresses: Of broker and state.
        threads: ``{lane: threads}``.
        lease_s: Seconds after the last sign of life in which what this worker holds is its own.
        on_stopped: Called when a rejected key, or the like, makes further work pointless.
        on_dead: Called when a lane is served no more although it was not stopped.

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
        import uuid  # only a worker needs it, and ``import groq_queue`` loads little

        from groq_queue.distributed.celery_worker import LaneWorkers
        from groq_queue.distributed.job_store import JobStore
        from groq_queue.distributed.wakeups import Notifier
        from groq_queue.distributed.worker import LeasedJobs

        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._notifier = Notifier(addresses.broker)
        self._store = JobStore(addresses.state, settings.clock)
        self._store.check()
        self._leased = LeasedJobs(
            self._store,
            self._notifier,
            settings.clock,
            owner=self.name,
            lease_s=lease_s,
            threads=dict(threads),
            base_url=settings.resolved_accounts.address,
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
        self._leased.begin(self._parts.intake.accept, self._parts.engine)
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
        self._notifier.close()

    @property
    def stopped_by(self) -> Exception | None:
        """The error that made further work pointless, or None."""
        return self._leased.stopped_by

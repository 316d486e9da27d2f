"""Joins the rooms into one queue."""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from groq_queue.clock import Clock, SystemClock
from groq_queue.engine.attempt import Runner
from groq_queue.engine.background import BackgroundTask, Timers
from groq_queue.engine.log import log_fields
from groq_queue.engine.observer import Observed
from groq_queue.engine.protocols import Attempts
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.limiters.in_process import ProcessLimiter
from groq_queue.logger import SafeLogger
from groq_queue.transport import make_transport
from groq_queue.wiring.accounts import Account, AccountBackend, AccountRouter, Accounts, Limiter
from groq_queue.wiring.admission import Admission
from groq_queue.wiring.parts import Parts, Submitting
from groq_queue.wiring.settings import Settings

if TYPE_CHECKING:
    from groq_queue.wiring.durable import JournalBridge

_log = SafeLogger("groq_queue")


def assemble(settings: Settings, around: Callable[[Attempts], Attempts] | None = None) -> Parts:
    """Build the parts of a queue; nothing is sent before ``JournalBridge.resume`` or the first ``submit``.

    Args:
        settings: Of the queue.
        around: Returns what is to stand around the attempts, or None.

    Raises:
        ConfigurationError: Another open queue of the account counts in other periods.
        JournalError: The journal cannot be used.
    """
    if settings.engine is not None:
        from groq_queue.wiring.sharing import assemble_shared

        return assemble_shared(settings)
    clock = settings.clock
    timers = Timers(clock, "groq_queue")
    closes: list[Callable[[], None]] = []
    attempts, limiter = _joined(_lines(settings, timers, closes), settings.payers)
    try:
        admission = Admission(
            limiter,
            settings.price_table,
            is_capped=settings.max_cost is not None,
            by_tokens=settings.fair_by == "tokens",
        )
        bridge = None
        if settings.journal is not None:
            attempts, bridge = _kept(settings, attempts, limiter, admission, timers)
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
    return Parts(engine, limiter, admission, bridge, Submitting())


def _lines(settings: Settings, timers: Timers, closes: list[Callable[[], None]]) -> dict[Account, AccountBackend]:
    """Return for each account who sends and who counts; what is to be closed is added to *closes*."""
    clock = settings.clock
    lines: dict[Account, AccountBackend] = {}
    try:
        for billing_id in settings.payers.all():
            transport = make_transport(
                base_url=billing_id.base_url,
                key=billing_id.key,
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
            lines[billing_id] = AccountBackend(attempts, _limiter(settings, billing_id))
    except BaseException:
        for line in lines.values():
            line.limiter.close(clock.now_ns())
        raise
    return lines


def _limiter(settings: Settings, billing_id: Account) -> Limiter:
    """Return where the budgets of an account are counted.

    Raises:
        ConfigurationError: The address of a shared one is no address.
        LimiterUnavailable: It cannot be used.
    """
    clock = settings.clock
    if settings.limiter is None:
        account = billing_id.billing_id + _time_of(clock)
        return ProcessLimiter(settings.limits, billing_id.base_url, account, clock.now_ns(), settings.margin)
    from groq_queue.limiters.shared import SharedLimiter
    from groq_queue.limiters.store import open_store

    return SharedLimiter(
        open_store(settings.limiter, clock),
        settings.limits,
        billing_id.base_url,
        billing_id.billing_id,
        clock,
        hire=lambda agent: BackgroundTask(agent, clock, "groq_queue-limiter"),
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


def _joined(lines: Mapping[Account, AccountBackend], payers: Accounts) -> tuple[Attempts, Limiter]:
    """Return who sends and who counts: the one account, or a switch between several."""
    default = None if payers.default is None else lines[payers.default]
    if default is not None and not payers.by_model:
        return default.attempts, default.limiter
    switch = AccountRouter({model: lines[billing_id] for model, billing_id in payers.by_model.items()}, default)
    return switch, switch


def _kept(
    settings: Settings, attempts: Attempts, limiter: Limiter, admission: Admission, timers: Timers
) -> tuple[Attempts, JournalBridge]:
    """Open the journal, decide about what was on its way, and join it to what runs the attempts."""
    from groq_queue.journal import Journal
    from groq_queue.wiring.claiming import JournaledAttempts
    from groq_queue.wiring.durable import JournalBridge

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
        account=settings.payers.name,
        clock=settings.clock,
        timers=timers,
        prepare=admission.prepare,
    )
    return JournaledAttempts(attempts, journal, may_repeat=settings.on_unknown == "resend"), bridge

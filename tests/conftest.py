"""What every test gets: no leaked threads, no network beyond this machine, and an engine on a stage."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from groq_queue.clock import FakeClock
from groq_queue.core.budget import Lease
from groq_queue.core.headers import Refusal
from groq_queue.core.limits import Limits
from groq_queue.core.priority import parse_priority
from groq_queue.core.request import Request
from groq_queue.core.response import Completion
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.background import Timers
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.lane import Meter
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.limiters import in_process
from groq_queue.limiters.in_process import ProcessLimiter

# A shell that starts the tests in the background has Ctrl-C ignored, here and in every process that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PATIENCE_S = 10.0  # every wait of a test ends by then

# The programs that tests start keep what they compile, or each of them would compile the whole package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish() -> None:
    """Keep what collecting has made out of every later garbage collection: it is most of the memory, and stays."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell how many tests were skipped for want of which extra or program."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    missing = Counter(found.group() for reason in reasons if (found := re.search(r"needs the \w+ [\w.-]+", reason)))
    for reason, count in sorted(missing.items()):
        terminalreporter.write_line(f"skipped: {count}, because a test {reason}")


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread._started.wait(PATIENCE_S)  # a dropped queue's drain may be just about to start
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"{thread.name} is still running"


@pytest.fixture(autouse=True)
def _budgets_of_earlier_tests_are_forgotten() -> Iterator[None]:
    """An account outlives its queues; a test whose server gets an earlier one's port would go on with its levels."""
    yield
    in_process._accounts.clear()


@pytest.fixture(autouse=True)
def _only_this_machine_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def connect_nearby(self: socket.socket, address: Any) -> None:
        if (
            isinstance(address, tuple)
            and not str(address[0]).startswith("127.")
            and address[0] not in ("::1", "localhost")
        ):
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_nearby)


class Stage:
    """An engine whose attempts are played here, on a clock that the test moves.

    Attempts end at once, unless ``hold`` was called; then each ends when ``release`` lets it.
    ``script`` may return another outcome than success.
    """

    def __init__(self, limits: Limits | dict[str, Limits] | None, **options: Any) -> None:
        self.clock = FakeClock()
        self.limiter = ProcessLimiter(limits)
        self.sent: list[Request] = []
        self.sent_ns: list[int] = []
        self.taken: list[str | None] = []  # in the order of the grants; threads may reach ``attempt`` in another
        self.script: Callable[[Request], Outcome | None] = lambda request: None
        self._changed = threading.Condition()
        self._free: int | None = None  # attempts that may still end; None is any number
        self._held = 0  # attempts that wait for ``release``
        self._landed = 0
        options.setdefault("max_workers", 8)
        self.engine = ThreadEngine(
            attempts=self,
            meter_of=self.limiter.meter,
            clock=self.clock,
            timers=Timers(self.clock, "stage"),
            name="stage",
            **options,
        )

        started = self.engine._table.counters.started

        def note_start(request: Request, now_ns: int) -> None:
            self.taken.append(request.custom_id)
            started(request, now_ns)

        self.engine._table.counters.started = note_start  # type: ignore[method-assign]

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        request.attempts += 1
        with self._changed:
            self.sent.append(request)
            self.sent_ns.append(self.clock.now_ns())
            self._changed.notify_all()
            self._held += 1
            try:
                # Longer than any wait of a test, which could otherwise be ended by the end of the hold.
                assert self._changed.wait_for(lambda: self._free is None or self._free > 0, 3 * PATIENCE_S)
            finally:
                self._held -= 1
            if self._free is not None:
                self._free -= 1
        outcome = self.script(request)
        if outcome is not None and outcome.next is Disposition.RATE_LIMITED:
            told = Refusal(False, "", None, None, None, outcome.wait_ns)
            meter.refused(lease, request.size, told, outcome.wait_ns, self.clock.now_ns())
        else:
            is_answer = outcome is None or outcome.next is Disposition.DONE
            meter.settle(lease, request.size, None, () if is_answer else None, self.clock.now_ns())
        with self._changed:
            self._landed += 1
            self._changed.notify_all()
        return outcome or Outcome(Disposition.DONE, result=Completion({"choices": []}, custom_id=request.custom_id))

    def submit(self, name: str | None = None, **options: Any) -> RequestFuture[Completion]:
        callback = options.pop("callback", None)
        options["priority"] = parse_priority(options.get("priority", "normal"))
        options.setdefault("model", "m")
        options.setdefault("size", PromptSize(10, 0, is_exact=True))
        request = Request(endpoint="chat/completions", body=b"{}", custom_id=name, **options)
        return self.engine.submit(request, callback=callback)

    def hold(self) -> None:
        """Let no attempt end."""
        with self._changed:
            self._free = 0

    def release(self, count: int | None = None) -> None:
        """Let *count* attempts end, or all from now on."""
        with self._changed:
            self._free = None if count is None else (self._free or 0) + count
            self._changed.notify_all()

    def wait_for_sends(self, count: int) -> list[str | None]:
        """Return the names of the first *count* requests sent."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.sent) >= count, PATIENCE_S), self.names()
            return self.names()[:count]

    def wait_for_landings(self, count: int) -> None:
        """Wait until that many attempts have come to their end, and their leases too."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._landed >= count, PATIENCE_S)

    def settle_down(self) -> None:
        """Wait until whoever can run now has run: nobody is awake but attempts that ``hold`` keeps."""
        pause = threading.Event()
        for _ in range(round(PATIENCE_S / 0.0005)):
            if self._is_at_rest():
                return
            pause.wait(0.0005)
        raise AssertionError("it does not come to rest")

    def _is_at_rest(self) -> bool:
        """Return whether every worker, and the timers' thread, waits and was not notified.

        Whoever is notified leaves the list of the condition's waiters at once, though it may run much later.
        """
        pool, timers = self.engine._pool, self.engine._timers
        with self.engine._lock, timers._changed, self._changed:
            held = self._held if self._free == 0 else 0
            idle = len(pool._due._waiters) + len(pool._parked._waiters)  # type: ignore[attr-defined]
            is_timer_idle = timers._thread is None or timers._is_closed or bool(timers._changed._waiters)  # type: ignore[attr-defined]
            return is_timer_idle and not pool.missing and pool._workers == idle + held

    def names(self) -> list[str | None]:
        return [request.custom_id for request in self.sent]


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    """Make stages; each is shut down at the end of the test."""
    stages: list[Stage] = []

    def make(limits: Limits | dict[str, Limits] | None = Limits(), **options: Any) -> Stage:  # noqa: B008
        stages.append(Stage(limits, **options))
        return stages[-1]

    yield make
    for made in stages:
        made.release()
        made.engine.shutdown(wait=True, cancel_futures=True)

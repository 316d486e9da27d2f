"""The whole queue against a few lines that say what it should do, through any calls, failures and crashes."""

from __future__ import annotations

import os
import queue as stdlib_queue
import shutil
import tempfile
from dataclasses import dataclass, field
from typing import Any

from extras import needs

from groq_queue import GroqQueue, Limits
from groq_queue.clock import FakeClock
from groq_queue.transport import Reply
from groq_queue.wiring import factory

needs("hypothesis", is_module=True)

from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule  # noqa: E402

PATIENCE_S = 20
LEVELS = st.sampled_from([0, 1, 5, 8, 10])
CLIENTS = st.sampled_from("ab")
NAMES = st.integers(0, 400)
ANSWER = b'{"choices": [{"message": {"content": "%s"}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'


class Wire:
    """Stands where the network is: says what is sent, and answers when the test says what."""

    def __init__(self) -> None:
        self.sent: stdlib_queue.Queue[str] = stdlib_queue.Queue()
        self.statuses: stdlib_queue.Queue[int] = stdlib_queue.Queue()

    def send(self, endpoint: str, body: bytes, *, timeout: Any) -> Reply:
        import json

        name = json.loads(body)["messages"][0]["content"]
        self.sent.put(name)
        status = self.statuses.get(timeout=60)
        return Reply(status, {}, ANSWER % name.encode() if status == 200 else b'{"error": {"message": "no"}}')

    def close(self) -> None:
        pass


@dataclass
class Expected:
    """What the model knows of one request."""

    level: int
    client: str
    place: int  # in the line of its level and client
    row: int
    state: str = "pending"  # away, running, completed, failed, cancelled
    attempts: int = 0
    lives: int = 0  # deaths during which it was on its way
    future: Any = field(default=None, repr=False)


class QueueAgainstItsPromise(RuleBasedStateMachine):
    """One worker, so that at most one request is on its way, and the order of all others can be told."""

    @initialize(with_journal=st.booleans())
    def begin(self, with_journal: bool) -> None:
        self.place = tempfile.mkdtemp()
        self.life = 0
        self.path = f"{self.place}/0.db" if with_journal else None
        self.model: dict[str, Expected] = {}
        self.count = 0
        self.is_paused = False
        self.running: str | None = None
        self.open()

    def open(self) -> None:
        self.wire, self.clock = Wire(), FakeClock()
        made = factory.make_transport
        factory.make_transport = lambda **_: self.wire
        try:
            self.queue = GroqQueue(
                api_key="gsk_x",
                base_url="http://127.0.0.1:1",
                model="m",
                organization=os.urandom(8).hex(),  # budgets of its own, as a new process has
                limits=Limits(),
                max_workers=1,
                max_retries=100,
                clock=self.clock,
                journal=self.path,
                durability="normal",
            )
        finally:
            factory.make_transport = made
        self.is_paused = False

    def teardown(self) -> None:
        if not hasattr(self, "place"):
            return
        try:
            self.finish()
        finally:
            self.wire.statuses.put(400)
            self.queue.shutdown(cancel_futures=True)
            shutil.rmtree(self.place)

    def finish(self) -> None:
        """Let everything end well, and compare."""
        self.resume()
        while self.running is not None:
            self.answer(200)
        assert self.queue.join(PATIENCE_S)
        assert set() == {name for name, one in self.model.items() if one.state in ("pending", "away", "running")}

    # -- what the model says

    def waiting(self, *states: str) -> list[str]:
        return [name for name, one in self.model.items() if one.state in (states or ("pending", "away"))]

    def allowed(self) -> set[str]:
        """Return who may be sent next: the heads of the clients of the first level, or a retry that came back."""
        pending = self.waiting("pending")
        level = min((self.model[name].level for name in pending), default=11)
        heads = {}
        for name in pending:
            one = self.model[name]
            if one.level == level and (one.client not in heads or one.place < self.model[heads[one.client]].place):
                heads[one.client] = name
        return {*heads.values(), *(name for name in self.waiting("away") if self.model[name].level <= level)}

    def settle(self) -> None:
        """Wait until somebody is on its way, if somebody may be; retries come back as the clock moves."""
        if self.running is not None or self.is_paused or not self.waiting():
            return
        for _ in range(400):
            is_due = not self.slow and bool(self.waiting("pending"))
            try:
                name = self.wire.sent.get(timeout=PATIENCE_S if is_due else 0.005)
                break
            except stdlib_queue.Empty:
                self.clock.advance(5)
        else:
            raise AssertionError(f"nobody was sent: {self.model}")
        assert name in self.allowed(), (name, self.allowed(), self.model)
        self.running = name
        self.model[name].state = "running"
        self.model[name].attempts += 1

    slow = False  # failures in a row have slowed the lane down, so the clock has to move

    # -- what happens

    @rule(level=LEVELS, client=CLIENTS)
    def submit(self, level: int, client: str) -> None:
        name = f"n{self.count}"
        self.count += 1
        self.model[name] = Expected(level, client, self.count, self.count)
        self.model[name].future = self.queue.submit(name, custom_id=name, priority=level, client=client)
        self.settle()

    @rule(number=NAMES)
    def submit_again(self, number: int) -> None:
        """The same name and payload: with a journal the same request, whatever became of it."""
        name = self.pick(number, "pending", "away", "running", "completed")
        if name is None or self.path is None:
            return
        one = self.model[name]
        future = self.queue.submit(name, custom_id=name, priority=one.level, client=one.client)
        if one.state == "completed":
            assert name == future.result(PATIENCE_S).text
        else:
            assert not future.done()
            one.future = future
        self.settle()

    @rule(status=st.sampled_from([200, 200, 400, 500, 503]))
    def answer(self, status: int) -> None:
        if self.running is None:
            return
        name, self.running = self.running, None
        one = self.model[name]
        before = self.outcomes()
        self.slow = status >= 500 or self.slow
        self.wire.statuses.put(status)
        self.until(lambda: self.outcomes() > before)
        if status >= 500:
            one.state = "away"
        else:
            one.state = "completed" if status == 200 else "failed"
            self.until(lambda: self.queue.get(name).status != "processing")
            if one.future is not None:
                error = one.future.exception(PATIENCE_S)
                assert (error is None) is (status == 200)
                assert error is not None or one.future.result().text == name
        self.settle()

    def outcomes(self) -> int:
        stats = self.queue.stats()
        return stats.completed + stats.failed + stats.retried

    @rule(number=NAMES)
    def cancel(self, number: int) -> None:
        name = self.pick(number)
        if name is None:
            return
        one = self.model[name]
        may = one.state in ("pending", "away")
        assert may is self.queue.cancel(name)
        if may:
            one.state = "cancelled"
            assert one.future is None or one.future.cancelled()
        self.settle()

    @rule(number=NAMES, level=LEVELS)
    def reprioritise(self, number: int, level: int) -> None:
        name = self.pick(number, "pending", "away")
        if name is None or self.model[name].future is None:
            return
        one = self.model[name]
        assert self.queue.set_priority(one.future, level)
        self.count += 1
        one.level, one.place = level, self.count
        self.settle()

    @rule()
    def pause(self) -> None:
        self.queue.pause()
        self.is_paused = True

    @rule()
    def resume(self) -> None:
        self.queue.resume()
        self.is_paused = False
        self.settle()

    @rule()
    def crash(self) -> None:
        """Go on with the file as it lies there now; the old process is seen no more."""
        if self.path is None:
            return
        self.life += 1
        path = f"{self.place}/{self.life}.db"
        for end in ("", "-wal"):
            if os.path.exists(self.path + end):
                shutil.copy(self.path + end, path + end)
        self.abandon()
        self.path = path
        if self.running is not None:
            one = self.model[self.running]
            one.lives += 1
            one.state = "failed" if one.lives >= 3 else "pending"
            self.running = None
        self.reopened()

    @rule()
    def reopen(self) -> None:
        """Shut down in order: what is on its way ends, the rest stays in the file."""
        if self.path is None:
            return
        if self.running is not None:
            self.model[self.running].state = "completed"
            self.wire.statuses.put(200)
            self.running = None
        self.queue.shutdown(cancel_futures=True)
        assert self.wire.sent.empty()
        self.reopened()

    def abandon(self) -> None:
        self.wire.statuses.put(200)
        self.queue.shutdown(cancel_futures=True)

    def reopened(self) -> None:
        for one in self.model.values():
            one.future = None
            if one.state in ("pending", "away"):
                one.state, one.place = "pending", one.row  # in the file a level is in the order of arrival
        self.slow = False
        self.open()
        self.settle()

    # -- what always holds

    @invariant()
    def states_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        counts = self.queue.stats()
        assert len(self.waiting()) == counts.pending
        assert (self.running is not None) == counts.in_flight
        assert self.wire.sent.empty()
        for name, one in self.model.items():
            status = self.queue.get(name).status
            expected = {"running": "processing", "away": "pending"}.get(one.state, one.state)
            known = self.path is not None or one.state in ("pending", "away", "running")
            assert status == (expected if known else "unknown"), (name, one, status)

    def pick(self, number: int, *states: str) -> str | None:
        names = [name for name, one in self.model.items() if not states or one.state in states]
        return names[number % len(names)] if names else None

    def until(self, is_true: Any) -> None:
        """Wait for what another thread does next."""
        from .harness import wait_until

        assert wait_until(is_true, PATIENCE_S)


TestWholeQueue = QueueAgainstItsPromise.TestCase
TestWholeQueue.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

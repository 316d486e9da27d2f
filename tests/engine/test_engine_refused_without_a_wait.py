"""429s that name no wait: what they hold up, for how long, and whom they cost a retry."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from groq_queue.core.budget import Lease
from groq_queue.core.limits import Limits
from groq_queue.core.request import Request
from groq_queue.core.retry import RetryPolicy
from groq_queue.core.token_estimate import PromptSize
from groq_queue.engine.attempt import Outcome, Runner
from groq_queue.engine.lane import Meter
from groq_queue.errors import RateLimitError
from tests.conftest import PATIENCE_S, Stage

GOOD = json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode()


class Answer:
    def __init__(self, status: int = 200, **headers: str) -> None:
        self.status = status
        self.body = GOOD if status == 200 else b"{}"
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Play(Stage):
    """An engine that sends to *server*, called with the name of a request and the seconds since the start."""

    def __init__(
        self,
        server: Callable[[str, float], Answer],
        *,
        limits: Limits | None = Limits(),  # noqa: B008
        policy: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        super().__init__(limits, **options)
        self._server = server
        self._start_ns = self.clock.now_ns()
        self._runner = Runner(self, policy or RetryPolicy(), (1, 2), self.clock, random.Random(7))
        self.before_sending: Callable[[], object] = lambda: None
        self.answered_s: dict[str, float] = {}
        self.times: Counter[str] = Counter()

    def now_s(self) -> float:
        return (self.clock.now_ns() - self._start_ns) / 1e9

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        return self._runner.attempt(request, lease, meter)

    def send(self, endpoint: str, body: bytes, *, timeout: tuple[float, float]) -> Answer:
        name = json.loads(body)
        self.before_sending()
        with self._changed:  # one at a time: the server counts
            self.times[name] += 1
            answer = self._server(name, self.now_s())
            if answer.status == 200:
                self.answered_s[name] = self.now_s()
            return answer

    def ask(self, *names: str, model: str = "m") -> list[Any]:
        futures = []
        for name in names:
            size = PromptSize(10, 0, is_exact=True)
            request = Request(model, "chat/completions", json.dumps(name).encode(), size, 5, custom_id=name)
            futures.append(self.engine.submit(request))
        return futures

    def run(self, seconds: float, step_s: float = 0.25) -> None:
        """Let time pass, a step after everybody has come to rest."""
        until_s = self.now_s() + seconds
        self.settle_down()
        while self.now_s() < until_s and self.engine._table.open:
            self.clock.advance(step_s)
            self.settle_down()


@pytest.fixture
def play():
    """Make plays; each is shut down at the end of the test."""
    plays: list[Play] = []

    def make(server: Callable[[str, float], Answer], **options: Any) -> Play:
        plays.append(Play(server, **options))
        return plays[-1]

    yield make
    for made in plays:
        made.engine.shutdown(wait=True, cancel_futures=True)


def test_refusals_that_come_together_hold_their_lane_for_the_first_wait_only(play):
    """
    Six in flight at once are refused; they knew nothing of each other.
    """
    stage = play(lambda name, now_s: Answer(200 if now_s else 429), max_workers=6)
    together = threading.Barrier(6)
    stage.before_sending = lambda: stage.now_s() or together.wait(PATIENCE_S)

    futures = stage.ask(*"abcdef")
    stage.run(10)

    assert ["yes"] * 6 == [future.result(0).text for future in futures]
    assert 1.5 <= min(stage.answered_s.values()) <= 2
    assert max(stage.answered_s.values()) <= 3
    assert {2} == set(stage.times.values())


def test_a_lane_does_not_wait_for_what_another_was_refused(play):
    """
    Model B's first refusal costs it a second and a half, although model A has been refused for half a minute.
    """

    def server(name: str, now_s: float) -> Answer:
        if name == "b" and now_s >= 30 and stage.times["b"] > 1:
            return Answer()
        return Answer(429)

    stage = play(server, policy=RetryPolicy(max_retries=9))
    stage.ask("a", model="A")
    stage.run(30)
    (future,) = stage.ask("b", model="B")
    stage.run(4)

    assert "yes" == future.result(0).text
    assert 31.5 <= stage.answered_s["b"] <= 32


def test_a_lone_request_outlives_a_window_of_a_minute(play):
    """
    The limit counts by the minute and is full when the request comes.
    """
    stage = play(lambda name, now_s: Answer(200 if now_s >= 60 else 429))

    (future,) = stage.ask("a")
    stage.run(200)

    assert "yes" == future.result(0).text
    assert stage.answered_s["a"] < 80
    assert 6 == stage.times["a"]


@pytest.mark.parametrize("per_window", [3, 5])
def test_none_of_many_is_lost_at_a_server_that_lets_a_few_a_minute_pass(play, per_window: int):
    """
    Whoever is refused in one window after the other keeps its place and its retries: others are answered meanwhile.
    """
    admitted: Counter[int] = Counter()

    def server(name: str, now_s: float) -> Answer:
        window = int(now_s // 60)
        if admitted[window] >= per_window:
            return Answer(429)
        admitted[window] += 1
        return Answer()

    stage = play(server, max_workers=1)  # one sender, so that who comes first in a window does not hang on threads
    futures = stage.ask(*map(str, range(4 * per_window)))
    stage.run(1_000, step_s=0.5)

    assert [] == [name for name, future in enumerate(futures) if future.exception(0) is not None]
    assert max(admitted) <= 8, "the pauses may cost a window each, not more"


@pytest.mark.parametrize("limits", [Limits(), None], ids=["no limits", "limits to be learnt"])
@pytest.mark.parametrize("headers", [{}, {"retry_after": "2"}], ids=["bare", "with a wait that does not help"])
@pytest.mark.parametrize("place", [0, 30])
def test_one_request_that_is_always_refused_does_not_hold_up_the_others(play, limits, headers, place: int):
    """
    60 good ones are answered within seconds, and the bad one fails after its retries.
    """

    def server(name: str, now_s: float) -> Answer:
        return Answer(429, **headers) if name == "bad" else Answer()

    names = [f"good {number}" for number in range(60)]
    names.insert(place, "bad")
    stage = play(server, limits=limits, max_workers=1)  # one sender: who comes first does not hang on threads
    futures = dict(zip(names, stage.ask(*names), strict=True))
    stage.run(8, step_s=0.02)
    assert 1 == len(stage.engine._table.open), "only the bad one is left"
    stage.run(300, step_s=0.5)

    bad = futures.pop("bad")
    assert ["yes"] * 60 == [future.result(0).text for future in futures.values()]
    assert isinstance(bad.exception(0), RateLimitError)
    assert 6 <= stage.times["bad"] <= 10
    assert stage.times["bad"] == bad.exception(0).attempts


@pytest.mark.parametrize(("max_retries", "sends"), [(0, 1), (1, 2), (3, 4)])
def test_a_request_that_nobody_overtakes_is_refused_as_often_as_it_may_be_retried(play, max_retries: int, sends: int):
    """
    The server refuses everything for ever.
    """
    stage = play(lambda name, now_s: Answer(429), policy=RetryPolicy(max_retries=max_retries))

    (future,) = stage.ask("a")
    stage.run(300)

    assert isinstance(future.exception(0), RateLimitError)
    assert sends == stage.times["a"] == future.exception(0).attempts


def test_a_wait_that_was_kept_and_did_not_help_is_followed_by_longer_ones(play):
    """
    Retry-After: 0, again and again, inside a window of a minute.
    """
    stage = play(lambda name, now_s: Answer(200) if now_s >= 60 else Answer(429, retry_after="0"))

    (future,) = stage.ask("a")
    stage.run(300)

    assert "yes" == future.result(0).text
    assert stage.times["a"] <= 6

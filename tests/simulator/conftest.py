"""How the tests of this room speak to the simulator: the standard library's client, one connection a call."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from groq_queue.simulator import GroqSimulator

MODEL = "llama-3.1-8b-instant"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json()["error"]


class HandClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now_ns


def call(
    simulator: GroqSimulator,
    prompt: str = "Say hello.",
    *,
    path: str = "/openai/v1/chat/completions",
    method: str = "POST",
    key: str | None = "gsk_test",
    raw: bytes | None = None,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> Answer:
    """Send one request and read the answer whole."""
    given = {"content-type": "application/json"} | (headers or {})
    if key is not None:
        given["authorization"] = f"Bearer {key}"
    if raw is None and method == "POST":
        body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]} | fields
        raw = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    connection = http.client.HTTPConnection(simulator.host, simulator.port, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path, raw, given)
        response = connection.getresponse()
        # Groq's headers are UTF-8; http.client reads all headers as Latin-1.
        names = {name.lower(): value.encode("latin-1").decode() for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())


@pytest.fixture
def ask() -> Callable[..., Answer]:
    return call


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def simulate() -> Iterator[Callable[..., GroqSimulator]]:
    """Start simulators; they are stopped when the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(GroqSimulator(**options))

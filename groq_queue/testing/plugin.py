"""Fixtures for pytest, which finds them by the entry point ``pytest11``.

Imports nothing but pytest: every run of pytest where this library is installed loads
this file, used or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from groq_queue.simulator import GroqSimulator

_MARKER = "groq_simulator(**options): arguments of GroqSimulator for the fixture of the same name"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for ``--strict-markers``."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def groq_simulator_factory() -> Iterator[Callable[..., GroqSimulator]]:
    """Start simulators with any options; all stop when the test ends."""
    from groq_queue.simulator import GroqSimulator

    with ExitStack() as running:
        yield lambda **options: running.enter_context(GroqSimulator(**options))


@pytest.fixture
def groq_simulator(
    request: pytest.FixtureRequest,
    groq_simulator_factory: Callable[..., GroqSimulator],
    monkeypatch: pytest.MonkeyPatch,
) -> GroqSimulator:
    """A local Groq that is running; ``GROQ_BASE_URL`` and ``GROQ_API_KEY`` lead to it until the test ends.

    Options: ``@pytest.mark.groq_simulator(rpm=30, models=["m"])``; of several markers the nearest wins.
    """
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("groq_simulator"):
        if marker.args:
            raise pytest.UsageError(f"groq_simulator{marker.args!r}: pass options by name, such as rpm=30")
        options = {**marker.kwargs, **options}
    simulator = groq_simulator_factory(**options)
    # Without a path: so the groq SDK reads it, which adds its own; GroqQueue does the same.
    monkeypatch.setenv("GROQ_BASE_URL", simulator.base_url.removesuffix("/openai/v1"))
    monkeypatch.setenv("GROQ_API_KEY", "simulated")
    return simulator

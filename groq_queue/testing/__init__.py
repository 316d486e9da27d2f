"""For the tests of programs that use this library: a local Groq, its faults, and a clock that stands still.

    def test_my_report(groq_simulator):           # a fixture, known to pytest wherever groq_queue is installed
        assert my_program().endswith(".")         # GROQ_BASE_URL and GROQ_API_KEY lead to the simulator
        assert groq_simulator.stats().refused == 0

With ``clock = FakeClock()``, ``GroqSimulator(clock_ns=clock.now_ns)`` and
``GroqQueue(clock=clock)`` minutes of a limit pass in no time: ``clock.advance(60)``.
The clock bounds attempts too, so advance it while none is under way.

Nothing is imported here until it is asked for: pytest loads this room at its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groq_queue.clock import FakeClock
    from groq_queue.simulator import Fault, GroqSimulator

__all__ = ["FakeClock", "Fault", "GroqSimulator"]


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    if name == "FakeClock":
        from groq_queue.clock import FakeClock

        return FakeClock
    if name in __all__:
        import groq_queue.simulator as simulator

        return getattr(simulator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

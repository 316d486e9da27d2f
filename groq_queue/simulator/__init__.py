"""A local Groq: real HTTP on loopback, the real metering law, no key and no cost.

    with GroqSimulator(rpm=30, tpm=6_000) as groq:
        ...  # point any client at groq.base_url

This room imports nothing of the rest of the library. Its meter is a second,
independent reading of the law; sharing one with the client would prove only
that a mistake agrees with itself.
"""

from __future__ import annotations

from groq_queue.simulator.faults import Fault
from groq_queue.simulator.meter import go_duration
from groq_queue.simulator.server import GroqSimulator
from groq_queue.simulator.service import SimulatedCall as Record
from groq_queue.simulator.service import SimulatorStats

__all__ = ["Fault", "GroqSimulator", "Record", "SimulatorStats", "go_duration"]

"""The three queues of the broker, each with threads that less urgent requests cannot occupy."""

from __future__ import annotations

from typing import NamedTuple

from groq_queue.errors import ConfigurationError

_MOST_THREADS = 1_000


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

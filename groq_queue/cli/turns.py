"""Lets what has ended out in the order in which it was read."""

from __future__ import annotations

from collections.abc import Callable


class InputOrder:
    """Holds what has ended until all before it are out, or lets everything out at once when it is open.

    Not thread-safe: its owner's lock guards it.
    """

    def __init__(self, *, is_open: bool) -> None:
        """
        Args:
            is_open: Order does not matter.
        """
        self._is_open = is_open
        self._held: dict[int, Callable[[], None]] = {}
        self._next = 0  # the place whose turn it is

    def ended(self, place: int, let_out: Callable[[], None]) -> None:
        """Call *let_out* when it is the turn of *place*: 0, 1, 2 …, each once."""
        if self._is_open:
            let_out()
            return
        self._held[place] = let_out
        while (due := self._held.pop(self._next, None)) is not None:
            self._next += 1
            due()

    def open(self) -> None:
        """Let out what is held, in order, and from now on everything at once."""
        self._is_open = True
        for place in sorted(self._held):
            self._held.pop(place)()

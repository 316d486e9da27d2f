"""What an interrupted run has written, so that the next one goes on behind it.

Reads files of answers, writes none. A killed run leaves whole lines and at most
one piece of a line at the end; anything else is not a file of answers, and is
refused before anything is cut off or added.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, BinaryIO

_BEGINNING = b'{"id":"batch_req_'  # of every line that ``lines`` writes
_LINE_NUMBER = re.compile(r"batch_req_line-([1-9]\d*)")


class NotAnswers(ValueError):
    """A file that no run has written."""


class Written:
    """The lines that stand in the outputs of earlier runs.

    Sixteen bytes are kept of an id, so that memory grows as the ids' number, not as their length.
    """

    def __init__(self) -> None:
        self._answered: set[bytes] = set()
        self._failed: set[bytes] = set()
        self._never_sent: set[int] = set()  # numbers of lines that were refused before they became a request

    def read(self, stream: BinaryIO) -> tuple[int, bytes]:
        """Note every line of a file of answers.

        Returns:
            Up to where the file is to be kept, in bytes, and what is to be added there: a newline if only
            that is missing, else nothing.

        Raises:
            NotAnswers: The file is something else.
        """
        end = 0
        for number, raw in enumerate(stream, 1):
            if not raw.endswith(b"\n"):
                return self._read_piece(number, raw, end)
            if not raw.isspace() and not self._note(raw):
                raise NotAnswers(f"its line {number} is no line of answers")
            end += len(raw)
        return end, b""

    def is_answered(self, custom_id: str) -> bool:
        """Whether there is an answer."""
        return _digest(custom_id) in self._answered

    def is_failed(self, custom_id: str, number: int) -> bool:
        """Whether there is the error of a request, or of line *number* before it became one."""
        return number in self._never_sent or _digest(custom_id) in self._failed

    def is_refused(self, number: int) -> bool:
        """Whether there is the error of line *number*, which never became a request."""
        return number in self._never_sent

    def _read_piece(self, number: int, raw: bytes, end: int) -> tuple[int, bytes]:
        piece = raw.rstrip(b"\0")  # a power cut may leave zeros where a line was to be
        if piece == raw and self._note(raw):
            return end + len(raw), b"\n"
        if not (piece.startswith(_BEGINNING) or _BEGINNING.startswith(piece)):
            raise NotAnswers(f"its last line, {number}, is no piece of a line of answers")
        return end, b""

    def _note(self, raw: bytes) -> bool:
        """Note one line; False if it is none of answers."""
        try:
            line: Any = json.loads(raw)
        except (ValueError, RecursionError):
            return False
        if not isinstance(line, dict) or "response" not in line or not isinstance(line.get("custom_id"), str):
            return False
        never_sent = _LINE_NUMBER.fullmatch(str(line.get("id")))
        if line.get("error") is None:
            self._answered.add(_digest(line["custom_id"]))
        elif never_sent:
            # Not by its custom_id: a second line of one custom_id was refused, the first may yet be on its way.
            self._never_sent.add(int(never_sent[1]))
        else:
            self._failed.add(_digest(line["custom_id"]))
        return True


def _digest(custom_id: str) -> bytes:
    return hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()

"""The head of an answer, read by the standard library's parser, which two kinds of servers are too much for.

* It knows one interim answer, 100; others (102, 103) it takes for the answer itself. They are skipped here.
* It gives up at a hundred header lines, which proxies and tracers reach. Behind the first eighty, only the lines
  that are needed to read the answer, or that we read, come through to it.
"""

from __future__ import annotations

import http.client
from typing import Any

from groq_queue.errors import excerpt

_WHOLE = 80  # lines of a head that are all passed on; the parser stops at 100, essential ones included
_FINAL = (b" 2", b" 3", b" 4", b" 5")  # what follows the eight letters of "HTTP/1.1"
_MOST = 10_000  # lines of a head; as many no server means
_ESSENTIAL = frozenset(
    [
        *(b"content-length", b"transfer-encoding", b"content-encoding", b"connection"),
        *(b"retry-after", b"x-request-id", b"location", b"content-type", b"date"),
    ]
)


class BadResponse(Exception):
    """An answer arrived and cannot be used; the text says why.

    Args:
        message: In words.
        is_final: The same request would get the same again.
    """

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class Answer(http.client.HTTPResponse):
    """One answer; ``status`` is a number once the status line of a final head has come."""

    def begin(self) -> None:
        """Read heads up to that of the final answer; blocks.

        Raises:
            OSError, HTTPException: As ``http.client`` does.
        """
        if self.headers is not None:
            return
        file = self.fp
        peek = getattr(file, "peek", None)  # a double of a socket may give a file without it
        if peek is not None and _is_plain(peek()):
            super().begin()
            return
        lines = _Lines(file)
        self.fp: Any = lines
        try:
            super().begin()
            while 100 <= self.status < 200 and self.status != 101:
                self.status: Any = "UNKNOWN"  # as before the first: an interim answer proves nothing
                self.headers: Any = None
                lines.count = 0
                super().begin()
        finally:
            if self.fp is not None:  # a head that cannot be read has closed it
                self.fp = file

    def fields(self) -> dict[str, str]:
        """Return the headers, once it has begun, names in lower case; of a repeated one the last.

        Raises:
            BadResponse: They leave open where the answer ends, so its rest could pass for the next one.
        """
        headers = self.headers
        fields: dict[str, str] = {}
        # Not items(): that looks in each value for surrogates, which Latin-1 cannot have.
        for name, value in headers.raw_items():
            fields[name.lower()] = value
        if len(fields) < len(headers) and len(set(headers.get_all("content-length", ()))) > 1:
            raise BadResponse("answer has two lengths")
        if self.length is None and "content-length" in fields and not self.chunked:
            self.length = _one_length(fields["content-length"])
        coding = fields.get("transfer-encoding")
        if coding is not None and not self.chunked and coding.lower() != "identity":
            raise BadResponse(f"answer is transferred as {excerpt(coding)!r}")
        return fields


def _is_plain(beginning: bytes) -> bool:
    """Return whether *beginning* holds a whole head, of no interim answer, with fewer lines than the parser refuses."""
    end = beginning.find(b"\r\n\r\n")
    return beginning[8:10] in _FINAL and end > 0 and beginning.count(b"\n", 0, end) < _WHOLE


class _Lines:
    """A file of which the parser sees no more lines of one head than it can bear."""

    def __init__(self, file: Any) -> None:
        self._readline = file.readline
        self.close = file.close
        self.count = 0
        self._total = 0

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._readline(limit)
        self.count += 1
        return line if self.count <= _WHOLE else self._essential(line, limit)

    def _essential(self, line: bytes, limit: int) -> bytes:
        """Return *line* or the next one that is needed."""
        is_passed = True  # whether the last line was; one that is continued keeps its continuation
        while True:
            if line.startswith(b"HTTP/") or not line.strip():  # another head begins, or this one ends
                self._total += self.count
                self.count = 0
                if self._total > _MOST:
                    raise http.client.HTTPException(f"more than {_MOST:,} lines before the answer")
                return line
            if line[:1] not in (b" ", b"\t"):
                name = line.partition(b":")[0].strip().lower()
                is_passed = name in _ESSENTIAL or name.startswith(b"x-ratelimit-")
            if is_passed or len(line) >= limit > 0:
                return line
            self.count += 1
            if self.count > _MOST:
                raise http.client.HTTPException(f"a head of more than {_MOST:,} lines")
            line = self._readline(limit)


def _one_length(text: str) -> int:
    """Return the length that a list such as ``242, 242`` repeats, as proxies join headers.

    Raises:
        BadResponse: It is no number, or several.
    """
    lengths = {part.strip() for part in text.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit() and len(length) <= 18):
        raise BadResponse(f"answer has the length {excerpt(text)!r}")
    return int(length)

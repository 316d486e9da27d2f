"""Where lines come from and where they go; what an existing output holds is never touched.

An interrupted run goes on behind what it has written. A killed run leaves whole lines
and at most one piece of a line at the end; anything else is not a file of answers, and
is refused before anything is cut off or added.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
from typing import Any, BinaryIO, Protocol

from groq_queue.cli import UsageError
from groq_queue.cli.batch_lines import read_lines

try:
    import fcntl
except ImportError:  # Windows: there two runs into one file are not kept apart
    fcntl = None  # type: ignore[assignment]

_BEGINNING = b'{"id":"batch_req_'  # of every line that ``batch_lines`` writes
_LINE_NUMBER = re.compile(r"batch_req_line-([1-9]\d*)")


class Sink(Protocol):
    """Where lines go."""

    name: str
    is_terminal: bool

    def write(self, line: bytes) -> None: ...


class FileSink:
    """A file written without a buffer: a killed run leaves whole lines."""

    is_terminal = False

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor

    def write(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            if written and stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                # The disk filled up inside the line. Half a line would break readers of the file.
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise


class StdoutSink:
    """Standard output; each line is passed on at once."""

    name = "stdout"

    def __init__(self) -> None:
        if sys.stdout is None:
            raise UsageError("cannot write stdout: it is closed: name a file with -o")
        self._stream = sys.stdout.buffer
        self.is_terminal = sys.stdout.isatty()

    def write(self, line: bytes) -> None:
        self._stream.write(line)
        self._stream.flush()


class NotAnswers(ValueError):
    """A file that no run has written."""


class Written:
    """The lines that earlier runs have written to the outputs.

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


def open_input(path: str, files: contextlib.ExitStack) -> tuple[BinaryIO, str, int | None]:
    """Return the stream of *path* ("-": stdin), its name, and how many lines it has if that can be told beforehand.

    Raises:
        UsageError: It cannot be read.
    """
    if path == "-":
        if sys.stdin is None:
            raise UsageError("cannot read stdin: it is closed: name a file")
        return sys.stdin.buffer, "stdin", None
    try:
        stream = files.enter_context(open(path, "rb"))  # noqa: SIM115 - the stack closes it
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return stream, path, None
        total = sum(1 for _ in read_lines(stream))
        stream.seek(0)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    return stream, path, total


def open_output(
    path: str | None, files: contextlib.ExitStack, written: Written | None = None, *, may_resume: bool = False
) -> Sink:
    """Return where *path* (None or "-": stdout) is written to; *files* closes it.

    Args:
        path: What is written is added at its end.
        files: Closes it.
        written: Gets what an earlier run has written there; None if there is to be nothing.
        may_resume: It could be continued, with ``--resume``.

    Raises:
        UsageError: It cannot be written, another run writes it, or it holds what it should not.
    """
    if path is None or path == "-":
        return StdoutSink()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        files.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            if found.st_size and written is None:
                other = ", or add --resume to continue the run that wrote it" if may_resume else ""
                raise UsageError(f"{path} exists and is not empty: name another file or move that one away{other}")
            _keep_others_out(path, descriptor)
            if written is not None:
                _go_on(path, descriptor, written)
        elif written is not None:
            raise UsageError(f"{path} is not a regular file: --resume has to read what was written")
    except FileNotFoundError:
        raise UsageError(f"cannot write {path}: there is no directory {os.path.dirname(path)}: make it first") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}: name another file") from None
    return FileSink(path, descriptor)


def write_text(sink: Sink, text: str) -> None:
    """Write a document whole.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        sink.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(f"cannot write {sink.name}: {error.strerror or error}") from None


def _keep_others_out(path: str, descriptor: int) -> None:
    """Lock the file until it is closed: a second run would cut the line that the first is writing."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path} is being written by another run: wait for it to end, or name another file") from None
    except OSError:
        pass  # a file system without locks


def _go_on(path: str, descriptor: int, written: Written) -> None:
    """Read what is there, and make the end of the file the end of a whole line."""
    try:
        with open(path, "rb") as stream:
            end, missing = written.read(stream)
    except NotAnswers as problem:
        raise UsageError(f"{path} cannot be continued: {problem}; it was left as it is: name another file") from None
    os.ftruncate(descriptor, end)
    os.write(descriptor, missing)


def _digest(custom_id: str) -> bytes:
    return hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()

"""Where lines come from and where they go; what an existing output holds is never touched."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import BinaryIO, Protocol

from groq_queue.cli import UsageError
from groq_queue.cli.batch_lines import read_lines
from groq_queue.cli.resume import NotAnswers, Written

try:
    import fcntl
except ImportError:  # Windows: there two runs into one file are not kept apart
    fcntl = None  # type: ignore[assignment]


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
                # The disk filled up inside the line. Half a line would break whoever reads the file.
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

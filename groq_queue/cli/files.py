"""Where lines come from and where they go; an existing output is never touched."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import BinaryIO, Protocol

from groq_queue.cli import UsageError
from groq_queue.cli.lines import read_lines


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


def open_output(path: str | None, files: contextlib.ExitStack) -> Sink:
    """Return where *path* (None or "-": stdout) is written to; *files* closes it.

    Raises:
        UsageError: It cannot be written, or holds something already.
    """
    if path is None or path == "-":
        return StdoutSink()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
    files.callback(os.close, descriptor)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size:
        raise UsageError(f"{path} exists and is not empty: name another file, or move that one away")
    return FileSink(path, descriptor)

"""The library's logger, whose failures never reach its caller.

What a log record runs through belongs to the program that uses the library: record
factories, filters, handlers, formatters. Any of them may raise, and a record is
due on the threads that every Future depends on. So each call here is guarded; the
first failure is printed on stderr.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any


class SafeLogger:
    """The calls of ``logging.Logger`` that the library uses; none of them raises.

    But for a KeyboardInterrupt on the main thread, which must reach the program.
    """

    __slots__ = ("_has_warned", "_logger")

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._has_warned = False

    def isEnabledFor(self, level: int) -> bool:
        """Return whether a record of *level* would go anywhere."""
        try:
            return self._logger.isEnabledFor(level)
        except Exception:
            return True

    def debug(
        self,
        message: str,
        *args: object,
        exc_info: bool | BaseException | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Log details of one request."""
        self._write(logging.DEBUG, message, args, exc_info, extra)

    def info(self, message: str, *args: object, extra: Mapping[str, Any] | None = None) -> None:
        """Log what is usual."""
        self._write(logging.INFO, message, args, None, extra)

    def warning(self, message: str, *args: object, extra: Mapping[str, Any] | None = None) -> None:
        """Log what the user should know."""
        self._write(logging.WARNING, message, args, None, extra)

    def error(
        self,
        message: str,
        *args: object,
        exc_info: bool | BaseException | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Log what went wrong."""
        self._write(logging.ERROR, message, args, exc_info, extra)

    def exception(self, message: str, *args: object, extra: Mapping[str, Any] | None = None) -> None:
        """Log what went wrong, with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, message, args, True, extra)

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: bool | BaseException | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Log at *level*."""
        self._write(level, message, args, exc_info, extra)

    def _write(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        exc_info: bool | BaseException | None,
        extra: Mapping[str, Any] | None,
    ) -> None:
        try:
            self._logger.log(level, message, *args, exc_info=exc_info, extra=extra, stacklevel=3)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            self._tell(error)

    def _tell(self, error: BaseException) -> None:
        """Print once on stderr, the only way that is left, that logging is broken."""
        try:
            if not self._has_warned and sys.stderr is not None:
                self._has_warned = True
                sys.stderr.write("groq_queue: a log record was lost, because the program's logging raised:\n")
                traceback.print_exception(error)
        except BaseException:
            pass  # stderr is broken too: there is no other way to report it

"""Where warnings go in a program that has set up no logging: to stderr, few enough to be read.

``logging`` has a handler of last resort, which prints every warning that no handler
takes. It would print ten thousand tracebacks for one callback that is wrong, and
the texts of the server's errors, which may repeat a prompt. So the logger
``groq_queue`` has a handler of its own that replaces it:

* It is silent as soon as ``logging`` is configured: any other handler on the way of the
  record, a ``NullHandler`` as well, gets what it always got, and this one prints nothing.
  ``logging.lastResort = None``, ``logging.disable`` and levels keep their meaning.
* Of each kind it prints the first record, and after that at most one in ``EVERY_S``
  seconds, which says how many were left out. What is left at the end of the program is
  counted in a last line. Records are of one kind if they tell the same event from the same line
  of the package, of the same limit of the same model, with an error of the same class from the same line.
* A traceback is printed as the standard library's ``Future`` prints one. It shows source lines, no values;
  of an error that repeats what the server said, only the status is shown.

Not covered: the standard library's ``warnings``, which have filters of their own.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Hashable
from types import TracebackType

from groq_queue.errors import APIResponseError, APIStatusError, excerpt
from groq_queue.lifecycle import register_for_fork

EVERY_S = 60.0  # long enough to be read, short enough to notice that it goes on
_MOST_KINDS = 256  # a program that makes up code as it runs must not fill memory; beyond that all are of one kind
_NAME = "groq_queue.last_resort"
_WITHHELD = "what the server said is left out here, since it may repeat the prompt; the Future's exception() has it"


class LastResort(logging.Handler):
    """Prints the warnings of a program that has set up no logging.

    ``_guard`` guards ``_kinds`` and the tellings in it, is held for a few assignments and is a leaf: nothing is
    printed under it. ``handle`` does not take the base class's lock, which would be held while it prints. The guard is
    re-entrant, because a signal handler or a garbage collection may log on the thread that holds it.

    Nothing that goes wrong here is raised or logged: there is no place left for it, and the caller must go on.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.set_name(_NAME)
        self.reset_after_fork()
        register_for_fork(self)

    def reset_after_fork(self) -> None:
        """Begin anew in a forked child: what was left out is for the parent to tell."""
        self._guard = threading.RLock()
        self._kinds: dict[Hashable, _Telling] = {}

    def handle(self, record: logging.LogRecord) -> bool:  # the stdlib's returns a record from Python 3.12 on
        """Print *record*, unless logging is configured or its kind was printed recently; raises nothing."""
        try:
            if not self.filter(record) or _is_configured(record.name, record.levelno):
                return False
            before = self._take(record)
            if before is not None:
                _print(_text_of(record, *before))
        except Exception:  # a closed stderr, an argument without a repr: see the class
            return False
        return True

    def flush(self) -> None:
        """Print how many records were left out since the last count; ``logging`` calls it when the program ends."""
        try:
            with self._guard:
                left = [(telling.first, telling.count_left()) for telling in self._kinds.values()]
            if not _is_configured("groq_queue", logging.CRITICAL):
                _print("".join(f"groq_queue: {more:,} more like this: {first}\n" for first, more in left if more))
        except Exception:  # see the class
            return

    def _take(self, record: logging.LogRecord) -> tuple[int, float] | None:
        """Return how many of its kind were left out in how many seconds; None to leave this one out, too."""
        kind, first = _kind_of(record), excerpt(record.getMessage())
        with self._guard:
            known = self._kinds.get(kind)
            if known is None and len(self._kinds) >= _MOST_KINDS:
                kind = None
                known = self._kinds.get(kind)
            if known is None:
                self._kinds[kind] = _Telling(record.created, first)
                return 0, 0.0
            since_s = record.created - known.at_s
            if (
                abs(since_s) < EVERY_S
            ):  # threads get here in any order; a clock that was set back counts as a new minute
                known.more += 1
                return None
            known.at_s = record.created
            return known.count_left(), abs(since_s)


class _Telling:
    """When a kind was printed last, and how many were left out since."""

    __slots__ = ("at_s", "first", "more")

    def __init__(self, at_s: float, first: str) -> None:
        self.at_s = at_s
        self.first = first
        self.more = 0

    def count_left(self) -> int:
        """Return how many were left out, and count from zero again."""
        more, self.more = self.more, 0
        return more


def attach() -> None:
    """Give the logger ``groq_queue`` its handler of last resort, once."""
    logger = logging.getLogger("groq_queue")
    if not any(handler.get_name() == _NAME for handler in logger.handlers):
        logger.addHandler(LastResort())


def _is_configured(name: str, level: int) -> bool:
    """Return whether anything else takes, or is set not to take, a record of that logger and level."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(handler.get_name() != _NAME for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    last_resort = logging.lastResort
    return last_resort is None or level < last_resort.level


def _kind_of(record: logging.LogRecord) -> Hashable:
    limit = getattr(record, "limit", None)
    lane = None if limit is None else getattr(record, "lane", None)
    kind = (getattr(record, "groq_queue_event", None), record.pathname, record.lineno, limit, lane)
    if not record.exc_info or record.exc_info[0] is None:
        return kind
    cls, _, trace = record.exc_info
    return kind, cls, _line_called(trace)


def _line_called(trace: TracebackType | None) -> tuple[str, int] | None:
    """Return file and line of what was called and raised, such as the user's callback."""
    if trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _text_of(record: logging.LogRecord, more: int, since_s: float) -> str:
    left_out = f" ({more:,} more like this in the last {since_s:,.0f} s)" if more else ""
    text = f"groq_queue: {record.getMessage()}{left_out}\n"
    if record.exc_info and record.exc_info[1] is not None:
        try:
            text += _trace_of(record.exc_info[1])
        except Exception:  # errors are the user's classes; what happened is printed all the same
            text += f"{record.exc_info[1].__class__.__name__}, whose traceback cannot be shown\n"
    return text


def _trace_of(error: BaseException) -> str:
    """Return the traceback of *error* and of those that led to it, without the server's words."""
    text = "".join(traceback.format_exception(error))
    todo, seen = [error], set[int]()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        grouped = getattr(each, "exceptions", ())  # of an ExceptionGroup
        others = (each.__cause__, each.__context__, *(grouped if isinstance(grouped, tuple) else ()))
        todo += [other for other in others if isinstance(other, BaseException)]
        if isinstance(each, (APIStatusError, APIResponseError)):
            status = f"HTTP {each.status_code}: " if isinstance(each, APIStatusError) else ""
            name = type(each).__name__
            text = text.replace(f"{name}: {each}\n", f"{name}: {status}{_WITHHELD}\n")
    return text


def _print(text: str) -> None:
    """Write *text* in one piece, so that lines of two threads do not mix."""
    stream = sys.stderr  # looked up late: notebooks and tests replace it
    if stream is None or not text:  # None: a program without a console
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a stream of the user's own that is strict
        stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
    stream.flush()

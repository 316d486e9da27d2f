"""One pass over the lines of a file: lines in, requests out, answers written as they come.

The main thread reads and submits; the thread that ends a request writes its line. At most
a window of requests is open, so memory does not grow with the input, except by
the custom_ids seen. A line is on disk, whole, before its request counts as done.

With a journal an answer is stored before its line is written. So a crash between
the two loses nothing: the next run finds no line, asks the journal and gets the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from groq_queue.api.queue import GroqQueue
from groq_queue.cli import Exit, UsageError, catching, silence_stdout
from groq_queue.cli.batch_files import Sink, StdoutSink, Written
from groq_queue.cli.batch_lines import BadLine, BatchLine, LineParser, answer_line, bad_line, error_line
from groq_queue.core.response import Completion, usage_of
from groq_queue.core.retry import Meaning, meaning_of
from groq_queue.display import duration_text, plural
from groq_queue.engine.stats import Stats
from groq_queue.errors import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    CostLimitReached,
    DailyLimitReached,
    GroqQueueError,
    JournalError,
    LimiterUnavailable,
    QueueClosed,
    excerpt,
)
from groq_queue.reporting.progress import Progress, ProgressCounts

_WINDOW_PER_WORKER = 4
_WINDOW_BASE = 64
_WINDOW_BYTES = 64 * 1024 * 1024  # of lines that are open at once
_PUT_BACK = ("pending", "processing", "completed")  # statuses of a request that failed and was made pending again


class _Stopped(Exception):
    """A signal came while the main thread was reading."""


class InputOrder:
    """Writes results in input order: holds each until all before it are written. Open, it writes each at once.

    Not thread-safe: its owner's lock guards it.
    """

    def __init__(self, *, is_open: bool) -> None:
        """
        Args:
            is_open: Order does not matter.
        """
        self._is_open = is_open
        self._held: dict[int, Callable[[], None]] = {}
        self._next = 0  # the place to be written next

    def ended(self, place: int, write_out: Callable[[], None]) -> None:
        """Call *write_out* after those of all smaller places: 0, 1, 2 …, each once."""
        if self._is_open:
            write_out()
            return
        self._held[place] = write_out
        while (due := self._held.pop(self._next, None)) is not None:
            self._next += 1
            due()

    def open(self) -> None:
        """Write what is held, in order, and from now on each result at once."""
        self._is_open = True
        for place in sorted(self._held):
            self._held.pop(place)()


class BatchRun:
    """One pass over the input.

    ``_lock`` guards ``counts``, the sinks, ``progress``, ``first_failure``, ``_kept``,
    ``_turns`` and ``stopped_by``. The engine may be asked for figures under it; nothing of ours is
    called under the engine's locks. What follows it belongs to the main thread,
    which learns of ended requests through ``_events`` alone.
    """

    def __init__(
        self,
        client: GroqQueue,
        lines: Iterator[tuple[int, bytes]],
        output: Sink,
        errors: Sink,
        progress: Progress,
        args: argparse.Namespace,
        total: int | None,
        written: Written,
    ) -> None:
        self._client = client
        self._lines = lines
        self._output, self._errors = output, errors
        self._total = total
        self._needs_model = args.model is None
        self._defaults = {"priority": args.priority, "client": args.client}
        self._written = written
        self._journal: str | None = args.journal

        self._lock = threading.Lock()
        self.progress = progress
        self.counts = ProgressCounts()
        self.first_failure: str | None = None
        self.stopped_by: BaseException | None = None
        self._kept = 0  # accepted, and left without an answer

        self._turns = InputOrder(is_open=not args.ordered)
        self._places = 0  # given to lines that are sent or refused

        self._events: queue.SimpleQueue[int] = queue.SimpleQueue()  # bytes of an ended request's line; 0: look up
        self._window = _WINDOW_PER_WORKER * args.workers + _WINDOW_BASE
        self._open = self._open_bytes = 0
        self._read = 0
        self._is_reading = False
        self._is_read = False  # to its end
        self._is_leaving = False  # requests cancelled from now on are cancelled by the end of the run
        self._signal: int | None = None

    def go(self) -> None:
        """Read, submit and wait until everything has ended or the run is stopped."""
        with catching(self._on_signal, wake=partial(self._events.put, 0)):
            try:
                with contextlib.suppress(_Stopped):
                    self._feed()
                while self._open and not self._is_stopped():
                    self._wait()
                if self._is_stopped() and not isinstance(self.stopped_by, OSError):
                    self._announce_wait()
            finally:
                # Attempts in flight end within their timeout; a second signal quits at once.
                self._is_leaving = True
                with self._lock:
                    self._turns.open()  # a second signal must not find answers that are only in memory
                self._client.shutdown(cancel_futures=True)

    def say(self, message: str) -> None:
        """Print *message* on stderr. Any thread."""
        with self._lock:
            self.progress.say(message)

    # The main thread.

    def _feed(self) -> None:
        parser = LineParser(needs_model=self._needs_model)
        while not self._is_stopped() and (found := self._next_line()) is not None:
            number, raw = found
            self._read += 1
            while not self._has_room(len(raw)) and not self._is_stopped():
                self._wait()
            if self._is_stopped():
                return
            try:
                ask = parser.parse(number, raw)
            except BadLine as problem:
                if self._written.is_refused(number):
                    self._skip(is_failed=True)
                else:
                    self._write_bad(number, problem.custom_id, problem.code, str(problem), len(raw))
                continue
            if self._is_written(ask):
                self._skip(is_failed=not self._written.is_answered(ask.custom_id))
                continue
            self._submit(ask, len(raw))
            self._take_events()
            self._show()

    def _next_line(self) -> tuple[int, bytes] | None:
        self._is_reading = True
        try:
            if self._is_stopped():
                return None
            found = next(self._lines, None)
            self._is_read = found is None
            return found
        except OSError as error:
            self._stop(UsageError(f"reading stopped: {error}"))
            return None
        finally:
            self._is_reading = False

    def _is_written(self, ask: BatchLine) -> bool:
        """Whether an earlier run has written its line, and it needs no other."""
        if self._written.is_answered(ask.custom_id):
            return True
        if not self._written.is_failed(ask.custom_id, ask.number):
            return False
        # It has failed, unless ``groq-queue retry-failed`` has put it back since.
        return self._journal is None or self._client.get(ask.custom_id).status not in _PUT_BACK

    def _skip(self, *, is_failed: bool) -> None:
        with self._lock:
            self.counts.skipped += 1
            self.counts.skipped_failed += is_failed
        self._take_events()
        self._show()

    def _has_room(self, size: int) -> bool:
        return not self._open or (self._open < self._window and self._open_bytes + size <= _WINDOW_BYTES)

    def _submit(self, ask: BatchLine, size: int) -> None:
        try:
            future = self._client.submit(
                ask.payload, endpoint=ask.endpoint, custom_id=ask.custom_id, **(self._defaults | dict(ask.options))
            )
        except GroqQueueError as error:
            if isinstance(error, QueueClosed) or (stops(error) and not self._is_taken(ask, error)):
                self._stop(error)
            else:
                self._write_bad(ask.number, ask.custom_id, bad_code(error), f"line {ask.number}: {error}", size)
            return
        place = self._place(size)
        request_id = self._client.info(future).request_id
        future.add_done_callback(partial(self._ended, place, ask.custom_id, request_id, size))

    def _place(self, size: int) -> int:
        """Return the place of a line of *size* bytes that takes room in the window until it is written."""
        self._open += 1
        self._open_bytes += size
        self._places += 1
        return self._places - 1

    def _is_taken(self, ask: BatchLine, error: GroqQueueError) -> bool:
        """Whether the journal refused it because it knows the custom_id with another payload."""
        return isinstance(error, JournalError) and error.custom_id == ask.custom_id

    def _wait(self) -> None:
        """Wait for the next event, or for the next moment to show progress."""
        with contextlib.suppress(queue.Empty):
            self._take(self._events.get(timeout=self.progress.interval_s))
        self._take_events()
        self._show()

    def _take_events(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._events.get_nowait())

    def _take(self, size: int) -> None:
        if size:
            self._open -= 1
            self._open_bytes -= size

    def _write_bad(self, number: int, custom_id: str, code: str, message: str, size: int) -> None:
        write = partial(self._write_failure, bad_line(number, custom_id, code, message), message)
        with self._lock:
            self._turns.ended(self._place(size), partial(self._write_out, write, size))

    def _show(self) -> None:
        if self.progress.is_due():
            with self._lock:
                self.progress.show(self.counts, self._client.stats())

    def _announce_wait(self) -> None:
        in_flight = self._client.stats().in_flight
        if in_flight and self._signal is not None:
            awaited = plural(in_flight, "request")
            self.say(f"stopping: waiting for {awaited} in flight; press Ctrl-C again to quit now")

    def _on_signal(self, number: int) -> None:
        if self._signal is not None:
            if number == getattr(signal, "SIGHUP", None):
                return  # a hang-up arrives twice, through the shell too: it is no second request to quit
            # A line being written is given a moment; this thread may hold the lock itself.
            self._lock.acquire(timeout=0.5)
            os._exit(128 + number)
        self._signal = number
        self._events.put(0)
        if self._is_reading:
            raise _Stopped

    # Any thread.

    def _is_stopped(self) -> bool:
        return self._signal is not None or self.stopped_by is not None

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            self.stopped_by = self.stopped_by or error
        self._events.put(0)

    def _ended(self, place: int, custom_id: str, request_id: str, size: int, future: Future[Completion]) -> None:
        try:
            write = self._ending(custom_id, request_id, future)
        except Exception as error:  # any error: otherwise the main thread would wait for this request for ever
            self._stop(error)
            write = None
        with self._lock:
            self._turns.ended(place, partial(self._write_out, write, size))

    def _ending(self, custom_id: str, request_id: str, future: Future[Completion]) -> Callable[[], None]:
        """Return what writes or keeps it when its place comes; the line is made now."""
        error = CancelledError("cancelled") if future.cancelled() else future.exception()
        if error is None:
            completion = future.result()
            usage = usage_of(completion) or (0, 0, 0)
            return partial(self._write_answer, answer_line(request_id, custom_id, completion), usage)
        if isinstance(error, CancelledError) and self._is_leaving:
            return self._keep
        if stops(error):
            self._stop(error)  # no line is written, so --resume sends it again when the cause is cured
            return self._keep
        return partial(self._write_failure, error_line(request_id, custom_id, error), f"{custom_id}: {error}")

    # Under the lock.

    def _write_out(self, write: Callable[[], None] | None, size: int) -> None:
        try:
            if write is not None:
                write()
        except Exception as error:  # as in ``_ended``
            self.stopped_by = self.stopped_by or error
        finally:
            self._events.put(size)  # only now: a held result takes room in the window

    def _keep(self) -> None:
        self._kept += 1

    def _write_answer(self, line: bytes, usage: tuple[int, int, int]) -> None:
        if self._write(self._output, line):
            self.counts.done += 1
            self.counts.prompt_tokens += usage[0]
            self.counts.completion_tokens += usage[1]

    def _write_failure(self, line: bytes, message: str) -> None:
        if self._write(self._errors, line):
            self.counts.failed += 1
            if self.first_failure is None:
                self.first_failure = excerpt(message)

    def _write(self, sink: Sink, line: bytes) -> bool:
        """Write *line*; a sink that fails stops the run."""
        if sink.is_terminal:
            self.progress.clear()
        try:
            sink.write(line)
        except OSError as error:
            error.filename = sink.name
            self.stopped_by = self.stopped_by or error
            self._events.put(0)
            return False
        return True

    # The end.

    def report(self, args: argparse.Namespace) -> int:
        """Print what was done, and return the exit code."""
        self._take_events()
        code = self._exit_code()
        known = self._read if self._total is None else max(self._total, self._read)
        unsent = known - self.counts.done - self.counts.failed - self.counts.skipped
        with self._lock:
            self.progress.clear()
            if isinstance(self.stopped_by, BrokenPipeError):
                silence_stdout()
                return code
            if isinstance(self.stopped_by, OSError) and isinstance(self._output, StdoutSink):
                silence_stdout()  # what it did not take would be tried again at exit
            for line in self._summary_lines(unsent, args):
                self.progress.say(line)
        if args.json:
            summary = json.dumps(self._summary(unsent, code))
            print(summary, file=sys.stderr if isinstance(self._output, StdoutSink) else sys.stdout)
        return code

    def _summary_lines(self, unsent: int, args: argparse.Namespace) -> Iterator[str]:
        """Yield the lines of the summary: why it stopped, what was done, how to continue."""
        counts, stats = self.counts, self._client.stats()
        if self.stopped_by is not None:
            yield f"groq-queue: stopped: {reason(self.stopped_by)}"
        if not args.quiet:
            if self.first_failure is not None:
                yield f"first failure: {self.first_failure}"
            yield (
                f"{counts.done:,} done, {counts.failed:,} failed{self._where_failures_are()}"
                + (f", {_skipped(counts)}" if counts.skipped else "")
                + (f", {unsent:,} not sent" if unsent else "")
                + f" in {duration_text(self.progress.seconds)}: {plural(stats.attempts, 'request')} sent,"
                f" {stats.refused:,} refused (429), {plural(counts.tokens, 'token')}"
            )
            yield from _unnamed_limits(stats, args)
        is_whole = self._total is not None or self._is_read
        if self._is_stopped() and (unsent or not is_whole):
            yield self._remaining(unsent, is_whole, args)

    def _where_failures_are(self) -> str:
        """Return where the lines of what failed are, if anything did."""
        if not self.counts.failed:
            return ""
        return " (among the answers)" if isinstance(self._errors, StdoutSink) else f" (see {self._errors.name})"

    def _remaining(self, unsent: int, is_whole: bool, args: argparse.Namespace) -> str:
        """Return how many lines have no answer, where they are stored, and how to continue."""
        text = f"without an answer in {self._output.name}: {plural(unsent, 'line')}"
        if not is_whole:
            text += ", and the rest of stdin was not read"
        if self._journal is not None:
            text += f", {self._kept:,} of them stored in {self._journal}"
        if isinstance(self._output, StdoutSink):
            return f"{text}; to continue, run these into another file"
        same_input = " on the same input" if args.input == "-" else ""
        return f"{text}; to continue, run the same command{same_input}{'' if args.resume else ' with --resume'}"

    def _summary(self, unsent: int, code: int) -> dict[str, Any]:
        """Return the summary as JSON-like objects."""
        counts, stats = self.counts, self._client.stats()
        return {
            "done": counts.done,
            "failed": counts.failed,
            "skipped": counts.skipped,
            "unsent": unsent,
            "stored": self._kept if self._journal is not None else 0,
            "seconds": round(self.progress.seconds, 3),
            "requests": stats.attempts,
            "refused": stats.refused,
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "tokens": counts.tokens,
            "stopped_by": None if self.stopped_by is None else reason(self.stopped_by),
            "exit_code": int(code),
        }

    def _exit_code(self) -> int:
        if self._signal is not None:
            return 128 + self._signal
        return exit_code_of(self.stopped_by, self.counts.failed + self.counts.skipped_failed)


def _unnamed_limits(stats: Stats, args: argparse.Namespace) -> Iterator[str]:
    """Yield which limits to pass next time: no answer shows them, but a refusal did now."""
    if not stats.refused:
        return
    known = {level.dimension: level.limit for lane in stats.lanes for level in lane.limits}
    unnamed = [name for name in ("rpm", "tpd") if getattr(args, name) is None]
    named = [f"--{name} {known[name.upper()]}" for name in unnamed if name.upper() in known]
    if named:
        yield f"refused, since the server's answers do not tell every limit: next time name {' '.join(named)}"


def _skipped(counts: ProgressCounts) -> str:
    failed = f" ({counts.skipped_failed:,} of them failed)" if counts.skipped_failed else ""
    return f"{counts.skipped:,} done before{failed}"


# What an error means for the whole run: whether it stops the run, its message and its exit code.


def stops(error: BaseException) -> bool:
    """Whether every other request would fail with *error* too."""
    if isinstance(error, (DailyLimitReached, CostLimitReached, AuthenticationError, JournalError, LimiterUnavailable)):
        return True
    return isinstance(error, APIStatusError) and meaning_of(error.status_code, error.body)[0] is Meaning.STOP


def exit_code_of(error: BaseException | None, failed: int) -> Exit:
    """Return the exit code of a run that *error* stopped (None: nothing did) after *failed* lines failed."""
    if isinstance(error, BrokenPipeError):
        return Exit.SOME_FAILED
    if isinstance(error, (OSError, UsageError, JournalError, LimiterUnavailable)):
        return Exit.USAGE
    if isinstance(error, (DailyLimitReached, CostLimitReached)) or _is_spend_limit(error):
        return Exit.LIMIT
    if isinstance(error, (APIStatusError, ConfigurationError)):
        return Exit.CONFIGURATION
    return Exit.SOME_FAILED if failed or error is not None else Exit.DONE


def reason(error: BaseException) -> str:
    """Return why a run stopped and what to do, in one line."""
    if isinstance(error, OSError):
        return f"cannot write {error.filename}: {error.strerror or error}"
    if isinstance(error, AuthenticationError):
        return f"{error}: check GROQ_API_KEY"
    if isinstance(error, DailyLimitReached) and error.resets_in is not None:
        return f"{error} (fits again in {duration_text(error.resets_in)})"
    if isinstance(error, (JournalError, LimiterUnavailable)):
        return str(error)  # it ends with its cure
    return excerpt(str(error)) if isinstance(error, (GroqQueueError, UsageError)) else repr(error)


def bad_code(error: GroqQueueError) -> str:
    """Return the code of a line that could not become a request."""
    if isinstance(error, JournalError):
        return "custom_id_taken"
    return "invalid_line" if isinstance(error, ConfigurationError) else "request_too_large"


def _is_spend_limit(error: BaseException | None) -> bool:
    """Whether the account's own spend limit stops it; the same codes as in ``core.retry``."""
    body = error.body if isinstance(error, APIStatusError) else None
    error_body = body.get("error") if isinstance(body, dict) else None
    return isinstance(error_body, dict) and str(error_body.get("code") or "").startswith("spend_")


class _WarningHandler(logging.Handler):
    """Prints the library's warnings above the progress line."""

    def __init__(self, job: BatchRun) -> None:
        super().__init__(logging.WARNING)
        self._job = job

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._job.say(f"groq-queue: {excerpt(record.getMessage(), 1_000)}")
        except Exception:  # as every handler does: a message that cannot be shown must not stop the run
            self.handleError(record)


@contextlib.contextmanager
def show_warnings(job: BatchRun) -> Iterator[None]:
    """Show the library's warnings above the progress line of *job* while the block runs."""
    log = logging.getLogger("groq_queue")
    handler = _WarningHandler(job)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)

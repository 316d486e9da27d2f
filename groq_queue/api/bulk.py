"""What everything with a ``submit`` can do: the queue itself, and views of it.

A view is a queue with other defaults: same threads, same budget.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

from groq_queue.api.columns import Texts, check_template, column_of, fill, refuse_table
from groq_queue.api.requests import check_options, options_of_calls, shows_options
from groq_queue.api.window import MapWindow, tell
from groq_queue.core.priority import PriorityLike
from groq_queue.core.request import CHAT, Prompt
from groq_queue.core.response import Completion
from groq_queue.core.validation import check_choice, check_count, check_wait
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.log import error_fields, error_text, log_fields
from groq_queue.engine.stats import Stats
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger

if TYPE_CHECKING:
    from groq_queue.wiring.typed_options import CallOptions, SeriesLike

_log = SafeLogger("groq_queue")

WINDOW_PER_WORKER = 32  # so far ahead that one answer that has to wait for a retry does not stop the others


class BulkMethods:
    """Everyday calls, on top of ``submit``.

    Attributes:
        last_partial: What an interrupted or failed ``map`` or ``map_column`` had: of a
            column, the column with its missing answers; of ``map``, the answers that were
            done but not handed out, by position. None before, and after one that ended well.
    """

    last_partial: Any = None
    _window = 8 * WINDOW_PER_WORKER  # of ``map``, if none is given

    if TYPE_CHECKING:

        def submit(
            self,
            prompt: Prompt | None = None,
            /,
            *,
            messages: Sequence[Mapping[str, Any]] | None = None,
            model: str | None = None,
            endpoint: str = CHAT,
            priority: PriorityLike | None = None,
            client: str | None = None,
            custom_id: str | None = None,
            tokens: int | None = None,
            audio_seconds: float | None = None,
            shrink: bool = False,
            max_wait: float | None = None,
            deadline: float | None = None,
            not_before: float | None = None,
            dedupe: bool = False,
            callback: Callable[[Future[Completion]], object] | None = None,
            **params: Any,
        ) -> RequestFuture[Completion]: ...

    else:

        def submit(self, prompt: Any = None, /, **options: Any) -> RequestFuture[Completion]:
            """Queue one request and return its Future."""
            raise NotImplementedError  # a queue and a view each have their own

    def stats(self) -> Stats:
        """Return one consistent snapshot of all counts."""
        raise NotImplementedError  # a queue and a view each have their own

    def _complete(self, prompt: Any = None, /, **options: Any) -> Completion:
        """Queue one request and wait for its answer: ``submit(...).result()``.

        Interrupted, it cancels the request unless it is on its way.
        """
        future = self.submit(prompt, **options)
        try:
            return future.result()
        except BaseException:  # a Ctrl-C: no other code has the Future
            future.cancel()
            raise
        finally:
            # Its error holds this frame: together they would keep the queue alive until a garbage collection, and
            # a cell that is run again would leave threads behind.
            del future

    def _map(
        self,
        prompts: Iterable[Any],
        *,
        errors: str = "raise",
        progress: bool | Callable[[Any], object] = False,
        buffersize: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Generator[Any, None, None]:
        """Ask every prompt and yield the answers in the order of the prompts.

        The first *buffersize* prompts are read and sent by this call, the others as
        answers are taken; no more than *buffersize* are ever read ahead. Closing the
        iterator, an error of the prompts' own iterable, the first error with
        ``errors="raise"``, *timeout* and Ctrl-C cancel what has not started.

        Args:
            prompts: Any iterable of what ``submit`` takes: str, messages, payloads.
            errors: ``"raise"`` raises the first error in order, ``"return"`` yields it
                in the place of its answer. A queue that was shut down always raises.
            progress: True shows progress on stderr; a callable gets it instead.
            buffersize: Most requests ahead of the reader, >= 1; None is 32 for each
                worker, or ``max_pending`` if that is less.
            timeout: Seconds from this call for the whole; then ``TimeoutError``.
            options: As for ``submit``; a ``custom_id`` must hold ``{}``, which becomes
                the position, from 0.

        Raises:
            ConfigurationError: An argument cannot be used.
            QueueClosed: After ``shutdown``.
        """
        check_choice("errors", errors, ("raise", "return"))
        ahead = self._map_window(prompts, check_count("buffersize", buffersize, optional=True), timeout, options)
        answers = self._answers(ahead, errors == "return", _watching(self.stats, _count(prompts), progress))
        next(answers)  # sends the first window, and so closing it cancels even if no answer is ever taken
        return answers

    if TYPE_CHECKING:

        def complete(
            self,
            prompt: Prompt | None = None,
            /,
            *,
            messages: Sequence[Mapping[str, Any]] | None = None,
            model: str | None = None,
            endpoint: str = CHAT,
            priority: PriorityLike | None = None,
            client: str | None = None,
            custom_id: str | None = None,
            tokens: int | None = None,
            audio_seconds: float | None = None,
            shrink: bool = False,
            max_wait: float | None = None,
            deadline: float | None = None,
            not_before: float | None = None,
            dedupe: bool = False,
            callback: Callable[[Future[Completion]], object] | None = None,
            **params: Any,
        ) -> Completion: ...

        @overload
        def map(
            self,
            prompts: Iterable[Prompt],
            *,
            errors: Literal["raise"] = "raise",
            progress: bool | Callable[[Any], object] = False,
            buffersize: int | None = None,
            timeout: float | None = None,
            messages: NoReturn = ...,
            model: str | None = None,
            endpoint: str = CHAT,
            priority: PriorityLike | None = None,
            client: str | None = None,
            custom_id: str | None = None,
            tokens: int | None = None,
            audio_seconds: float | None = None,
            shrink: bool = False,
            max_wait: float | None = None,
            deadline: float | None = None,
            not_before: float | None = None,
            dedupe: bool = False,
            callback: Callable[[Future[Completion]], object] | None = None,
            **params: Any,
        ) -> Generator[Completion, None, None]: ...

        @overload
        def map(
            self,
            prompts: Iterable[Prompt],
            *,
            errors: Literal["return"],
            progress: bool | Callable[[Any], object] = False,
            buffersize: int | None = None,
            timeout: float | None = None,
            messages: NoReturn = ...,
            model: str | None = None,
            endpoint: str = CHAT,
            priority: PriorityLike | None = None,
            client: str | None = None,
            custom_id: str | None = None,
            tokens: int | None = None,
            audio_seconds: float | None = None,
            shrink: bool = False,
            max_wait: float | None = None,
            deadline: float | None = None,
            not_before: float | None = None,
            dedupe: bool = False,
            callback: Callable[[Future[Completion]], object] | None = None,
            **params: Any,
        ) -> Generator[Completion | Exception, None, None]: ...

        def map(self, prompts: Iterable[Any], **options: Any) -> Generator[Any, None, None]: ...

    else:
        complete = shows_options(_complete, "complete")
        map = shows_options(_map, "map")

    @overload
    def map_column(
        self,
        column: list[Any] | tuple[Any, ...],
        template: str = "{}",
        *,
        errors: Literal["raise", "coerce"] = "raise",
        progress: bool | Callable[[Any], object] = False,
        done: SeriesLike | list[Any] | tuple[Any, ...] | None = None,
        messages: NoReturn = ...,
        model: str | None = None,
        endpoint: str = CHAT,
        priority: PriorityLike | None = None,
        client: str | None = None,
        custom_id: str | None = None,
        tokens: int | None = None,
        audio_seconds: float | None = None,
        shrink: bool = False,
        max_wait: float | None = None,
        deadline: float | None = None,
        not_before: float | None = None,
        dedupe: bool = False,
        callback: Callable[[Future[Completion]], object] | None = None,
        **params: Any,
    ) -> list[str | None]: ...

    @overload
    def map_column(
        self,
        column: SeriesLike,
        template: str = "{}",
        *,
        errors: Literal["raise", "coerce"] = "raise",
        progress: bool | Callable[[Any], object] = False,
        done: SeriesLike | list[Any] | tuple[Any, ...] | None = None,
        messages: NoReturn = ...,
        model: str | None = None,
        endpoint: str = CHAT,
        priority: PriorityLike | None = None,
        client: str | None = None,
        custom_id: str | None = None,
        tokens: int | None = None,
        audio_seconds: float | None = None,
        shrink: bool = False,
        max_wait: float | None = None,
        deadline: float | None = None,
        not_before: float | None = None,
        dedupe: bool = False,
        callback: Callable[[Future[Completion]], object] | None = None,
        **params: Any,
    ) -> Any: ...

    def map_column(
        self,
        column: Any,
        template: str = "{}",
        *,
        errors: Literal["raise", "coerce"] = "raise",
        progress: bool | Callable[[Any], object] = False,
        done: Any = None,
        **options: Any,
    ) -> Any:
        """Ask about every value of a column and return the column of the answers' texts.

        Missing values (None, NaN, NA, NaT, null) are not asked about and stay missing.
        Interrupted or failed, it leaves what it had in ``last_partial``, and as
        ``partial`` on the error; pass that as *done* to go on.

        Args:
            column: A pandas or polars Series, a list or a tuple.
            template: The prompt; every ``{}`` becomes the value, other braces stay.
            errors: ``"raise"`` raises the first error in order, ``"coerce"`` makes it
                a missing answer and logs how many there are.
            progress: As for ``map``.
            done: Answers known already, a column of the same length; only what is
                missing there is asked.
            options: As for ``map``, its ``buffersize`` and its ``timeout`` too; ``custom_id="row-{}"`` counts all
                rows.

        Returns:
            A pandas Series (objects) with the same index and name, a polars Series
            with the same name, or a list.

        Raises:
            ConfigurationError: An argument cannot be used.
        """
        check_choice("errors", errors, ("raise", "coerce"))
        check_template(template)
        rows = column_of(column)
        texts = _known(done, len(rows.values))
        asked = [row for row, value in enumerate(rows.values) if value is not None and texts[row] is None]
        prompts = (fill(template, rows.values[row]) for row in asked)
        failed: dict[int, Exception] = {}
        size = check_count("buffersize", options.pop("buffersize", None), optional=True)
        ahead = self._map_window(prompts, size, options.pop("timeout", None), options, asked)
        try:
            with _watching(self.stats, len(asked), progress) as line:
                ahead.fill()
                while not ahead.is_over():
                    row = asked[ahead.given]
                    outcome = ahead.take()
                    if isinstance(outcome, Exception):
                        if errors == "raise":
                            try:
                                raise outcome
                            finally:
                                del outcome  # as in ``complete``
                        failed[row] = outcome
                    else:
                        texts[row] = outcome.text
                    if line is not None:
                        line.advance(failed=row in failed)
        except BaseException as error:
            for place, answer in ahead.cancel()[2].items():
                texts[asked[place]] = answer.text
            self._keep(error, rows.like(texts))
            if isinstance(error, KeyboardInterrupt):
                left = sum(texts[row] is None for row in asked)
                tell(
                    error,
                    f"{len(asked) - left:,} of {len(asked):,} answers are done, {left:,} are left; to continue: "
                    "map_column(..., done=queue.last_partial)",
                )
            raise
        self.last_partial = None
        if failed:
            row, first = next(iter(failed.items()))
            _log.warning(
                "map_column: %d of %d failed (errors='raise' would raise); the first, at row %d: %s",
                len(failed),
                len(asked),
                row,
                error_text(first),
                extra=log_fields("column_failed", **error_fields(first)),
            )
        return rows.like(texts)

    if TYPE_CHECKING:

        def with_options(
            self,
            *,
            messages: NoReturn = ...,
            model: str | None = None,
            endpoint: str = CHAT,
            priority: PriorityLike | None = None,
            client: str | None = None,
            custom_id: NoReturn = ...,
            tokens: int | None = None,
            audio_seconds: float | None = None,
            shrink: bool = False,
            max_wait: float | None = None,
            deadline: float | None = None,
            not_before: float | None = None,
            dedupe: bool = False,
            callback: Callable[[Future[Completion]], object] | None = None,
            **params: Any,
        ) -> View: ...

    else:

        def with_options(self, **options: Any) -> View:
            """Return a view that submits with these options where a call gives none.

            Same threads, same budget. What is not an option of ``submit`` is a parameter of
            the API, such as ``temperature``; a payload's own value goes before it. A view
            of a view adds to its options. A view never shuts the queue down.

            Raises:
                ConfigurationError: An option cannot be used, or not for many requests.
            """
            return View(self, options)

    def executor(self) -> Executor:
        """Return a ``concurrent.futures.Executor`` that runs its calls under the queue's budget.

        ``submit(fn, *args)`` is ``submit_call``; its ``shutdown`` ends its own calls, not the queue. That of a view
        has the view's options; one with ``endpoint``, ``shrink`` or ``dedupe`` has no executor.
        """
        from groq_queue.api.executor import QueueExecutor

        return QueueExecutor(self)

    def _is_inside(self) -> bool:
        """Return whether the caller runs on a worker or inside a callback, and so must not wait for all to end."""
        return False

    def _answers(
        self, ahead: MapWindow, is_tolerant: bool, watching: AbstractContextManager[Any]
    ) -> Generator[Any, None, None]:
        with watching as line:
            try:
                ahead.fill()
                ahead.is_over()  # raises if the queue takes nothing
                yield None  # taken by ``map``
                while not ahead.is_over():
                    outcome = ahead.take()
                    if isinstance(outcome, Exception) and not is_tolerant:
                        try:
                            raise outcome
                        finally:
                            del outcome  # as in ``complete``
                    if line is not None:
                        line.advance(failed=isinstance(outcome, Exception))
                    yield outcome
                    del outcome  # the next answer may take long
                self.last_partial = None
            except KeyboardInterrupt as interrupt:
                self._tell_of_map(interrupt, ahead)
                raise
            finally:
                ahead.cancel()

    def _tell_of_map(self, interrupt: KeyboardInterrupt, ahead: MapWindow) -> None:
        given = ahead.given
        cancelled, running, answers = ahead.cancel()
        self._keep(interrupt, answers)
        tell(
            interrupt,
            f"map handed out {given:,} answers; {len(answers):,} more are done (queue.last_partial), {running:,} on "
            f"their way, {cancelled:,} cancelled unsent; to continue, map the prompts from number {given} on",
        )

    def _map_window(
        self,
        prompts: Iterable[Any],
        size: int | None,
        timeout: Any,
        options: dict[str, Any],
        numbers: list[int] | None = None,
    ) -> MapWindow:
        """Return the window of one map; *numbers* are the positions for the custom_ids, if not 0, 1, 2 …"""
        refuse_table(prompts)
        if isinstance(prompts, (str, bytes, dict)) or not isinstance(prompts, Iterable):
            raise ConfigurationError(f"prompts={safe_repr(prompts)}: pass a list or another iterable of prompts")
        check_wait("timeout", timeout)
        custom_id = options.pop("custom_id", None)
        if custom_id is not None and (not isinstance(custom_id, str) or "{}" not in custom_id):
            raise ConfigurationError(
                f"custom_id={safe_repr(custom_id)}: each request needs its own; "
                "put {} where its number goes: 'row-{}'"
            )
        check_options(options)

        def submit(prompt: Any, place: int) -> Future[Completion]:
            if custom_id is None:
                return self.submit(prompt, **options)
            number = place if numbers is None else numbers[place]
            return self.submit(prompt, custom_id=fill(custom_id, number), **options)

        return MapWindow(submit, prompts, size or self._window, timeout)

    def _keep(self, error: BaseException, partial: Any) -> None:
        """Keep what was paid for when a map ends early."""
        self.last_partial = error.partial = partial  # type: ignore[attr-defined]


def _watching(stats: Callable[[], Stats], total: int | None, progress: Any) -> AbstractContextManager[Any]:
    """Return the context in which progress is shown, of an object with ``advance``, or of None."""
    if progress is False or progress is None:
        return nullcontext()
    if progress is not True and not callable(progress):
        raise ConfigurationError(f"progress={safe_repr(progress)}: use True, False or a callable")
    from groq_queue.reporting.progress import watching  # type: ignore[import-not-found, unused-ignore]

    line: AbstractContextManager[Any] = watching(stats, total, progress)
    return line


def _count(prompts: Any) -> int | None:
    return len(prompts) if isinstance(prompts, Sized) else None


def _known(done: Any, length: int) -> Texts:
    """Return the texts that are known already."""
    if done is None:
        return [None] * length
    known = column_of(done, "done").values
    if len(known) != length:
        raise ConfigurationError(f"done: {len(known):,} answers for a column of {length:,} values")
    for row, text in enumerate(known):
        if text is not None and not isinstance(text, str):
            raise ConfigurationError(f"done[{row}]={safe_repr(text)}: an answer is a str; leave missing ones None")
    return list(known)


_T = TypeVar("_T")


class View(BulkMethods):
    """What ``with_options`` returns. Immutable, so thread-safe."""

    _queue: Any
    _options: dict[str, Any]

    def __init__(self, queue: Any, options: Mapping[str, Any]) -> None:
        if isinstance(queue, View):
            options = {**queue._options, **options}
            queue = queue._queue
        check_options(options)
        self._queue = queue
        self._options = dict(options)
        self._window = queue._window

    if not TYPE_CHECKING:  # they take what they see in ``BulkMethods``: each option of ``submit``, with its type

        def submit(self, prompt: Any = None, /, **options: Any) -> RequestFuture[Completion]:
            """Queue one request with the view's options where *options* and the payload say nothing."""
            named = prompt if isinstance(prompt, Mapping) else ()
            defaults = {name: value for name, value in self._options.items() if name not in named}
            return self._queue.submit(prompt, **{**defaults, **options})

    def submit_call(
        self, fn: Callable[..., _T], /, *args: Any, queue_options: CallOptions | None = None, **kwargs: Any
    ) -> RequestFuture[_T]:
        """Queue your own callable with the view's options. Parameters of the API stay with ``submit``.

        Raises:
            ConfigurationError: The view has an option that no callable can have: ``endpoint``, ``shrink``, ``dedupe``.
        """
        future: RequestFuture[_T] = self._queue.submit_call(
            fn, *args, queue_options={**options_of_calls(self._options), **(queue_options or {})}, **kwargs
        )
        return future

    def executor(self) -> Executor:
        """Return an executor of calls with the view's options, as ``submit_call`` takes them.

        Raises:
            ConfigurationError: The view has an option that no callable can have.
        """
        options_of_calls(self._options)  # now, since code that maps over an executor may never look at a call's error
        return super().executor()

    def stats(self) -> Stats:
        """Return one consistent snapshot of the whole queue's counts."""
        stats: Stats = self._queue.stats()
        return stats

    def _is_inside(self) -> bool:
        return bool(self._queue._is_inside())

    @property
    def last_partial(self) -> Any:
        """The queue's."""
        return self._queue.last_partial

    @last_partial.setter
    def last_partial(self, partial: Any) -> None:
        self._queue.last_partial = partial

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r:.50}" for name, value in self._options.items())
        return f"<view of {self._queue!r} with {options or 'no options'}>"

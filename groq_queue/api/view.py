"""A queue with other defaults: same threads, same budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from groq_queue.api.bulk import BulkMethods
from groq_queue.api.requests import check_options, ours
from groq_queue.core.response import Completion
from groq_queue.engine.stats import Stats

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

    def submit(self, prompt: Any = None, /, **options: Any) -> Future[Completion]:
        """Queue one request with the view's options where *options* and the payload say nothing."""
        named = prompt if isinstance(prompt, Mapping) else ()
        defaults = {name: value for name, value in self._options.items() if name not in named}
        future: Future[Completion] = self._queue.submit(prompt, **{**defaults, **options})
        return future

    def submit_call(
        self, fn: Callable[..., _T], /, *args: Any, queue_options: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Future[_T]:
        """Queue your own callable with the view's options, but for parameters of the API."""
        options = ours(self._options).items()
        defaults = {name: value for name, value in options if name in _OF_CALLS and value is not None}
        future: Future[_T] = self._queue.submit_call(
            fn, *args, queue_options={**defaults, **(queue_options or {})}, **kwargs
        )
        return future

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
        told = ", ".join(f"{name}={value!r:.50}" for name, value in self._options.items())
        return f"<view of {self._queue!r} with {told or 'no options'}>"


_OF_CALLS = {"priority", "client", "model", "tokens", "audio_seconds", "max_wait", "deadline", "not_before", "callback"}

"""Queues by name, so that running a notebook's cell again finds the one that is already there."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from groq_queue.engine.log import log_fields
from groq_queue.engine.stats import Stats
from groq_queue.errors import ConfigurationError, safe_repr
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")


@runtime_checkable
class Closable(Protocol):
    """A queue, as this file knows it."""

    def stats(self) -> Stats: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...


_Queue = TypeVar("_Queue", bound=Closable)

_lock = threading.RLock()  # guards _named, nothing is made or shut down under it
_named: dict[str, tuple[weakref.ref[Any], Any]] = {}


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread may have held the parent's when it forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def get_or_create_named(name: str, make: Callable[..., _Queue], settings: Mapping[str, Any]) -> _Queue:
    """Return the live queue of that name, if it was made by *make* with equal settings; else make it.

    One made with other settings is shut down without waiting: it sends what it has. If
    the new one wants its journal, it ends first, and the new one sends what is left in there.
    """
    made_by = (make, _without_key(settings))
    found: _Queue | None = _find(name, made_by)
    if found is not None:
        return found
    _free_journal(name, settings.get("journal"))
    queue = make(**settings)
    if not isinstance(queue, Closable):
        raise ConfigurationError(f"make={safe_repr(make)}: it returned a {type(queue).__name__}, not a queue")
    with _lock:
        found = _find(name, made_by)  # another thread was faster
        old = None
        if found is None:
            old = _named[name][0]() if name in _named else None
            _named[name] = (weakref.ref(queue), made_by)
    if found is not None:
        queue.shutdown(wait=False)
        return found
    if old is not None:
        if old.stats().running:
            _log.warning(
                "queue %r: its settings changed; the old one sends what it has and ends",
                name,
                extra=log_fields("queue_replaced"),
            )
        old.shutdown(wait=False)
    return queue


def _find(name: str, made_by: object) -> Any:
    with _lock:
        reference, known = _named.get(name, (None, None))
    queue = None if reference is None else reference()
    return queue if queue is not None and known == made_by and queue.stats().running else None


def _free_journal(name: str, journal: Any) -> None:
    """End the queue of that name if it has *journal* open, which only one queue may."""
    with _lock:
        reference, known = _named.get(name, (None, None))
    queue = None if reference is None else reference()
    if queue is None or known is None or journal is None:
        return
    theirs = known[1].get("journal")
    if theirs is not None and os.path.realpath(str(theirs)) == os.path.realpath(str(journal)) and queue.stats().running:
        _log.warning(
            "queue %r: its settings changed; the new one sends what is left in the journal",
            name,
            extra=log_fields("queue_replaced"),
        )
        queue.shutdown(wait=True, cancel_futures=True)


def _without_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two queues must have in common to be one; no key stays in memory for it."""
    key = settings.get("api_key") or os.environ.get("GROQ_API_KEY") or ""
    return {
        **settings,
        "api_key": hashlib.sha256(str(key).encode()).hexdigest(),
        "base_url": settings.get("base_url") or os.environ.get("GROQ_BASE_URL"),
    }

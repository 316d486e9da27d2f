"""Calls observers at the end of each attempt: the hook for the user's own metrics, traces and logs.

An observer is called once for each attempt, on the worker's thread, when the lease
is ended and before the Future is; no lock is held. One that raises is logged and
harms nothing; one that is slow delays its own worker only. What ends without
an attempt (cancelled, expired, refused for a used-up daily limit) makes no event: the
Future's callback and ``stats()`` show that.

What holds on the thread that submits, such as the span of a trace, is gone on the
worker's. An observer with a method ``at_submit`` is asked there, and gets what it
returned back in each event of the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import Lease
from groq_queue.core.request import Request
from groq_queue.core.response import Completion, decode_object, usage_of
from groq_queue.engine.attempt import Disposition, Outcome
from groq_queue.engine.lane import Meter
from groq_queue.engine.log import log_fields
from groq_queue.engine.protocols import Attempts
from groq_queue.errors import APIResponseError, APIStatusError
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_OUTCOMES = {
    Disposition.DONE: "done",
    Disposition.RETRY: "again",
    Disposition.RATE_LIMITED: "refused",
    Disposition.FAILED: "failed",
    Disposition.STOP_ALL: "stopped",
}


class Event(NamedTuple):
    """The end of one attempt.

    Attributes:
        request_id: Our id of the request.
        custom_id: The caller's own id, or None.
        model: Its model.
        lane: The model, and the service tier if it is not the usual one.
        endpoint: Path below the base URL.
        client: Whose turn it used.
        priority: 0..10.
        attempt: 1 for the first.
        outcome: ``"done"``; ``"again"``: it is retried after a backoff; ``"refused"``:
            it waits for its limit and is sent again; ``"failed"``: for good;
            ``"stopped"``: for good, and the whole queue with it; ``"broke"``: a bug.
        status: HTTP status, 200 standing for every success; None without an answer.
        error: What went wrong, or None. Its text may repeat what the server said.
        started_at: Seconds of the Unix epoch at which the attempt began.
        seconds: It took.
        waited_s: Seconds from ``submit`` to the first attempt.
        retry_s: Seconds of backoff before the next attempt, 0 if there is none or its limit decides.
        usage: ``(prompt, completion, cached)`` tokens in the answer, or None.
        answer_id, answer_model: ``id`` and ``model`` of the answer, or None.
        finish_reasons: Of its choices.
        payload: What was sent, decoded, and
        answer: what came back; both None unless the observer has a true attribute
            ``wants_content``: prompts do not leak by default.
        noted: What this observer's ``at_submit`` returned; None if it has none, or the request comes out of a journal.
    """

    request_id: str
    custom_id: str | None
    model: str
    lane: str
    endpoint: str
    client: str
    priority: int
    attempt: int
    outcome: str
    status: int | None
    error: BaseException | None
    started_at: float
    seconds: float
    waited_s: float
    retry_s: float
    usage: tuple[int, int, int] | None = None
    answer_id: str | None = None
    answer_model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    payload: Mapping[str, Any] | None = None
    answer: Completion | None = None
    noted: Any = None


Observer = Callable[[Event], object]
_Future = TypeVar("_Future")
_Callback = TypeVar("_Callback")


def noting(
    accept: Callable[[Request, _Callback], _Future], observers: Sequence[Observer]
) -> Callable[[Request, _Callback], _Future]:
    """Return *accept*, or what asks observers what they note of the submitting thread first, if any wants to."""
    asked = [getattr(observer, "at_submit", None) for observer in observers]
    if not any(map(callable, asked)):
        return accept

    def note_and_accept(request: Request, callback: _Callback) -> _Future:
        request.noted = tuple(map(_noted, observers, asked))
        return accept(request, callback)

    return note_and_accept


def _noted(observer: Observer, at_submit: Any) -> Any:
    try:
        return at_submit() if callable(at_submit) else None
    except Exception:  # the user's code; it must not cost the submit
        _log.exception("observer %r raised at a submit", _name_of(observer), extra=log_fields("observer_raised"))
        return None


class Observed:
    """Runs attempts as *attempts* does, and tells *observers* of each."""

    def __init__(self, attempts: Attempts, observers: Sequence[Observer], clock: Clock) -> None:
        self._attempts = attempts
        self._observers = tuple(observers)
        self._wants_content = any(getattr(observer, "wants_content", False) for observer in observers)
        self._clock = clock

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        """Run one attempt, whose outcome no observer can change."""
        body, noted = request.body if self._wants_content else None, request.noted
        started_at, began_ns = self._clock.wall_s(), self._clock.now_ns()
        try:
            outcome = self._attempts.attempt(request, lease, meter)
        except BaseException as error:
            self._tell(_event(request, "broke", error, started_at, self._seconds_since(began_ns)), body, None, noted)
            raise
        event = _event(request, _OUTCOMES[outcome.next], outcome.error, started_at, self._seconds_since(began_ns))
        if noted and outcome.next not in (Disposition.RETRY, Disposition.RATE_LIMITED):
            request.noted = ()  # its Future may be kept for long
        self._tell(_with_answer(event, outcome), body, outcome.result, noted)
        return outcome

    def _seconds_since(self, began_ns: int) -> float:
        return (self._clock.now_ns() - began_ns) / NS_PER_S

    def _tell(self, event: Event, body: bytes | None, answer: Completion | None, noted: tuple[Any, ...]) -> None:
        full = event
        if body is not None:
            full = event._replace(payload=_decoded(body), answer=answer)
        for place, observer in enumerate(self._observers):
            try:
                shown = full if getattr(observer, "wants_content", False) else event
                observer(shown._replace(noted=noted[place]) if noted else shown)
            except BaseException:  # a worker's thread: even SystemExit must not end the worker
                _log.exception(
                    "observer %r raised on request %s; the request is not affected",
                    _name_of(observer),
                    event.request_id[:8] if event.custom_id is None else repr(event.custom_id),
                    extra=log_fields("observer_raised", request_id=event.request_id, custom_id=event.custom_id),
                )


def _name_of(observer: Observer) -> str:
    try:
        return str(getattr(observer, "__qualname__", type(observer).__name__))
    except Exception:  # an observer may answer for its attributes itself
        return type(observer).__name__


def _event(request: Request, outcome: str, error: BaseException | None, started_at: float, seconds: float) -> Event:
    if isinstance(error, APIStatusError):
        status: int | None = error.status_code
    else:
        status = 200 if error is None or isinstance(error, APIResponseError) else None
    return Event(
        request_id=request.id,
        custom_id=request.custom_id,
        model=request.model,
        lane=request.lane,
        endpoint=request.endpoint,
        client=request.client,
        priority=request.priority,
        attempt=request.attempts,
        outcome=outcome,
        status=status,
        error=error,
        started_at=started_at,
        seconds=seconds,
        waited_s=((request.started_ns or request.submitted_ns) - request.submitted_ns) / NS_PER_S,
        retry_s=0.0,
    )


def _with_answer(event: Event, outcome: Outcome) -> Event:
    answer = outcome.result
    if not isinstance(answer, Completion):
        return event._replace(retry_s=outcome.wait_ns / NS_PER_S)
    choices = answer.get("choices")
    reasons = [choice.get("finish_reason") for choice in choices or () if isinstance(choice, Mapping)]
    return event._replace(
        usage=usage_of(answer),
        answer_id=_text(answer.get("id")),
        answer_model=_text(answer.get("model")),
        finish_reasons=tuple(reason for reason in reasons if isinstance(reason, str)),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _decoded(body: bytes) -> Mapping[str, Any] | None:
    try:
        return decode_object(body)
    except ValueError:  # a body that is not a JSON object
        return None

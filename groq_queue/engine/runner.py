"""One attempt from lease to outcome: send, settle, read the answer, decide.

The same code serves every engine; it knows nothing of threads or lanes. The
lease it is given is ended exactly once, by this rule:

* answered: settled to the usage the answer tells;
* refused by the limiter, or certainly not sent, or not processed (498): refunded;
* anything else (5xx, reset, timeout, unreadable answer): settled in full, since
  the server may have charged it.

A request may bring a callable of the user's own instead of a body. ``calls`` reads
what it returned or raised as an answer; from there on the way is the same.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.budget import Lease
from groq_queue.core.completion import Completion, decode_object, usage_of
from groq_queue.core.headers import Refusal, parse_rate_headers, parse_retry_after
from groq_queue.core.pricing import Cost, Size, corrected
from groq_queue.core.request import Request, lower_cap
from groq_queue.core.retry import Meaning, RetryPolicy, meaning_of
from groq_queue.engine.calls import Call
from groq_queue.engine.lane import Meter
from groq_queue.engine.log import told, told_error
from groq_queue.errors import APIConnectionError, APIError, APIResponseError, GroqQueueError, excerpt, status_error
from groq_queue.forking import renew_in_children

_log = logging.getLogger("groq_queue")

_JITTER_NS = (1_000_000, 15_000_000)  # added to the server's exact wait, after which the request fits by zero margin
_BLIND_HOLD_S = 1.0  # first hold after a 429 that names no wait; doubles with each further one
_BLIND_CAP_S = 60.0
_NOTHING = Cost(0)


class Reply(Protocol):
    """An HTTP answer, read to its end."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class Transport(Protocol):
    """Carries one attempt; see ``transport.contract``."""

    def send(self, endpoint: str, body: bytes, *, timeout: tuple[float, float]) -> Reply: ...


class Next(Enum):
    """What is to happen to the request after an attempt."""

    DONE = "done"
    AGAIN = "again"  # after a backoff of its own
    REFUSED = "refused"  # back to its place; the lane waits
    FAILED = "failed"
    STOP = "stop"  # and everybody else with it


class Outcome(NamedTuple):
    """The end of one attempt."""

    next: Next
    result: Any = None  # a Completion, or what the user's own callable returned
    error: GroqQueueError | None = None
    wait_ns: int = 0
    charged: Cost = _NOTHING  # what has to be paid for, as far as known


class Runner:
    """Runs attempts; safe to use from many threads at once."""

    def __init__(
        self, transport: Transport, policy: RetryPolicy, timeout: tuple[float, float], clock: Clock, dice: random.Random
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._timeout = timeout
        self._clock = clock
        self._dice = dice
        self._blind = 0  # refusals in a row that named no wait; approximate under threads, which only blurs a backoff
        renew_in_children(self)

    def renew(self) -> None:
        """Throw other dice in a forked child, or all children would come back at the same instants."""
        self._dice.seed()
        self._blind = 0

    def attempt(self, request: Request, lease: Lease, meter: Meter) -> Outcome:
        """Send *request* once and end *lease*.

        The request's counters are the runner's to change while it runs.
        """
        assert request.body is not None
        request.attempts += 1
        if request.call is not None:
            return self._called(request, request.call, lease, meter)
        try:
            reply = self._transport.send(request.endpoint, request.body, timeout=self._timeout)
        except APIConnectionError as error:
            return self._lost(request, lease, meter, error)
        if 200 <= reply.status < 300:
            return self._answered(request, lease, meter, reply)
        return self._turned_down(request, lease, meter, reply)

    def _answered(self, request: Request, lease: Lease, meter: Meter, reply: Reply) -> Outcome:
        now_ns = self._clock.now_ns()
        try:
            answer = decode_object(reply.body)
            if request.endpoint == "chat/completions" and not isinstance(answer.get("choices"), list):
                raise ValueError("no choices in it")
        except ValueError as problem:
            meter.settle(lease, request.size, None, None, now_ns)
            said = excerpt(reply.body.decode("utf-8", "replace"), 120)
            error = APIResponseError(
                f"HTTP {reply.status} with an unreadable body ({problem}), may have been billed: {said}",
                **_facts(request),
            )
            error.server_request_id = reply.headers.get("x-request-id")
            meter.trouble(now_ns)
            request.unknown += 1
            allowed = request.unknown <= self._policy.max_unknown
            return self._again(request, error, 0, allowed=allowed, charged=lease.cost)
        charged = self._settled(request, lease, meter, usage_of(answer), reply.headers, now_ns)
        waited_ns = (request.started_ns or 0) - request.submitted_ns
        completion = Completion(
            answer, custom_id=request.custom_id, attempts=request.attempts, waited=waited_ns / NS_PER_S
        )
        return Outcome(Next.DONE, result=completion, charged=charged)

    def _settled(
        self,
        request: Request,
        lease: Lease,
        meter: Meter,
        usage: tuple[int, int, int] | None,
        headers: Mapping[str, str],
        now_ns: int,
    ) -> Cost:
        """End the lease of an answered request and return what has to be paid for."""
        self._tell(request, meter.settle(lease, request.size, usage, parse_rate_headers(headers), now_ns))
        self._blind = 0
        return _paid(usage) if usage else lease.cost

    def _called(self, request: Request, call: Call, lease: Lease, meter: Meter) -> Outcome:
        """Run the user's own callable once; it may have another key, so its 401 stops nobody else."""
        told = call.run(lambda headers: self._begun(request, lease, meter, headers))
        now_ns = self._clock.now_ns()
        if isinstance(told, APIConnectionError):
            outcome = self._lost(request, lease, meter, told)
        elif isinstance(told, APIError):
            told.request_id, told.custom_id = request.id, request.custom_id
            meter.settle(lease, request.size, None, None, now_ns)
            outcome = self._failed(request, told)._replace(charged=lease.cost)
        elif told.status < 400:
            headers = told.headers if lease.is_open else {}  # else they were taken in when the answer began
            return Outcome(Next.DONE, charged=self._settled(request, lease, meter, told.usage, headers, now_ns))
        else:
            outcome = self._turned_down(request, lease, meter, told)
        call.failed_with(outcome.error)
        return outcome._replace(next=Next.FAILED) if outcome.next is Next.STOP else outcome

    def _begun(self, request: Request, lease: Lease, meter: Meter, headers: Mapping[str, str]) -> None:
        """Learn from the head of an answer that somebody reads at leisure, if others wait for the first one.

        The reader may be the one who waits, so its lease cannot last until it has read on.
        """
        now_ns = self._clock.now_ns()
        blocked = meter.blocks(request.size, now_ns)
        if blocked is not None and blocked.reason == "learning":
            self._settled(request, lease, meter, None, headers, now_ns)

    def _lost(self, request: Request, lease: Lease, meter: Meter, error: APIConnectionError) -> Outcome:
        if error.sent == "no":
            meter.refund(lease)
        else:
            meter.settle(lease, request.size, None, None, self._clock.now_ns())
        meter.trouble(self._clock.now_ns())
        allowed = self._policy.may_resend(error, request.unknown)
        if error.sent != "no":
            request.unknown += 1
        error.request_id, error.custom_id = request.id, request.custom_id
        return self._again(request, error, 0, allowed=allowed, charged=lease.cost if error.sent != "no" else _NOTHING)

    def _turned_down(self, request: Request, lease: Lease, meter: Meter, reply: Reply) -> Outcome:
        now_ns = self._clock.now_ns()
        body = _decoded(reply.body)
        meaning, refusal = meaning_of(reply.status, body)
        is_too_large = refusal is not None and refusal.is_too_large
        error = status_error(reply.status, body, reply.headers, too_large=is_too_large, **_facts(request))
        told_ns = parse_retry_after(reply.headers.get("retry-after"), self._clock.wall_s())
        if meaning is Meaning.REFUSED:
            wait_ns = refusal.wait_ns if refusal is not None and refusal.wait_ns is not None else told_ns
            if refusal is not None and refusal.wait_ns is not None:
                may_ask_again = self._policy.may_ask_again(request.refusals)
                request.refusals += 1
            else:
                may_ask_again = self._policy.may_retry(request.retries)
                request.retries += 1
            if wait_ns is None:
                wait_ns = self._blind_hold_ns()
            wait_ns += self._dice.randint(*_JITTER_NS)
            self._tell(request, meter.refused(lease, request.size, refusal, wait_ns, now_ns))
            request.size = corrected(request.size, refusal)
            if not may_ask_again:
                return self._failed(request, error)
            self._log_failed(request, error, wait_ns)
            return Outcome(Next.REFUSED, error=error)
        if refusal is not None:
            self._tell(request, meter.refused(lease, request.size, refusal, 0, now_ns))
            if self._shrunk(request, refusal):
                return Outcome(Next.REFUSED, error=error)
        elif meaning is Meaning.STOP or reply.status == 498:
            meter.refund(lease)
        else:
            meter.settle(lease, request.size, None, None, now_ns)
        if meaning is Meaning.RETRY:
            meter.trouble(now_ns)
        if meaning is Meaning.STOP:
            error.attempts = request.attempts
            return Outcome(Next.STOP, error=error)
        return self._again(request, error, told_ns or 0, allowed=meaning is Meaning.RETRY)

    def _again(
        self, request: Request, error: APIError, told_ns: int, *, allowed: bool, charged: Cost = _NOTHING
    ) -> Outcome:
        """Retry with backoff if it is *allowed* and retries are left; the server's wait wins over ours."""
        if not allowed or not self._policy.may_retry(request.retries):
            return self._failed(request, error)._replace(charged=charged)
        wait_ns = max(told_ns, self._policy.backoff_ns(request.retries, self._dice))
        request.retries += 1
        self._log_failed(request, error, wait_ns)
        return Outcome(Next.AGAIN, error=error, wait_ns=wait_ns, charged=charged)

    @staticmethod
    def _shrunk(request: Request, refusal: Refusal) -> bool:
        """Lower the completion allowance of a request that asked for it to what the server said would fit."""
        if not request.shrinks or refusal.requested is None or refusal.limit is None or request.body is None:
            return False
        fitting = lower_cap(request.body, refusal.requested - refusal.limit)
        if fitting is None:
            return False
        request.body, completion = fitting
        request.size = Size(refusal.limit - completion, completion, request.size.audio_s, is_exact=True)
        return True

    @staticmethod
    def _failed(request: Request, error: APIError) -> Outcome:
        error.attempts = request.attempts
        return Outcome(Next.FAILED, error=error)

    def _blind_hold_ns(self) -> int:
        """Return a growing hold for a server that refuses without saying for how long."""
        bound_s = min(_BLIND_CAP_S, _BLIND_HOLD_S * 2.0 ** min(self._blind, 20))
        self._blind += 1
        return round(bound_s * self._dice.uniform(0.85, 1.15) * NS_PER_S)

    @staticmethod
    def _log_failed(request: Request, error: APIError, wait_ns: int) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            facts = told("attempt_failed", request, wait_s=wait_ns / NS_PER_S, **told_error(error))
            _log.debug("attempt %d of %s failed: %s", request.attempts, request, facts["error"], extra=facts)

    @staticmethod
    def _tell(request: Request, notices: list[str]) -> None:
        for notice in notices:
            _log.warning(
                "%s: %s; if that is not what you meant, correct limits=, or leave it out to use the server's",
                excerpt(request.model),
                notice,
                extra=told("limits_noticed", request, limit=notice.partition(":")[0]),
            )


def _paid(usage: tuple[int, int, int]) -> Cost:
    """Return the tokens to be paid for; cached ones at half the price, rounded up."""
    prompt, completion, cached = usage
    return Cost(prompt - cached // 2, completion)


def _facts(request: Request) -> dict[str, Any]:
    return {"request_id": request.id, "custom_id": request.custom_id}


def _decoded(body: bytes) -> Any:
    """Return an error's body as JSON, or as text if it is not JSON."""
    try:
        return decode_object(body)
    except ValueError:
        return body.decode("utf-8", "replace")

"""One attempt from lease to outcome: send, settle, read the answer, decide.

The same code serves every engine; it knows nothing of threads or lanes. The
lease it is given is ended exactly once, by this rule:

* answered: settled to the usage in the answer;
* refused by the limiter, or certainly not sent, or not processed (498): refunded;
* anything else (5xx, reset, timeout, unreadable answer): settled in full, since
  the server may have charged it.

Money follows the same rule but for an error status that says that no work was done:
what may have been billed is charged in full, and repeated only ``max_unknown`` times.

A request may bring a callable of the user's own instead of a body. ``callables`` reads
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
from groq_queue.core.headers import Refusal, parse_rate_headers, parse_retry_after
from groq_queue.core.request import Request, lower_cap
from groq_queue.core.response import Completion, decode_object, usage_of
from groq_queue.core.retry import LaneHealth, Meaning, RetryPolicy, meaning_of
from groq_queue.core.token_estimate import PromptSize, TokenCost, corrected
from groq_queue.display import duration_text
from groq_queue.engine.callables import Call
from groq_queue.engine.lane import Meter
from groq_queue.engine.log import error_fields, log_fields
from groq_queue.errors import APIConnectionError, APIError, APIResponseError, GroqQueueError, excerpt, status_error
from groq_queue.lifecycle import register_for_fork
from groq_queue.logger import SafeLogger

_log = SafeLogger("groq_queue")

_JITTER_NS = (1_000_000, 15_000_000)  # added to the server's exact wait, after which the request fits by zero margin
_OVERTAKEN = 2  # times from which a refusal is the request's own affair; once, two attempts may have changed places
_OTHERS_TRY = range(2, 4)  # rounds of refusals after which another request is tried first
_AFTER_OTHERS_NS = 100_000_000  # longer than the hold of its lane, so that the next attempt is another's
_LONGEST_PAUSE_NS = 60 * NS_PER_S  # of a lane, by a failing server's wish; then one attempt a minute looks again
_LONGEST_WAIT_NS = 3_600 * NS_PER_S  # of a request, by a failing server's wish
_LONGEST_HOLD_NS = 86_400 * NS_PER_S  # of a lane, by the limiter's wish; no limit has a longer period
_NOTHING = TokenCost(0)


class ReplyLike(Protocol):
    """An HTTP answer, read to its end."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


class TransportLike(Protocol):
    """Carries one attempt; see ``transport.protocol``."""

    def send(self, endpoint: str, body: bytes, *, timeout: tuple[float, float]) -> ReplyLike: ...


class Disposition(Enum):
    """What is to happen to the request after an attempt."""

    DONE = "done"
    RETRY = "again"  # after a backoff of its own
    RATE_LIMITED = "refused"  # back to its place; the lane waits
    FAILED = "failed"
    STOP_ALL = "stop"  # and everybody else with it


class Outcome(NamedTuple):
    """The end of one attempt."""

    next: Disposition
    result: Any = None  # a Completion, or what the user's own callable returned
    error: GroqQueueError | None = None
    wait_ns: int = 0
    charged: TokenCost = _NOTHING  # what has to be paid for, as far as known


class _Lanes(dict[str, LaneHealth]):
    """The health of each lane by its name."""

    def __missing__(self, name: str) -> LaneHealth:
        return self.setdefault(name, LaneHealth())  # of threads that come together, one makes it for all


class Runner:
    """Runs attempts; safe to use from many threads at once."""

    def __init__(
        self,
        transport: TransportLike,
        policy: RetryPolicy,
        timeout: tuple[float, float],
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._transport = transport
        self._policy = policy
        self._timeout = timeout
        self._clock = clock
        self._rng = rng
        self._lanes = _Lanes()
        register_for_fork(self)

    def reset_after_fork(self) -> None:
        """Reseed the random generator in a forked child, or all children would retry at the same instants."""
        self._rng.seed()
        self._lanes = _Lanes()

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
            return self._on_connection_error(request, lease, meter, error)
        if 200 <= reply.status < 300:
            return self._answered(request, lease, meter, reply)
        return self._on_error_status(request, lease, meter, reply)

    def _answered(self, request: Request, lease: Lease, meter: Meter, reply: ReplyLike) -> Outcome:
        now_ns = self._clock.now_ns()
        try:
            answer = decode_object(reply.body)
            if request.endpoint == "chat/completions" and not isinstance(answer.get("choices"), list):
                raise ValueError("no choices in it")
        except ValueError as problem:
            return self._unreadable(request, lease, meter, reply, problem, now_ns)
        waited_ns = (request.started_ns or 0) - request.submitted_ns
        completion = Completion(
            answer, custom_id=request.custom_id, attempts=request.attempts, waited=waited_ns / NS_PER_S
        )
        charged = self._settled(request, lease, meter, usage_of(answer), reply.headers, now_ns)
        return Outcome(Disposition.DONE, result=completion, charged=charged)

    def _unreadable(
        self, request: Request, lease: Lease, meter: Meter, reply: ReplyLike, problem: ValueError, now_ns: int
    ) -> Outcome:
        """Pay for a success without an answer; ask again only if the same request may get another one."""
        meter.settle(lease, request.size, None, None, now_ns)
        said = excerpt(reply.body.decode("utf-8", "replace"), 120)
        error = APIResponseError(
            f"HTTP {reply.status} with an unreadable body ({problem}), may have been billed: {said}", **_facts(request)
        )
        error.server_request_id = reply.headers.get("x-request-id")
        # A page, a text or a list is what this address says to everybody; half an object was cut off on its way.
        is_final = reply.body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"", b"{")
        return self._unsure(request, lease, meter, error, 0, now_ns, allowed=not is_final)

    def _settled(
        self,
        request: Request,
        lease: Lease,
        meter: Meter,
        usage: tuple[int, int, int] | None,
        headers: Mapping[str, str],
        now_ns: int,
    ) -> TokenCost:
        """End the lease of an answered request and return what has to be paid for."""
        notices = meter.settle(lease, request.size, usage, parse_rate_headers(headers), now_ns)
        if notices:
            self._tell(request, notices)
        self._lanes[request.lane].answered(lease.granted_ns, now_ns)
        if not usage:
            return lease.cost
        prompt, completion, cached = usage
        return TokenCost(prompt - cached // 2, completion)  # cached ones at half the price, rounded up

    def _called(self, request: Request, call: Call, lease: Lease, meter: Meter) -> Outcome:
        """Run the user's own callable once; it may have another key, so its 401 stops no other request."""
        answer = call.run(lambda headers: self._begun(request, lease, meter, headers))
        now_ns = self._clock.now_ns()
        if isinstance(answer, APIConnectionError):
            outcome = self._on_connection_error(request, lease, meter, answer)
        elif isinstance(answer, APIError):
            answer.request_id, answer.custom_id = request.id, request.custom_id
            meter.settle(lease, request.size, None, None, now_ns)
            outcome = self._failed(request, answer)._replace(charged=lease.cost)
        elif answer.status < 400:
            headers = answer.headers if lease.is_open else {}  # else they were taken in when the answer began
            return Outcome(
                Disposition.DONE, charged=self._settled(request, lease, meter, answer.usage, headers, now_ns)
            )
        else:
            outcome = self._on_error_status(request, lease, meter, answer)
        call.failed_with(outcome.error)
        return outcome._replace(next=Disposition.FAILED) if outcome.next is Disposition.STOP_ALL else outcome

    def _begun(self, request: Request, lease: Lease, meter: Meter, headers: Mapping[str, str]) -> None:
        """Learn from the headers of an answer whose body the caller reads later, if others wait for the first one.

        The reader may be the one who waits, so its lease cannot last until it has read on.
        """
        now_ns = self._clock.now_ns()
        blocked = meter.blocks(request.size, now_ns)
        if blocked is not None and blocked.reason == "learning":
            self._settled(request, lease, meter, None, headers, now_ns)

    def _on_connection_error(self, request: Request, lease: Lease, meter: Meter, error: APIConnectionError) -> Outcome:
        now_ns = self._clock.now_ns()
        error.request_id, error.custom_id = request.id, request.custom_id
        if error.sent == "no":
            meter.refund(lease)
            meter.trouble(now_ns)
            return self._again(
                request, error, 0, now_ns, left=0 if error.is_final else self._policy.left(request.retries)
            )
        meter.settle(lease, request.size, None, None, now_ns)
        if error.is_stale and not request.was_stale:
            # The server most probably hung up before it read the request, which counts as no failure: sent again at
            # once, once, whatever the policy, but as an attempt like any other, since it may have been read.
            request.was_stale = True
            self._log_failed(request, error, 0)
            return Outcome(Disposition.RETRY, error=error, charged=lease.cost)
        return self._unsure(request, lease, meter, error, 0, now_ns, allowed=not error.is_final)

    def _on_error_status(self, request: Request, lease: Lease, meter: Meter, reply: ReplyLike) -> Outcome:
        now_ns = self._clock.now_ns()
        body = _decoded(reply.body)
        meaning, refusal = meaning_of(reply.status, body)
        is_too_large = refusal is not None and refusal.is_too_large
        error = status_error(reply.status, body, reply.headers, too_large=is_too_large, **_facts(request))
        server_wait_ns = parse_retry_after(
            reply.headers.get("retry-after"), self._clock.wall_s(), reply.headers.get("date")
        )
        if meaning is Meaning.REFUSED:
            return self._refused(request, lease, meter, error, refusal, server_wait_ns, now_ns)
        if refusal is not None:
            self._tell(request, meter.refused(lease, request.size, refusal, 0, now_ns))
            return (
                Outcome(Disposition.RATE_LIMITED, error=error)
                if self._shrunk(request, refusal)
                else self._failed(request, error)
            )
        if meaning is Meaning.STOP:
            meter.refund(lease)
            error.attempts = request.attempts
            return Outcome(Disposition.STOP_ALL, error=error)
        if reply.status == 498:
            meter.refund(lease)
        else:
            meter.settle(lease, request.size, None, None, now_ns)
        if meaning is Meaning.FINAL:
            return self._failed(request, error)
        if server_wait_ns:
            # Meant for everybody, and more exact than what would be guessed from failures.
            meter.pause(min(server_wait_ns, _LONGEST_PAUSE_NS), now_ns)
            if server_wait_ns > _LONGEST_WAIT_NS:
                self._tell_long_wait(request, error, server_wait_ns)
                server_wait_ns = _LONGEST_PAUSE_NS
        if meaning is Meaning.UNSURE:
            return self._unsure(request, lease, meter, error, server_wait_ns or 0, now_ns)
        if not server_wait_ns:
            meter.trouble(now_ns)
        return self._again(request, error, server_wait_ns or 0, now_ns, left=self._policy.left(request.retries))

    def _refused(
        self,
        request: Request,
        lease: Lease,
        meter: Meter,
        error: APIError,
        refusal: Refusal | None,
        server_wait_ns: int | None,
        now_ns: int,
    ) -> Outcome:
        """Hold the lane that the limiter refused, or only the request if others pass."""
        health = self._lanes[request.lane]
        if refusal is not None and refusal.wait_ns is not None:
            is_new_round = health.refused(lease.granted_ns, now_ns)
            allowed = self._policy.may_ask_again(request.refusals)
            request.refusals += 1
            hold_ns = refusal.wait_ns
            if health.rounds > 1:  # a wait that was kept did not help: the server rounds it down, or to nothing
                has_figures = refusal.used is not None
                hold_ns = max(hold_ns, self._policy.least_hold_ns(health.rounds, has_figures=has_figures))
        else:
            was_sent_ns, request.refused_ns = request.refused_ns, lease.granted_ns
            if was_sent_ns is not None and health.has_overtaken(was_sent_ns):
                return self._refused_alone(request, lease, meter, error, server_wait_ns or 0)
            is_new_round = health.refused(lease.granted_ns, now_ns)
            allowed = self._policy.may_retry(request.retries) or (
                request.overtaken < _OVERTAKEN and self._policy.may_wait_longer(health.rounds)
            )
            request.retries += 1
            hold_ns = server_wait_ns or 0
            if (
                server_wait_ns is None or health.rounds > 1
            ):  # a wait that was kept and did not help is no better than none
                hold_ns = max(hold_ns, self._policy.blind_hold_ns(health.rounds, self._rng)) if is_new_round else 0
        hold_ns = min(hold_ns, _LONGEST_HOLD_NS) + self._rng.randint(*_JITTER_NS)
        if is_new_round or refusal is not None:
            self._tell(request, meter.refused(lease, request.size, refusal, hold_ns, now_ns))
            request.size = corrected(request.size, refusal)
        else:
            meter.refund(lease)  # sent before the refusal that its lane waits for already
        if not allowed:
            return self._failed(request, error)
        error.attempts = request.attempts
        self._log_failed(request, error, hold_ns)
        if is_new_round and health.rounds in _OTHERS_TRY and request.refused_ns == lease.granted_ns:
            # Let another be tried when the hold ends: it may be this one alone that is refused. If others are refused
            # as well, it is a limit, and the first in line is to be the first again when it opens.
            return Outcome(Disposition.RETRY, error=error, wait_ns=hold_ns + _AFTER_OTHERS_NS)
        return Outcome(Disposition.RATE_LIMITED, error=error)

    def _refused_alone(
        self, request: Request, lease: Lease, meter: Meter, error: APIError, server_wait_ns: int
    ) -> Outcome:
        """Let a request wait by itself that is refused while those sent after it are answered."""
        meter.refund(lease)
        request.overtaken += 1
        if request.overtaken >= _OVERTAKEN and not self._policy.may_retry(request.retries):
            return self._failed(request, error)
        request.retries += 1
        error.attempts = request.attempts
        wait_ns = max(server_wait_ns, self._policy.blind_hold_ns(request.overtaken, self._rng))
        self._log_failed(request, error, wait_ns)
        return Outcome(Disposition.RETRY, error=error, wait_ns=wait_ns)

    def _unsure(
        self,
        request: Request,
        lease: Lease,
        meter: Meter,
        error: APIError,
        server_wait_ns: int,
        now_ns: int,
        *,
        allowed: bool = True,
    ) -> Outcome:
        """Book an attempt that may have been billed, and repeat it if it is *allowed* and not too often."""
        if not server_wait_ns:
            meter.trouble(now_ns)
        left = self._policy.left(request.retries, request.unknown) if allowed else 0
        request.unknown += 1
        return self._again(request, error, server_wait_ns, now_ns, left=left)._replace(charged=lease.cost)

    def _again(self, request: Request, error: APIError, server_wait_ns: int, now_ns: int, *, left: int) -> Outcome:
        """Retry after a backoff if retries are *left*; the server's wait wins over ours."""
        if left <= 0:
            return self._failed(request, error)
        error.attempts = request.attempts
        wait_ns = max(server_wait_ns, self._policy.backoff_ns(request.retries, self._rng))
        began_ns = request.failing_ns
        if began_ns is None or self._lanes[request.lane].has_answered_since(began_ns):
            request.failing_ns = now_ns
        else:  # failed twice, with no answer to any request in between
            wait_ns = max(wait_ns, self._policy.outage_wait_ns(left, now_ns - began_ns, self._rng))
        request.retries += 1
        self._log_failed(request, error, wait_ns)
        return Outcome(Disposition.RETRY, error=error, wait_ns=wait_ns)

    @staticmethod
    def _shrunk(request: Request, refusal: Refusal) -> bool:
        """Lower the completion allowance of a request that asked for it to what the server said would fit."""
        if not request.shrinks or refusal.requested is None or refusal.limit is None or request.body is None:
            return False
        fitting = lower_cap(request.body, refusal.requested - refusal.limit)
        if fitting is None:
            return False
        request.body, completion = fitting
        request.size = PromptSize(refusal.limit - completion, completion, request.size.audio_s, is_exact=True)
        return True

    @staticmethod
    def _failed(request: Request, error: APIError) -> Outcome:
        error.attempts = request.attempts
        return Outcome(Disposition.FAILED, error=error)

    @staticmethod
    def _log_failed(request: Request, error: APIError, wait_ns: int) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            facts = log_fields("attempt_failed", request, wait_s=wait_ns / NS_PER_S, **error_fields(error))
            _log.debug("attempt %d of %s failed: %s", request.attempts, request, facts["error"], extra=facts)

    @staticmethod
    def _tell_long_wait(request: Request, error: APIError, server_wait_ns: int) -> None:
        _log.warning(
            "%s: the server fails and asks to wait for %s; the queue does not wait that long for a failing server, "
            "but tries one request a minute: %s",
            excerpt(request.model),
            duration_text(server_wait_ns / NS_PER_S),
            error,
            extra=log_fields("long_wait", request, **error_fields(error)),
        )

    @staticmethod
    def _tell(request: Request, notices: list[str]) -> None:
        for notice in notices:
            _log.warning(
                "%s: %s; if that is not what you meant, correct limits=, or leave it out to use the server's",
                excerpt(request.model),
                notice,
                extra=log_fields("limits_noticed", request, limit=notice.partition(":")[0]),
            )


def _facts(request: Request) -> dict[str, Any]:
    return {"request_id": request.id, "custom_id": request.custom_id}


def _decoded(body: bytes) -> Any:
    """Return an error's body as JSON, or as text if it is not JSON."""
    try:
        return decode_object(body)
    except ValueError:
        return body.decode("utf-8", "replace")

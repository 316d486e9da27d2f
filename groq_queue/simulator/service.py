"""The way of a request: who is asking, what it costs, when it is answered, what is remembered.

Everything here runs on the thread of the simulator's loop, except the few methods
under "What other threads ask".

Units: ``*_s`` seconds, ``*_ns`` nanoseconds of ``clock_ns``. Delays use the loop's
own clock, so a hand-moved ``clock_ns`` drives the meter and nothing else.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

from groq_queue.simulator import answers
from groq_queue.simulator.calls import ApiCall, ApiError, read_call, to_json
from groq_queue.simulator.faults import Fault, FaultPlan
from groq_queue.simulator.meter import DIMENSIONS, CallCost, SimulatedBudget, SimulatedRefusal, go_duration
from groq_queue.simulator.wire import BadRequest, Connection, HttpReply, HttpRequest

_ENDPOINTS = frozenset({"chat/completions", "embeddings", "audio/transcriptions", "audio/translations"})
_PROMPT_KEPT = 1_000  # characters of a prompt a Record keeps: the log must not hold every prompt whole
_NO_RANDOM = random.Random(0)  # handed to draws that do not draw


@dataclass(frozen=True)
class SimulatorStats:
    """Figures since the simulator was made.

    ``received`` counts all requests; ``by_status`` what was decided for each, whether
    or not a fault let it through (0: reset before it was metered); ``refused`` the
    429s of the meter; ``refused_by_dimension`` its 413s too. ``tokens_used`` counts
    finished calls, ``tokens_admitted`` what was asked for by admitted ones.
    """

    received: int
    admitted: int
    refused: int
    by_status: dict[int, int]
    refused_by_dimension: dict[str, int]
    tokens_admitted: int
    tokens_used: int
    max_in_flight: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """One call that came to the meter. ``prompt`` is cut at 1,000 characters.

    ``status`` is what was decided: 0 if a fault reset the connection before metering.
    ``used_tokens`` is what the call uses in the end, 0 if it was not admitted.
    """

    arrived_ns: int
    model: str
    endpoint: str
    status: int
    requested: int
    used_tokens: int
    dimension: str | None
    prompt: str
    connection: int
    request_id: str


@dataclass(frozen=True)
class SimulatorSettings:
    """The arguments of `GroqSimulator`, checked and made ready for use."""

    budgets: Mapping[str, SimulatedBudget]
    draw_latency: Callable[[random.Random], float]
    draw_arrival: Callable[[random.Random], float]
    draw_connect: Callable[[random.Random], float]
    draw_output: Callable[[random.Random, int], int]
    needs_random: bool
    settlement: str
    headers_at: str
    send_headers: bool
    api_keys: frozenset[str] | None
    faults: FaultPlan
    seed: int
    log_size: int
    organization: str
    default_completion: int
    clock_ns: Callable[[], int]


class Service:
    """Answers requests by *settings*; knows nothing of sockets but `Connection`.

    Invariants, true whenever ``_lock`` is free: a call counted in ``_in_flight`` has
    been admitted and not settled; log, figures and levels tell of the same calls.

    ``_lock`` guards budgets, figures and log, is held for arithmetic only, and is a
    leaf: nothing else is locked under it.
    """

    def __init__(self, settings: SimulatorSettings) -> None:
        self._set = settings
        self._budgets = settings.budgets
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._metered = threading.Condition(self._lock)
        self._log: deque[SimulatedCall] = deque(maxlen=settings.log_size)
        self._metered_count = 0
        self._received = self._admitted = self._refused = 0
        self._by_status: Counter[int] = Counter()
        self._refused_by_dimension: Counter[str] = Counter()
        self._tokens_admitted = self._tokens_used = 0
        self._in_flight = self._max_in_flight = 0

    def attach(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Use *loop* for delays; None when it ends, with which unanswered calls are forgotten."""
        self._loop = loop
        if loop is None:
            with self._lock:
                self._in_flight = 0

    # What other threads ask.

    def stats(self) -> SimulatorStats:
        """Return the figures of this moment."""
        with self._lock:
            return SimulatorStats(
                self._received,
                self._admitted,
                self._refused,
                dict(self._by_status),
                dict(self._refused_by_dimension),
                self._tokens_admitted,
                self._tokens_used,
                self._max_in_flight,
            )

    def log(self) -> list[SimulatedCall]:
        """The last calls that came to the meter, in its order."""
        with self._lock:
            return list(self._log)

    def wait_for_requests(self, count: int, timeout: float) -> bool:
        """Block until *count* calls came to the meter since the start; False after *timeout* seconds."""
        with self._metered:
            return self._metered.wait_for(lambda: self._metered_count >= count, timeout)

    def level(self, model: str, dimension: str) -> int:
        """Return how much of *dimension* ("TPM", ...) of *model* is used now, rounded up; 0 if it is not metered."""
        if dimension not in DIMENSIONS:
            raise ValueError(f"dimension={dimension!r}: give one of {', '.join(DIMENSIONS)}")
        budget = self._budget(model)
        with self._lock:
            bucket = budget.find(dimension, self._set.clock_ns())
            return 0 if bucket is None else bucket.used

    def spend(self, model: str, tokens: int, requests: int) -> bool:
        """Spend as another program of the organisation would; tokens count for TPM and TPD.

        Returns:
            True if admitted; False if refused, then nothing is charged.
        """
        if tokens < 0 or requests < 0:
            raise ValueError(f"tokens={tokens}, requests={requests}: give 0 or more of each")
        budget = self._budget(model)
        with self._lock:
            return budget.admit(self._set.clock_ns(), CallCost(requests, tokens)) is None

    def _budget(self, model: str) -> SimulatedBudget:
        try:
            return self._budgets[model]
        except KeyError:
            raise ValueError(f"model={model!r} is not served: give one of {', '.join(self._budgets)}") from None

    # The way of a request: receive, (arrive,) meter, (answer).

    def refuse(self, error: BadRequest) -> HttpReply:
        """Return the answer to bytes that are no request."""
        code = "request_too_large" if error.status == 413 else None
        with self._lock:
            self._received += 1
            self._by_status[error.status] += 1
        return answers.error_reply(ApiError(error.status, str(error), code=code))

    def handle(self, connection: Connection, request: HttpRequest) -> None:
        """Answer *request*, now or later."""
        if request.path == "/simulator/stats" and request.method == "GET":
            connection.send(HttpReply(200, to_json(self.stats().to_dict())))
            return
        with self._lock:
            self._received += 1
            number = self._received
        try:
            found = self._route(connection, request, number)
        except ApiError as error:
            found = answers.error_reply(error)
        if isinstance(found, HttpReply):
            with self._lock:
                self._by_status[found.status] += 1
            found.headers += answers.base_headers(f"req_01{number:024d}")
            connection.send(found)
            return

        # All that users may have written runs here: an exception ends this connection, and asyncio's logger reports it.
        call = found
        fault = self._set.faults.choose(call)
        draws = random.Random(f"{self._set.seed}/{number}") if self._set.needs_random else _NO_RANDOM
        delay_s = self._set.draw_arrival(draws)
        if request.is_first:
            delay_s += self._set.draw_connect(draws)
        completion = self._set.draw_output(draws, call.allowance) if call.allowance else 0
        use = answers.Generation(completion, max(0.0, self._set.draw_latency(draws)))
        self._later(delay_s, self._meter, connection, call, use, fault)

    def _route(self, connection: Connection, request: HttpRequest, number: int) -> ApiCall | HttpReply:
        path = request.path.removeprefix("/openai")
        endpoint = path[4:] if path.startswith("/v1/") else ""
        if endpoint in _ENDPOINTS:
            allowed = "POST"
        elif endpoint == "models" or endpoint.startswith("models/"):
            allowed = "GET"
        else:
            message = f"Unknown request URL: {request.method} {request.path}. Please check the URL for typos."
            raise ApiError(404, message, code="unknown_url")
        if request.method != allowed:
            reply = answers.error_reply(ApiError(405, f"{request.method} is not allowed here", code="unknown_method"))
            reply.headers = f"allow: {allowed}\r\n"
            return reply
        scheme, _, key = request.header("authorization").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or (self._set.api_keys is not None and key not in self._set.api_keys):
            raise ApiError(401, "Invalid API Key", code="invalid_api_key")
        if endpoint == "models":
            headers = (
                f"date: {formatdate(usegmt=True)}\r\n"  # a real server always sends it; here only a clock check asks
            )
            return HttpReply(200, to_json(answers.models_body(self._budgets)), headers)
        if allowed == "GET":
            model = unquote(endpoint.removeprefix("models/"))
            self._check_served(model)
            return HttpReply(200, to_json(answers.model_body(model)))
        call = read_call(request, endpoint, number, connection.ident, self._set.default_completion)
        self._check_served(call.model)
        return call

    def _check_served(self, model: str) -> None:
        if model not in self._budgets:
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise ApiError(404, message, code="model_not_found")

    def _meter(self, connection: Connection, call: ApiCall, use: answers.Generation, fault: Fault | None) -> None:
        refusal: SimulatedRefusal | None = None
        is_charged = True
        status, used_tokens = 200, 0
        if fault is not None:
            if fault.reset == "before":
                status, is_charged = 0, False
            elif fault.status is not None:
                status, is_charged = fault.status, fault.charge
        budget = self._budgets[call.model]
        shown = ""
        with self._metered:
            now_ns = self._set.clock_ns()
            if is_charged:
                charge = call.ask
                if self._set.settlement == "deferred":
                    charge = charge._replace(tokens=charge.prompt, completion=0)
                refusal = budget.admit(now_ns, call.ask, charge)
                if refusal is None:
                    self._admitted += 1
                    self._tokens_admitted += call.ask.tokens
                    self._in_flight += 1
                    self._max_in_flight = max(self._max_in_flight, self._in_flight)
                    used_tokens = call.ask.prompt + use.completion
                else:
                    status = refusal.status
                    self._refused += status == 429
                    self._refused_by_dimension[refusal.dimension.name] += 1
                if refusal is not None or self._set.headers_at == "admission":
                    shown = self._limit_headers(budget, call, now_ns, refusal)
            self._by_status[status] += 1
            self._log.append(
                SimulatedCall(
                    now_ns,
                    call.model,
                    call.endpoint,
                    status,
                    call.ask.tokens,
                    used_tokens,
                    refusal.dimension.name if refusal is not None else None,
                    call.prompt[:_PROMPT_KEPT],
                    connection.ident,
                    call.request_id,
                )
            )
            self._metered_count += 1
            self._metered.notify_all()

        extra_s = fault.delay_s if fault is not None else 0.0
        if status == 0:
            self._later(extra_s, connection.reset)
        elif refusal is not None:
            self._later(extra_s, _deliver, connection, self._refusal_reply(call, refusal, shown), fault)
        elif is_charged:
            self._later(use.latency_s + extra_s, self._complete, connection, call, use, shown, fault)
        else:
            assert fault is not None
            self._later(extra_s, _deliver, connection, answers.fault_reply(fault, call), fault)

    def _complete(
        self, connection: Connection, call: ApiCall, use: answers.Generation, shown: str, fault: Fault | None
    ) -> None:
        if self._set.settlement == "corrected":
            difference = CallCost(tokens=use.completion - call.allowance, completion=use.completion - call.allowance)
        elif self._set.settlement == "deferred":
            difference = CallCost(tokens=use.completion, completion=use.completion)
        else:
            difference = CallCost()
        budget = self._budgets[call.model]
        with self._lock:
            now_ns = self._set.clock_ns()
            budget.add(now_ns, difference)
            self._in_flight -= 1
            self._tokens_used += call.ask.prompt + use.completion
            if self._set.headers_at == "completion":
                shown = self._limit_headers(budget, call, now_ns, None)
        if fault is not None and fault.status is not None:
            reply = answers.fault_reply(fault, call)
        else:
            reply = answers.success_reply(call, use, self._set.seed, fault)
            reply.headers = shown + reply.headers
            if fault is not None:
                reply = answers.corrupt(reply, fault)
        _deliver(connection, reply, fault)

    def _later(self, delay_s: float, function: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if delay_s > 0:
            self._loop.call_later(delay_s, function, *args)
        else:
            function(*args)

    # Answers that speak of limits.

    def _refusal_reply(self, call: ApiCall, refusal: SimulatedRefusal, shown: str) -> HttpReply:
        message = refusal.message(call.model, self._set.organization, answers.tier_of(call.body))
        reply = answers.error_reply(
            ApiError(refusal.status, message, kind=refusal.dimension.kind, code="rate_limit_exceeded")
        )
        retry = "" if refusal.wait_ns is None else f"retry-after: {-(-refusal.wait_ns // 1_000_000_000)}\r\n"
        reply.headers = retry + shown + answers.base_headers(call.request_id)
        return reply

    def _limit_headers(
        self, budget: SimulatedBudget, call: ApiCall, now_ns: int, refusal: SimulatedRefusal | None
    ) -> str:
        """Return the x-ratelimit lines: RPD and TPM, hourly audio on audio calls, nothing else ever."""
        if not self._set.send_headers:
            return ""
        shown = [("RPD", "requests")]
        if refusal is None or refusal.dimension.name != "RPM":
            shown.append(("TPM", "tokens"))
        if call.endpoint.startswith("audio/"):
            shown.append(("ASPH", "audio-seconds"))
        lines = ""
        for dimension, name in shown:
            bucket = budget.find(dimension, now_ns)
            if bucket is not None:
                lines += (
                    f"x-ratelimit-limit-{name}: {bucket.limit}\r\n"
                    f"x-ratelimit-remaining-{name}: {bucket.remaining}\r\n"
                    f"x-ratelimit-reset-{name}: {go_duration(bucket.full_in_ns)}\r\n"
                )
        return lines


def _deliver(connection: Connection, reply: HttpReply, fault: Fault | None) -> None:
    """Send *reply* as *fault* wants it sent. Only the way is bent: a refusal keeps its text."""
    if fault is None:
        connection.send(reply)
    elif fault.reset == "after":
        connection.reset()
    elif fault.truncate:
        connection.send_truncated(reply)
    elif fault.half_json:
        connection.send_half(reply)
    elif not fault.silent:
        connection.send(reply)

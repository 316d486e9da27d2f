"""``GroqQueue``: what users see of the rooms behind it; it owns no algorithm."""

from __future__ import annotations

import _thread
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar, overload

from groq_queue.api.bulk import WINDOW_PER_WORKER, BulkMethods
from groq_queue.api.context import current_client, current_priority
from groq_queue.api.registry import get_or_create_named
from groq_queue.api.requests import (
    call_of,
    check_id,
    request_of_call,
    warn_of_hidden_retries,
)
from groq_queue.api.single_flight import SharedFuture, SingleFlight, as_seen_by, explain_shared
from groq_queue.api.window import is_to_leave_at_once, leave_at_once, tell_what_is_left
from groq_queue.clock import NS_PER_S, Clock
from groq_queue.core.limits import Limits
from groq_queue.core.priority import PriorityLike, parse_priority
from groq_queue.core.request import (
    CHAT,
    MAX_PAYLOAD_BYTES,
    Prompt,
    Request,
    State,
    build_payload,
    encode_payload,
    tier_of,
)
from groq_queue.core.response import Completion, Record
from groq_queue.core.token_estimate import size_of
from groq_queue.core.validation import (
    check_count,
    check_flag,
    check_limits,
    check_nanoseconds,
    check_order,
    check_path,
    check_seconds,
    check_text,
    check_wait,
)
from groq_queue.engine.background import drain_dropped
from groq_queue.engine.callables import Call
from groq_queue.engine.future import RequestFuture
from groq_queue.engine.observer import Observer, noting
from groq_queue.engine.stats import Explanation, RequestInfo, Stats
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.errors import ConfigurationError, UnknownArgument, refusing_unknown, safe_repr
from groq_queue.lifecycle import forget, leave_at_exit
from groq_queue.wiring.factory import assemble
from groq_queue.wiring.options import CONSTRUCTOR, MAX_RESPONSE_BYTES, check_parameters, cure_for, harmless
from groq_queue.wiring.settings import checked

if TYPE_CHECKING:
    import os

    import requests
    from typing_extensions import Unpack

    from groq_queue.reporting.estimate import Estimate
    from groq_queue.reporting.report import Report
    from groq_queue.simulator import GroqSimulator
    from groq_queue.wiring.typed_options import CallOptions, ConstructorOptions, SimulatedOptions

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Made = TypeVar("_Made", bound="GroqQueue")


def _refusing_unknown(init: Callable[_P, None]) -> Callable[_P, None]:
    """Let *init* say of a name that it does not have what was meant, or where it belongs."""
    return refusing_unknown(init, cure_for)


class GroqQueue(BulkMethods):
    """A queue of requests to Groq, or to any API that speaks the same dialect.

    Thread-safe. Worker threads start with the first ``submit``. Leaving the
    ``with`` block drains the queue; leaving it by an exception cancels what has
    not started, waits for attempts under way and lets the exception pass; a
    second Ctrl-C while it does so leaves at once.

    Args:
        api_key: The key; None reads ``GROQ_API_KEY``.
        base_url: Where the API is; None reads ``GROQ_BASE_URL``, else Groq's own. A
            URL without a path gets Groq's, ``/openai/v1``.
        model: Used where a request names none.
        organization: Name of the organisation that pays. Queues of this process with
            the same name and base URL share their budgets, whatever their keys; None
            shares among queues with the same key.
        limits: ``Limits`` of every model, or ``{model: Limits}``; None learns
            them from the server's answers, one request at a time until the first is in.
        engine: None sends from threads of this process; ``"celery"`` has ``groq-queue worker``
            processes send, on any host, which also decide what a key, a limit, a retry and a time-out
            are: arguments about these are refused, *api_key* is not used and does not travel.
        broker: With an engine. ``"redis://host:6379/0"`` or ``"amqp://user@host//"``; None reads ``GROQ_QUEUE_BROKER``.
        state: With an engine. Address of the Redis that keeps the requests; None is *broker*.
        max_workers: Most requests on their way at once, >= 1.
        max_pending: Most requests waiting, >= 1, or None for no bound.
        max_pending_per_client: The same for each client.
        when_full: ``"block"`` makes ``submit`` wait for room (never inside a
            callback), ``"raise"`` raises ``QueueFull``, ``"shed"`` drops the least
            urgent waiting request, whose Future ends with ``QueueFull``.
        max_concurrency: Most requests of one model on their way at once, or None.
        fair_by: What clients of one priority share equally: ``"requests"`` or ``"tokens"``.
        ageing: Seconds after which a waiting request rises one named level; None is
            strict: a level waits for as long as a higher one has something to send.
            With it a request waits at most ``r * (n + 1) * ageing`` seconds, if requests
            n named levels above it arrive at r times the pace of the limits.
        margin: Share of every limit to leave unused, 0 <= margin < 1, for other programs
            that spend from the same organisation. The queue alone needs none: its
            level is never below the server's.
        limiter: Where budgets are counted: None in this process; ``"sqlite:///path"`` in a file,
            for all processes of this host; ``"redis://host/0?scope=name"`` in a Redis, for all
            hosts. Queues with the same limiter, base URL and key (or organization) share.
            Among them priority goes first, then clients take turns, then arrival decides;
            *ageing* counts inside a process only.
        on_outage: While a shared limiter cannot be reached, requests ``"wait"``, fail with
            ``LimiterUnavailable`` (``"raise"``), or go on with the limits divided by the processes
            last known (``"local_share"``). Never unlimited.
        on_daily_limit: ``"raise"`` ends a request that a spent limit per day holds up
            with ``DailyLimitReached``; ``"wait"`` waits, other models go on.
        max_cost: Most to be spent by this queue, in USD. A request's price is set
            aside before it is sent; one that does not fit ends with ``CostLimitReached``.
        prices: ``{model: (prompt, completion)}`` in USD per million tokens, over the built-in table.
        journal: Path of a SQLite file that keeps every request until it is answered, and the
            answer. Opening the same file again goes on where the last process ended, however
            it ended; a request that was answered is never sent again.
        durability: With a journal. ``"full"``: what ``submit`` accepted survives a power cut;
            ``"normal"``: it survives the end of the process, a power cut may take the last moments.
        on_unknown: What becomes of requests that were on their way when the last process died, and
            may have been billed: ``"resend"`` sends them again, up to 3 times in all; ``"hold"``
            lets them fail, for ``groq-queue retry-failed`` to bring back.
        timeout: Seconds to connect and seconds of silence, for each attempt, or one
            number for both: requests' meaning. Header lines, interim answers and white space do not
            break the silence: without a byte more of its answer, an attempt takes no longer than the
            sum of both. An answer that grows is read on, up to ten times the silence.
        max_retries: Further attempts after the first, >= 0; at most 2 of them after attempts that may
            have been billed. One more is made if a kept connection turns out closed as it is used.
        accounts: ``{model: (base_url, api_key)}`` of models that are served elsewhere or paid
            for otherwise; None in a pair reads the environment. Other models use *api_key*
            and *base_url*; if neither is given, they are refused. A rejected key ends the
            requests of its account only.
        observer: Called with an ``Event`` after each attempt, on its worker's thread; or a list of such.
        clock: Tells the time; None is the machine's. For tests: ``groq_queue.testing.FakeClock``.
        session: A prepared ``requests.Session`` to send through; None uses
            urllib3 directly, at half the cost.
        allow_http: Accept a plain ``http://`` base URL off this machine, over which
            the key travels in clear.
        max_payload_bytes: ``submit`` refuses what is larger as JSON, >= 1. A journal takes 10 MiB at most.
        max_response_bytes: An answer that is larger is not read to its end and not asked for again, >= 1.

    Raises:
        ConfigurationError: An argument cannot be used, or there is no key.
        JournalError: The journal cannot be used, or another process has it open.
        LimiterUnavailable: The store of a shared limiter cannot be used.
        MissingExtraError: What *limiter* or *engine* need is not installed.
    """

    @_refusing_unknown
    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        model: str | None = None,
        organization: str | None = None,
        limits: Limits | Mapping[str, Limits] | None = None,
        engine: Literal["celery"] | None = None,
        broker: str | None = None,
        state: str | None = None,
        max_workers: int = 8,
        max_pending: int | None = 10_000,
        max_pending_per_client: int | None = None,
        when_full: Literal["block", "raise", "shed"] = "block",
        max_concurrency: int | None = None,
        fair_by: Literal["requests", "tokens"] = "requests",
        ageing: float | None = None,
        margin: float = 0.0,
        limiter: str | None = None,
        on_outage: Literal["wait", "raise", "local_share"] = "wait",
        on_daily_limit: Literal["raise", "wait"] = "raise",
        max_cost: float | None = None,
        prices: Mapping[str, tuple[float, float]] | None = None,
        journal: str | os.PathLike[str] | None = None,
        durability: Literal["full", "normal"] = "full",
        on_unknown: Literal["resend", "hold"] = "resend",
        timeout: float | tuple[float, float] = (5, 60),
        max_retries: int = 5,
        accounts: Mapping[str, tuple[str | None, str | None]] | None = None,
        observer: Observer | Sequence[Observer] | None = None,
        clock: Clock | None = None,
        session: requests.Session | None = None,
        allow_http: bool = False,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        settings = checked({name: value for name, value in locals().items() if name != "self"})
        parts = assemble(settings)
        self._base_url = (
            settings.resolved_accounts.address if settings.engine is None else f"by {settings.engine} workers"
        )
        self._settings = settings
        self._engine = parts.engine
        self._limiter = parts.limiter
        self._admission = parts.admission
        self._bridge = parts.bridge
        self._intake = parts.intake
        self._accept = noting(parts.intake.accept, settings.observers)
        self._single_flight = SingleFlight(self._engine, self._accept)
        self._window = min(WINDOW_PER_WORKER * max_workers, max_pending or WINDOW_PER_WORKER * max_workers)
        self._simulator: GroqSimulator | None = None
        self._warned_of_hidden_retries = False
        leave_at_exit(self._engine)
        # A queue that is dropped drains by itself. The finalizer may run inside the garbage collector, on a thread
        # that holds any lock, so it must take none: it only starts a bare thread.
        self._finalizer = weakref.finalize(self, _thread.start_new_thread, drain_dropped, (self._engine,))
        self._finalizer.atexit = False
        if self._bridge is not None:
            assert isinstance(self._engine, ThreadEngine)
            try:
                self._bridge.resume(self._engine)
            except BaseException:
                self.shutdown(wait=False, cancel_futures=True)
                raise

    @classmethod
    def from_config(cls, path: str | os.PathLike[str], **overrides: Unpack[ConstructorOptions]) -> GroqQueue:
        """Return a queue with the arguments that a file holds; see ``groq_queue.wiring.config_file`` for its form.

        Args:
            path: A ``.toml`` or ``.json`` file, or the ``config.json`` of CustomGroqChat.
            overrides: Arguments of ``GroqQueue`` that win over the file's.

        Raises:
            ConfigurationError: The file cannot be read or used; the message names the place in it.
            MissingExtraError: TOML, Python 3.10 and no ``tomli``.
        """
        from groq_queue.wiring.config_file import read_config

        return cls(**{**read_config(path, overrides), **overrides})

    @classmethod
    def simulated(
        cls,
        *,
        limits: Limits | Mapping[str, Limits] | None = None,
        latency: float | tuple[float, float] = (0.05, 0.2),
        seed: int = 0,
        **options: Unpack[SimulatedOptions],
    ) -> GroqQueue:
        """Return a queue in front of a Groq simulator of its own: real HTTP on this machine, no key, no cost.

        Args:
            limits: Enforced by the simulator and known to the queue; None is
                1,000 requests and 250,000 tokens a minute.
            latency: Seconds an answer takes, or a range of them.
            seed: Makes answers and latencies repeat.
            options: As for ``GroqQueue``, except ``api_key`` and ``base_url``.
        """
        from groq_queue.simulator import GroqSimulator

        given: dict[str, Any] = {**options}  # a program that no type checker has seen may give any other name
        if given.get("engine") is not None:
            raise ConfigurationError(
                f"engine={given['engine']!r}: a simulated queue sends by itself; run `groq-queue simulate`, start "
                "workers with GROQ_BASE_URL set to the address it prints, and use GroqQueue(engine=...)"
            )
        for field in ("api_key", "base_url", "accounts"):
            if field in given:
                raise ConfigurationError(f"{field}: a simulated queue has its own; leave it out")
        known_names = {"limits", "latency", "seed", *(option.name for option in CONSTRUCTOR)}
        is_plain = cls.__init__ is GroqQueue.__init__  # a subclass may have arguments of its own, and refuses by itself
        if is_plain and (unknown := next((name for name in options if name not in known_names), None)) is not None:
            cure = cure_for(unknown, known_names)
            raise UnknownArgument(f"{cls.__name__}.simulated({unknown}=...): there is no such argument; {cure}")
        known = check_limits(limits) or Limits(rpm=1_000, tpm=250_000)
        model = given.setdefault("model", next(iter(known)) if isinstance(known, dict) else "llama-3.1-8b-instant")
        models = tuple(known) if isinstance(known, dict) else (model,)
        try:
            simulator = GroqSimulator(limits=known, models=models, latency=latency, seed=seed)
        except ValueError as problem:
            raise ConfigurationError(str(problem)) from None
        simulator.start()
        try:
            queue = cls(api_key="simulated", base_url=simulator.base_url, limits=known, **given)
        except BaseException:  # a queue that was not made must not leave its simulator running
            simulator.stop()
            raise
        queue._simulator = simulator
        queue._engine.at_close(simulator.stop, in_children=False)
        return queue

    @overload
    @classmethod
    def named(cls, name: str, make: None = None, /, **settings: Unpack[ConstructorOptions]) -> GroqQueue: ...

    @overload
    @classmethod
    def named(cls, name: str, make: Callable[_P, _Made], /, *args: _P.args, **settings: _P.kwargs) -> _Made: ...

    @classmethod  # type: ignore[misc]  # it takes no *args, but beside _P.kwargs they must be declared
    def named(cls, name: str, make: Callable[..., GroqQueue] | None = None, /, **settings: Any) -> GroqQueue:
        """Return the live queue of that name in this process, or make it: for cells that are run again.

        It is live until it is shut down or no longer referenced. If it was made with
        other settings, that one sends what it has and ends, and a new one takes its name.

        Args:
            name: 1 to 512 characters.
            make: Called as ``make(**settings)``; None is ``GroqQueue``. Give
                ``GroqQueue.simulated`` for a simulated one.
            settings: As for ``GroqQueue``.

        Raises:
            ConfigurationError: An argument cannot be used.
        """
        if make is not None and not callable(make):
            raise ConfigurationError(f"make={safe_repr(make)}: use a callable that returns a queue, or None")
        return get_or_create_named(check_text("name", name), make or cls, settings)

    @classmethod
    def attach(
        cls, request_id: str, *, broker: str | None = None, state: str | None = None
    ) -> RequestFuture[Completion]:
        """Return a Future of a request that any process submitted with ``engine="celery"``.

        Works until an hour after the request has ended. A Future keeps threads of its own until it ends.

        Args:
            request_id: What ``future.request_id`` was there.
            broker: As for ``GroqQueue``.
            state: As for ``GroqQueue``.

        Raises:
            ConfigurationError: There is no such request.
            EngineUnavailable: Redis cannot be reached, within 10 s.
            MissingExtraError: Celery or redis is not installed.
        """
        from groq_queue.wiring.factory import attach

        return attach(
            check_text("request_id", request_id),
            check_text("broker", broker, optional=True),
            check_text("state", state, optional=True),
        )

    @property
    def base_url(self) -> str:
        """Address of the API, without a slash at its end; where ``accounts`` have several, how many."""
        return self._base_url

    @property
    def simulator(self) -> GroqSimulator | None:
        """The simulator behind a simulated queue, or None."""
        return self._simulator

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
    ) -> RequestFuture[Completion]:
        """Queue one request and return its Future.

        The payload is read and serialised here; changing it later changes nothing.
        Blocks only while the queue is full and ``when_full="block"``.

        Args:
            prompt: A str is one user message, a sequence of dicts is messages, a
                mapping is a whole payload.
            messages: The messages, by keyword.
            model: Overrides the queue's.
            endpoint: Path below the base URL.
            priority: A name, a ``Priority`` or 0 (first) to 10 (last); None is that of
                ``with groq_queue.priority(...)``, else normal.
            client: Clients of one priority take turns; None is that of
                ``with groq_queue.client(...)``, else ``"default"``.
            custom_id: Your own id; at most one request with it may be open. In a journal it names one
                payload for good: given again with it, it returns the stored Future or answer, and
                nothing is sent; with another it is an error.
            tokens: The price in tokens, prompt and completion, if you know better
                than the estimate.
            audio_seconds: Length of the audio it refers to, for limits on audio.
            shrink: Lower ``max_completion_tokens`` to what the limits hold, instead of
                failing with ``RequestTooLarge``.
            max_wait: Seconds from now in which it must have started, else its Future
                ends with ``QueueTimeout`` and nothing was spent.
            deadline: Seconds from now after which no attempt starts.
            not_before: Seconds from now before which no attempt starts.
            dedupe: Share one call with equal requests that have not ended yet and were
                submitted with it too. Each has its own Future; the call is as urgent as the
                most urgent of them and is cancelled with the last. Not a cache.
            callback: Called as ``callback(future)`` when it has ended, on a worker thread.
            params: Passed to the API untouched. A name that is nearly an option's or a known parameter's is
                refused; in a payload it passes.

        Returns:
            A ``concurrent.futures.Future`` of a ``Completion``, which also has a ``request_id`` and a ``custom_id``.

        Raises:
            ConfigurationError: An argument cannot be used.
            UnknownArgument: A keyword is a slip of an option or of a parameter, or belongs to another call.
            TypeError: The prompt is a callable.
            RequestTooLarge: It costs more than a limit ever holds.
            QueueFull: There is no room and ``when_full`` is not ``"block"``.
            QueueTimeout: It is expected to start too late for its ``deadline``, or its
                ``max_wait`` or ``deadline`` passed while the queue was full.
            QueueClosed: After ``shutdown``.
            JournalError: It could not be stored, or its *custom_id* names another payload there.
            EngineUnavailable: The broker of ``engine="celery"`` cannot be reached, within 10 s.
        """
        path = CHAT if endpoint == CHAT else check_path("endpoint", endpoint)
        if model is not None:
            check_text("model", model, optional=True)
        if params and not harmless.issuperset(params):
            check_parameters(params)
        if shrink is not False:
            check_flag("shrink", shrink)
        if dedupe is not False:
            check_flag("dedupe", dedupe)
        if callback is not None and not callable(callback):
            raise ConfigurationError(f"callback={safe_repr(callback)}: use a callable of one argument, the Future")
        payload = build_payload(prompt, messages, model or self._settings.model, params, path)
        # By position, and without what is seldom given: a class that is called by keyword takes 0.3 us longer.
        request = Request(
            payload["model"],
            path,
            encode_payload(payload, self._settings.max_payload_bytes),
            size_of(
                payload,
                None if tokens is None else check_count("tokens", tokens, optional=True),
                0 if audio_seconds is None else check_seconds("audio_seconds", audio_seconds),
            ),
            current_priority.get() if priority is None else parse_priority(priority),
            current_client.get() if client is None else check_text("client", client),
            None if custom_id is None else check_text("custom_id", custom_id, optional=True),
            tier_of(payload) if "service_tier" in payload else None,
        )
        if max_wait is not None:
            request.max_wait_ns = check_nanoseconds("max_wait", max_wait)
        if deadline is not None:
            request.deadline_ns = check_nanoseconds("deadline", deadline)
        if not_before is not None:
            request.not_before_ns = check_nanoseconds("not_before", not_before)
            check_order(not_before, max_wait, deadline)
        if shrink:
            request.shrinks = True
        # With a journal an answer is stored under its request's own name, if it has one.
        if dedupe and (self._bridge is None or custom_id is None):
            return self._single_flight.submit(request, callback)
        return self._accept(request, callback)

    def submit_call(
        self, fn: Callable[..., _T], /, *args: Any, queue_options: CallOptions | None = None, **kwargs: Any
    ) -> RequestFuture[_T]:
        """Queue a call of your own, ``fn(*args, **kwargs)``, under the same budget, order and retries.

        Every argument but *queue_options* is the callable's and reaches it untouched. Its ``model``,
        ``messages`` (or ``input``, ``prompt``) and ``max_completion_tokens`` or ``max_tokens``, passed by
        keyword, also tell its lane and its price.

        Runs on a worker thread, again for each retry. An error with a ``status_code`` (the SDKs', or the
        ``response``'s of ``requests``) and a returned response with one from 400 up are retried and waited for
        as the queue's own answers are, lost connections too; anything else the callable raises is final. Its
        own time-outs hold, not the queue's, and its own retries are to be turned off (``max_retries=0``).
        What it spent is read from the ``usage`` of what it returned, or counted in full; limits are learnt
        from headers if it returns a response that has some, as ``with_raw_response`` of the SDKs does. A stream
        that it returns is counted in full and holds no slot; ``integrations`` has adapters whose streams do.

        It should not wait for other requests of this queue, whose turn may come only after its own: a wait
        that can never end raises ``DeadlockError`` inside the callable, one that others may end is warned
        about once.

        Args:
            fn: Not asynchronous.
            args: The callable's.
            queue_options: What ``submit`` takes by keyword: ``model`` (the lane, whatever the callable is
                told), ``tokens``, ``audio_seconds``, ``priority``, ``client``, ``custom_id``, ``max_wait``,
                ``deadline``, ``not_before``, ``callback``.
            kwargs: The callable's.

        Returns:
            A Future of what the callable returned, untouched; it raises what the callable raised last, of the
            same type, or this library's error if the queue itself ended the request.

        Raises:
            TypeError: *fn* cannot be called, or only with ``await``.
            ConfigurationError: An option cannot be used, or no model is named.
            RequestTooLarge, QueueFull, QueueTimeout, QueueClosed: As for ``submit``.
        """
        call = call_of(fn, args, kwargs, queue_options, self._engine)
        if not self._warned_of_hidden_retries:
            self._warned_of_hidden_retries = warn_of_hidden_retries(fn)
        return self._submit_call(call, kwargs, queue_options or {})

    def _submit_call(
        self, call: Call, arguments: Mapping[str, Any], options: Mapping[str, Any], endpoint: str = "call"
    ) -> RequestFuture[Any]:
        """Queue *call*, priced by *arguments*; see ``submit_call`` for the *options*."""
        if self._settings.engine is not None:
            raise ConfigurationError(
                f"engine={self._settings.engine!r}: a callable or a stream cannot travel to the workers; "
                "use submit(), or another queue for calls and adapters"
            )
        if self._bridge is not None:
            raise ConfigurationError(
                "journal: a callable cannot be stored in a file, so a queue with a journal takes none; "
                "use submit(), or another queue for calls and adapters"
            )
        request, callback = request_of_call(call, arguments, options, endpoint, self._settings.model)
        return self._accept(request, callback)

    def cancel(self, custom_id: str) -> bool:
        """Cancel the open request of that custom_id; False if there is none or an attempt is on its way."""
        shared = self._single_flight.member(check_id(custom_id, "use future.cancel()"))
        if shared is not None:
            return shared.cancel()
        request = self._engine.request_of(custom_id)
        if request is not None:
            return self._engine.cancel(request)
        return self._bridge is not None and self._bridge.cancel(custom_id)

    def get(self, custom_id: str) -> Record:
        """Return the state of the request of that custom_id, and how it ended.

        Without a journal only requests that have not ended are known.

        Raises:
            JournalError: The journal cannot be read.
        """
        check_id(custom_id, "use queue.info(future)")
        if self._bridge is not None:
            return self._bridge.get(custom_id)
        request = self._engine.request_of(custom_id)
        if request is None:
            return Record(custom_id, "unknown")
        status = "processing" if request.state is State.RUNNING else "pending"
        return Record(custom_id, status, attempts=request.attempts)

    def cancel_all(
        self, *, client: str | None = None, model: str | None = None, priority: PriorityLike | None = None
    ) -> int:
        """Cancel every request that is not being attempted and fits all that is given; return how many.

        Args:
            client: Only this client's; None is any, here and below.
            model: Only this model's.
            priority: Only this level's.
        """
        check_text("client", client, optional=True)
        check_text("model", model, optional=True)
        level = None if priority is None else parse_priority(priority)
        return self._engine.cancel_all(
            lambda request: (
                client in (None, request.client)
                and model in (None, request.model)
                and level in (None, request.priority)
            )
        )

    def set_priority(self, future: Future[Any], priority: PriorityLike) -> bool:
        """Move a waiting request to the end of another level; False if it does not wait any more."""
        request = self._request_of(future)
        if isinstance(future, SharedFuture):
            return future.set_priority(parse_priority(priority))
        return self._engine.set_priority(request, parse_priority(priority))

    def pause(self, model: str | None = None) -> None:
        """Start no attempt of *model*, or of any model, until ``resume``; ``shutdown`` resumes."""
        self._engine.pause(check_text("model", model, optional=True))

    def resume(self, model: str | None = None) -> None:
        """Undo ``pause``."""
        self._engine.resume(check_text("model", model, optional=True))

    def set_weight(self, client: str, weight: float) -> None:
        """Give *client* that many times the turns of a client of weight 1, in every level.

        Raises:
            ConfigurationError: *weight* is not a number from 0.001 to 1,000.
        """
        check_text("client", client)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0.001 <= weight <= 1_000:
            raise ConfigurationError(f"weight={safe_repr(weight)}: use a number from 0.001 to 1,000")
        self._engine.set_weight(client, weight)

    def stats(self) -> Stats:
        """Return one consistent snapshot of all counts."""
        return self._engine.stats()

    def report(self) -> Report:
        """Return what became of everything so far: counts, waits, retries, tokens, cost, use of the limits."""
        from groq_queue.reporting.report import report_of

        return report_of(*self._engine.facts(), self._settings.price_table)

    if TYPE_CHECKING:

        def estimate(
            self,
            prompts: Iterable[Prompt],
            *,
            model: str | None = None,
            latency: float | None = None,
            output_share: float | None = None,
            endpoint: str = CHAT,
            messages: NoReturn = ...,
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
        ) -> Estimate: ...

    else:

        def estimate(
            self,
            prompts: Iterable[Any],
            *,
            model: str | None = None,
            latency: float | None = None,
            output_share: float | None = None,
            endpoint: str = CHAT,
            **params: Any,
        ) -> Estimate:
            """Say what *prompts* would take through this queue, and send nothing.

            With what the queue has learnt so far: limits, token ratios, the present levels.
            What waits already is not counted.

            Args:
                prompts: What ``submit`` takes, one after the other; read once, not kept.
                model: Overrides the queue's.
                latency: Seconds an answer takes; None is what was seen of late, else 1.
                output_share: Share of its ``max_completion_tokens`` that an answer uses on
                    average, above 0 and at most 1; None is what was seen of late, else 1.
                endpoint: Path below the base URL.
                params: Part of every payload, or options of ``submit``.

            Raises:
                ConfigurationError: An argument or a prompt cannot be used.
            """
            from groq_queue.api.estimate import load_of
            from groq_queue.reporting.estimate import estimate_load

            facts = self._engine.facts()[1]
            return estimate_load(
                load_of(prompts, model or self._settings.model, endpoint, params),
                meter_of=self._limiter.meter,
                price_table=self._settings.price_table,
                latency_s=latency if latency is not None else facts.flight_ns / NS_PER_S or 1.0,
                max_workers=self._settings.max_workers,
                output_share=output_share,
                now_ns=facts.now_ns,
            )

    def info(self, future: Future[Any]) -> RequestInfo:
        """Return what is known of one request.

        Raises:
            ConfigurationError: The Future is not one of this library.
        """
        return as_seen_by(future, self._engine.info(self._request_of(future)))

    def explain(self, future: Future[Any]) -> Explanation:
        """Return a request's place in line, what it waits for and when it is expected to start.

        Takes time in proportion to what waits before it.
        """
        request = self._request_of(future)
        shared = explain_shared(future)
        return shared or as_seen_by(future, self._engine.explain(request))

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is open; False if *timeout* seconds passed first. New requests are still taken.

        Inside a callback, or a signal handler that interrupted a ``submit``, it does not wait.
        """
        check_wait("timeout", timeout)
        return self._engine.join(0 if self._intake.is_interrupted() else timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more requests, but for those that callbacks submit while it drains.

        Safe to call more than once, from any thread, also from a callback.

        Args:
            wait: Return only when every request has ended. A signal handler that interrupted a
                ``submit`` does not wait: workers may need what that holds.
            cancel_futures: Cancel what is not being attempted, instead of sending it.
        """
        check_flag("wait", wait)
        check_flag("cancel_futures", cancel_futures)
        self._finalizer.detach()
        self._engine.shutdown(wait=wait and not self._intake.is_interrupted(), cancel_futures=cancel_futures)
        forget(self._engine)

    def _is_inside(self) -> bool:
        return self._engine.inside.depth > 0

    def _request_of(self, future: Any) -> Request:
        """Return the request of a Future of this queue; another's would be moved into this one's line."""
        if not isinstance(future, RequestFuture):
            is_id = "; for a custom_id there are cancel() and get()" if isinstance(future, str) else ""
            raise ConfigurationError(f"future={safe_repr(future)}: pass a Future that submit() returned{is_id}")
        if future._engine is not self._engine and future._engine is not self._single_flight:
            raise ConfigurationError(f"future={safe_repr(future)}: another queue made it; ask that one")
        return future._request

    def __enter__(self) -> GroqQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        before = None
        try:
            before = self.stats()
            self.shutdown(wait=not is_to_leave_at_once(error), cancel_futures=kind is not None)
        except BaseException as interrupt:
            before = before or self.stats()
            if kind is None:  # Ctrl-C while it drains counts as one inside the block
                self._leave_by(interrupt, before)
            else:  # one that comes while it leaves by another waits for nothing, attempts under way included
                self._leave_now(interrupt, before)
            raise
        if isinstance(error, KeyboardInterrupt):
            tell_what_is_left(error, before, self.stats(), is_kept=self._engine.is_kept)

    def _leave_by(self, interrupt: BaseException, before: Stats) -> None:
        try:
            self.shutdown(wait=True, cancel_futures=True)
        except BaseException as second:
            self._leave_now(second, before)
            raise
        tell_what_is_left(interrupt, before, self.stats(), is_kept=self._engine.is_kept)

    def _leave_now(self, interrupt: BaseException, before: Stats) -> None:
        leave_at_once(interrupt)
        self.shutdown(wait=False, cancel_futures=True)
        tell_what_is_left(interrupt, before, self.stats(), is_kept=self._engine.is_kept)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a queue holds threads and connections and is not copied or pickled: make one in each process")

    def __repr__(self) -> str:
        stats = self._engine.stats()
        kind = "SIMULATED " if self._simulator is not None else ""
        state = "" if stats.running else ", closed"
        return f"<{kind}GroqQueue {self._base_url}: {stats.pending} pending, {stats.in_flight} in flight{state}>"

"""The simulator as tests hold it: its arguments, its life, and the questions it answers.

One daemon thread runs one asyncio loop, and every request is handled on it. Other
threads only read figures, spend from outside, add faults, start and stop.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal

from groq_queue.simulator.faults import Fault, FaultPlan
from groq_queue.simulator.meter import DIMENSIONS, SimulatedBudget
from groq_queue.simulator.service import Service, SimulatedCall, SimulatorSettings, SimulatorStats
from groq_queue.simulator.wire import Connection

Delay = float | tuple[float, float] | Callable[[random.Random], float]
Output = float | tuple[float, float] | Callable[[random.Random, int], int]

if TYPE_CHECKING:
    from typing import Protocol

    class _LimitsLike(Protocol):
        """``groq_queue.Limits``, or what has its attributes: the simulator must not import the code that it proves."""

        @property
        def rpm(self) -> int | None: ...
        @property
        def rpd(self) -> int | None: ...
        @property
        def tpm(self) -> int | None: ...
        @property
        def tpd(self) -> int | None: ...
        @property
        def itpm(self) -> int | None: ...
        @property
        def otpm(self) -> int | None: ...
        @property
        def audio_hour(self) -> int | None: ...
        @property
        def audio_day(self) -> int | None: ...
        @property
        def minute_s(self) -> float: ...
        @property
        def hour_s(self) -> float: ...
        @property
        def day_s(self) -> float: ...


_JOIN_S = 10
_BACKLOG = 1_024  # hundreds of clients may connect in the same millisecond


class _Loop(asyncio.SelectorEventLoop):
    def time(self, _clock: Callable[[], float] = time.monotonic) -> float:
        # Bound early: under freezegun time.monotonic does not advance, and delayed answers would never come.
        return _clock()


class GroqSimulator:
    """A local Groq over HTTP. Use as a context manager, or `start` and `stop`.

    Args:
        limits: an object with the attributes rpm, rpd, tpm, tpd, itpm, otpm, audio_hour, audio_day, minute_s, hour_s,
            day_s for all models, or a mapping {model: such object}. The keywords of the same names are the short form.
        models: the models served, besides those named in a mapping of limits.
        latency: seconds from metering to answer: a number, (low, high) or callable(random) -> seconds.
        arrival_delay: seconds between a request's last byte and its metering, in the same forms.
        connect_delay: seconds added to that for the first request of each connection, in the same forms.
        output: completion tokens used, as a fraction of the allowance: a number, (low, high), or
            callable(random, allowance) -> tokens.
        settlement: "corrected": charged as requested, corrected to real use at completion; "kept": never corrected;
            "deferred": prompt at admission, completion at completion, into debt if need be.
        headers_at: "completion" or "admission": when the levels shown by a 200 are read.
        send_headers: False sends no x-ratelimit header.
        api_keys: the keys accepted; None accepts any that is not empty.
        faults: rules in order, see `Fault`.
        seed: a whole number or text; the same seed repeats every text, latency, output and fault.
        host: the address to listen at.
        port: the port to listen at; 0 is any that is free.
        log_size: how many calls are kept for tests to read, the latest ones.
        organization: its name in the text of refusals.
        default_completion: the allowance of a chat call that names none.
        clock_ns: the meter's clock.
    """

    def __init__(
        self,
        *,
        limits: _LimitsLike | Mapping[str, _LimitsLike] | None = None,
        models: Iterable[str] = ("llama-3.1-8b-instant",),
        rpm: int | None = None,
        rpd: int | None = None,
        tpm: int | None = None,
        tpd: int | None = None,
        itpm: int | None = None,
        otpm: int | None = None,
        audio_hour: int | None = None,
        audio_day: int | None = None,
        minute_s: float = 60,
        hour_s: float = 3600,
        day_s: float = 86400,
        latency: Delay = 0.0,
        arrival_delay: Delay = 0.0,
        connect_delay: Delay = 0.0,
        output: Output = 0.5,
        settlement: Literal["corrected", "kept", "deferred"] = "corrected",
        headers_at: Literal["completion", "admission"] = "completion",
        send_headers: bool = True,
        api_keys: Iterable[str] | None = None,
        faults: Iterable[Fault] = (),
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        log_size: int = 100_000,
        organization: str = "org_simulated",
        default_completion: int = 1_024,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if settlement not in ("corrected", "kept", "deferred"):
            raise ValueError(f"settlement={settlement!r:.100}: give 'corrected', 'kept' or 'deferred'")
        if headers_at not in ("completion", "admission"):
            raise ValueError(f"headers_at={headers_at!r:.100}: give 'completion' or 'admission'")
        if isinstance(api_keys, str) or not (api_keys is None or isinstance(api_keys, Iterable)):
            raise ValueError(f"api_keys is a {type(api_keys).__name__}: give a list of keys, ['...']")
        if not _is_whole(log_size, 0):
            raise ValueError(f"log_size={log_size!r:.100}: give 0 or more records")
        if not _is_whole(port, 0) or port > 65_535:
            raise ValueError(f"port={port!r:.100}: give 0 (any free port) to 65535")
        if not _is_whole(default_completion, 1):
            raise ValueError(f"default_completion={default_completion!r:.100}: give a whole number of tokens from 1 up")
        for field, text in (("host", host), ("organization", organization)):
            if not isinstance(text, str) or not text:
                raise ValueError(f"{field}={text!r:.100}: give a str")
        if not callable(clock_ns):
            raise ValueError(f"clock_ns={clock_ns!r:.100}: give a callable that returns nanoseconds")
        if not isinstance(seed, (int, str)):
            raise ValueError(f"seed={seed!r:.100}: give a whole number, with which everything repeats")
        short = {
            "rpm": rpm, "rpd": rpd, "tpm": tpm, "tpd": tpd, "itpm": itpm, "otpm": otpm,
            "audio_hour": audio_hour, "audio_day": audio_day,
        }  # fmt: skip
        keywords = SimpleNamespace(**short, minute_s=minute_s, hour_s=hour_s, day_s=day_s)
        draws = (latency, arrival_delay, connect_delay, output)
        self._faults = FaultPlan(faults, seed)
        self._models = _budgets(limits, models, keywords)
        self._service = Service(
            SimulatorSettings(
                budgets=self._models,
                draw_latency=_delay("latency", latency),
                draw_arrival=_delay("arrival_delay", arrival_delay),
                draw_connect=_delay("connect_delay", connect_delay),
                draw_output=_output(output),
                needs_random=not all(isinstance(draw, (int, float)) for draw in draws),
                settlement=settlement,
                headers_at=headers_at,
                send_headers=send_headers,
                api_keys=None if api_keys is None else frozenset(api_keys),
                faults=self._faults,
                seed=seed,
                log_size=log_size,
                organization=organization,
                default_completion=default_completion,
                clock_ns=clock_ns,
            )
        )
        self._host, self._port = host, port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._connections: set[Connection] = set()  # touched on the loop thread only
        self._connection_count = 0

    # Life.

    def start(self) -> GroqSimulator:
        """Listen, and serve on a background thread; returns when connections are accepted.

        A stopped simulator may be started again: same port, same levels and figures.

        Raises:
            OSError: the port is taken.
            RuntimeError: it is running already.
        """
        if self._thread is not None:
            raise RuntimeError("the simulator is running already: stop() it first, or make another")
        listener = socket.create_server((self._host, self._port), backlog=_BACKLOG)
        self._port = listener.getsockname()[1]
        self._loop, self._stopping = _Loop(), asyncio.Event()
        thread = threading.Thread(
            target=self._run, args=(self._loop, listener, self._stopping), name="groq-simulator", daemon=True
        )
        try:
            thread.start()  # the socket listens already: who connects before the loop runs waits in its backlog
        except BaseException:
            listener.close()
            self._loop.close()
            raise
        self._thread = thread
        return self

    def stop(self) -> None:
        """Close every connection at once, drop what is unanswered, end the thread. Harmless if not running."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        with suppress(RuntimeError):  # its loop is closed: another thread, a worker that left last, was faster
            loop.call_soon_threadsafe(self._stopping.set)
        thread.join(_JOIN_S)
        if thread.is_alive():
            raise RuntimeError(f"the simulator did not stop in {_JOIN_S} s: a fault's match or a draw blocks it")
        self._thread = self._loop = None

    def __enter__(self) -> GroqSimulator:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"at {self.base_url}" if self._thread is not None else "not running"
        return f"<GroqSimulator {state}, models {', '.join(self._models)}>"

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self._host

    @property
    def port(self) -> int:
        """The port it listens on; 0 until the first start if any free port was asked for."""
        return self._port

    @property
    def base_url(self) -> str:
        """What a client is pointed at, as ``https://api.groq.com/openai/v1`` would be.

        Raises:
            RuntimeError: the port is not known yet.
        """
        if not self._port:
            raise RuntimeError("the simulator has no address yet: call start() or enter the with block first")
        return f"http://{self._host}:{self._port}/openai/v1"

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, stopping: asyncio.Event) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(loop, listener, stopping))
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, stopping: asyncio.Event) -> None:
        self._service.attach(loop)
        server = await loop.create_server(self._connect, sock=listener, backlog=_BACKLOG)
        await stopping.wait()
        # A socket accepted a moment ago becomes a connection in a task of the loop. Were the server closed before
        # that task has run, the task would fail and nothing would close the socket.
        loop.remove_reader(listener.fileno())
        if accepting := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(accepting)
        server.close()
        while self._connections:  # an aborted one closes, and is taken out, in the next turn of the loop
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)
        self._service.attach(None)

    def _connect(self) -> Connection:
        self._connection_count += 1
        return Connection(
            self._connection_count,
            self._service.handle,
            self._service.refuse,
            self._connections.add,
            self._connections.discard,
        )

    # What tests ask, and do.

    def stats(self) -> SimulatorStats:
        """Return the figures of this moment."""
        return self._service.stats()

    @property
    def log(self) -> list[SimulatedCall]:
        """The last calls that came to the meter, in its order."""
        return self._service.log()

    def wait_for_requests(self, count: int, timeout: float) -> bool:
        """Block until *count* calls came to the meter since it was made; False after *timeout* seconds."""
        return self._service.wait_for_requests(count, timeout)

    def level(self, model: str, dimension: str) -> int:
        """Return how much of *dimension* ("TPM", ...) of *model* is used now, rounded up; 0 if it is not metered."""
        return self._service.level(model, dimension)

    def spend(self, model: str, *, tokens: int = 0, requests: int = 1) -> bool:
        """Spend as another program of the organisation would; tokens count for TPM and TPD.

        Returns:
            True if admitted; False if refused, then nothing is charged.
        """
        return self._service.spend(model, tokens, requests)

    def set_faults(self, faults: Iterable[Fault]) -> None:
        """Replace the rules, counters included."""
        self._faults.replace(faults)

    def add_fault(self, rule: Fault) -> None:
        """Add *rule* behind the others."""
        self._faults.add(rule)


def _budgets(limits: object, models: Iterable[str], keywords: SimpleNamespace) -> dict[str, SimulatedBudget]:
    """Return a budget for each served model, each with buckets of its own."""
    if isinstance(models, str):
        raise ValueError(f"models={models!r} is one string: give a list of names, [{models!r}]")
    if not isinstance(models, Iterable):
        raise ValueError(f"models={models!r:.100}: give a list of names of models")
    names = list(models)
    by_model: Mapping[str, object] = {}
    common: object = keywords
    if isinstance(limits, Mapping):
        by_model = limits
    elif limits is not None:
        given = [d.limit_field for d in DIMENSIONS.values() if getattr(keywords, d.limit_field) is not None]
        if given:
            raise ValueError(f"{given[0]}= is given beside limits=: put it into the limits, or drop them")
        common = limits
    names += [name for name in by_model if name not in names]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"models={names!r:.100}: give at least one name of a model")
    for given_limits in (common, *by_model.values()):
        if not any(hasattr(given_limits, d.limit_field) for d in DIMENSIONS.values()):
            raise ValueError(f"limits={given_limits!r:.100}: give Limits(...), or a dict of them by model")
    return {name: SimulatedBudget(by_model.get(name, common)) for name in names}


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _delay(name: str, given: Delay) -> Callable[[random.Random], float]:
    if callable(given):
        return given
    low, high = _range(name, given, "seconds, (low, high) or a callable taking a random.Random")
    return (lambda _: low) if low == high else (lambda draws: draws.uniform(low, high))


def _output(given: Output) -> Callable[[random.Random, int], int]:
    if callable(given):
        function = given
        return lambda draws, allowance: max(0, int(function(draws, allowance)))
    low, high = _range(
        "output", given, "a fraction of the allowance, (low, high) or a callable taking (random, tokens)"
    )
    if low == high:
        return lambda _, allowance: round(low * allowance)
    return lambda draws, allowance: round(draws.uniform(low, high) * allowance)


def _range(name: str, given: float | tuple[float, float], cure: str) -> tuple[float, float]:
    pair = given if isinstance(given, tuple) else (given, given)
    are_numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in pair)
    if len(pair) == 2 and are_numbers and 0 <= pair[0] <= pair[1] < 1e9:
        return pair
    raise ValueError(f"{name}={given!r:.100}: give {cure}, 0 or more")

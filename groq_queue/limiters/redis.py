"""Budgets that all hosts share, kept in Redis.

Every step is one Lua script, run by the server on its own clock; this file
speaks to it and remembers. It remembers because a Redis may forget: flushed,
restarted without a file, failed over to a replica that lags. The script numbers
its steps and its lives (*epochs*), so a process that knows more than the store
does gets a reply that says so, and sends the store what it remembers before it asks again:
the levels after its last step and the reservations it holds. Until every live
process has done so, two seconds long, no process is granted anything.

Only fingerprints of lanes and clients are stored, never a name or a key.

Units: cost in whole units, time in nanoseconds here and microseconds there.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from groq_queue.clock import NS_PER_S, Clock, SystemClock
from groq_queue.core.budget import Blocked, Level, TooLarge
from groq_queue.errors import ConfigurationError, LimiterUnavailable, MissingExtraError
from groq_queue.limiters.store import KnownLimits, LaneStatus, ReservationRequest, Reserved, ServerLimit, Units

ANSWER_S = 2.0
"""A server that does not answer in this time is taken for away."""

_US = 1_000  # nanoseconds
_KEYS = ("state", "leases", "processes", "line", "waiters", "turns", "ended")
_GRANTED, _BLOCKED, _TOO_LARGE, _FORGOT = 1, 0, -1, -2
_SCALE = 1_000  # fair time of one turn of a client of weight 1
_HEARTBEAT_NS = NS_PER_S  # to claim something is as good as a beat
_RESUBSCRIBE_NS = NS_PER_S
_BUCKET = struct.Struct("<dddd")  # the first of the ten numbers that the script packs: limit, period, two levels
_SIZE = struct.Struct("<dd")  # limit and period
_BUCKET_BYTES = 80
_FOLDER = Path(__file__).parent / "lua"
_PARTS = ("store.lua", "line.lua", "steps.lua")  # one script


@dataclass
class _Lane:
    """What this process knows of one lane.

    ``memory`` is the store's account of itself after the last step, which was over at
    ``at_ns`` of our clock. ``due_ns`` is the instant that the store gave to the head of the line, ours.
    """

    channel: str
    keys: list[str]
    epoch: str = ""
    step: int = 0
    memory: bytes = b""
    at_ns: int = 0
    leases: dict[str, str] = field(default_factory=dict)  # id: costs as the script writes them
    waiting: set[str] = field(default_factory=set)
    heartbeat_ns: int = 0  # when we were last known to be alive there
    due_ns: int | None = None


class RedisBudgetStore:
    """The budgets of a Redis, a Valkey or a Redis Cluster; see ``limiters.store`` for what each method means.

    One thread at a time may use it, so there is no lock.

    Args:
        connect: Makes a client of redis-py that retries nothing by itself; asked again after every failure.
        address: Where it is, for messages; without any password.
        scope: Begins all keys: processes that share budgets have the same.
        clock: Only durations are taken from it.
    """

    def __init__(self, connect: Callable[[], Any], address: str, scope: str = "", clock: Clock | None = None) -> None:
        self._connect = connect
        self._client: Any = None
        self._address = address
        self._scope = scope
        self._clock = clock or SystemClock()
        self._token = uuid.uuid4().hex
        self._errors = importlib.import_module("redis.exceptions")
        self._script = b"".join((_FOLDER / name).read_bytes() for name in _PARTS)
        self._sha = hashlib.sha1(self._script).hexdigest()
        self._lanes: dict[str, _Lane] = {}
        self._listener: Any = None
        self._subscribed: dict[bytes, _Lane] = {}  # by channel
        self._subscribe_at_ns = 0

    @classmethod
    def open(cls, url: str, clock: Clock | None = None) -> RedisBudgetStore:
        """Open ``redis://[user:password@]host[:port][/db][?scope=acme]``, or ``rediss://`` for TLS.

        Nothing is sent yet. Other words of the query are redis-py's; ``cluster=true`` is for a Redis Cluster.

        Raises:
            ConfigurationError: The URL cannot be used.
            MissingExtraError: redis-py is not installed.
        """
        address = _address_of(url)
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ConfigurationError(f"limiter={address!r}: a Redis is named as redis://host:6379/0?scope=acme")
        if parts.path.strip("/") and not parts.path.strip("/").isdecimal():  # redis-py would silently use database 0
            raise ConfigurationError(f"limiter={address!r}: a database of a Redis is a number, as in redis://host/0")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        scope = query.pop("scope", "default")
        if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", scope):
            raise ConfigurationError(f"limiter: scope={scope!r}: 1 to 64 letters, digits or _ . : -")
        is_cluster = query.pop("cluster", "false").lower() in ("1", "true", "yes")
        connect = _connector(urlunsplit(parts._replace(query=urlencode(query))), address, is_cluster)
        return cls(connect, address, scope, clock)

    @property
    def address(self) -> str:
        return self._address

    @property
    def token(self) -> str:
        return self._token

    def reserve(self, claim: ReservationRequest, limits: KnownLimits) -> Reserved | Blocked | TooLarge:
        lane = self._lane(claim.lane)
        lane.waiting.add(claim.id)
        length = max(1, round(claim.turn_cost * _SCALE / claim.weight))
        costs = _costs(claim.cost)
        client = hashlib.sha256(claim.client.encode()).hexdigest()[:16]
        code, wait_us, what, used, limit = self._step(
            lane, "reserve", claim.id, claim.priority, client, length, costs, *self._limits(lane, limits)
        )
        lane.heartbeat_ns = lane.at_ns
        name = what.decode()
        if code == _BLOCKED:
            lane.due_ns = None
            self._listen(lane)
            if name == "hold":
                return Blocked("hold", wait_us * _US, used.decode())
            if name == "behind":
                return Blocked("behind", None)
            return Blocked("limit", None if wait_us < 0 else wait_us * _US, name, used, limit)
        lane.waiting.discard(claim.id)
        if code == _TOO_LARGE:
            return TooLarge(used, limit, name)
        lane.leases[claim.id] = costs
        return Reserved(claim.id)

    def settle(
        self,
        lane: str,
        claim_id: str,
        requested: Units,
        used: Units,
        seen: Mapping[str, ServerLimit],
        limits: KnownLimits,
    ) -> None:
        names = [name for name in {**requested, **used} if requested.get(name) or used.get(name)]
        charged = [word for name in names for word in (name, requested.get(name, 0), used.get(name, 0))]
        levels = [word for name, each in seen.items() for word in (name, each.limit, each.remaining, int(each.lowers))]
        known = self._lane(lane)
        self._step(known, "settle", *self._limits(known, limits), claim_id, len(names), *charged, *levels)
        known.leases.pop(claim_id, None)

    def refund(self, lane: str, claim_id: str) -> None:
        known = self._lane(lane)
        self._step(known, "refund", claim_id)
        known.leases.pop(claim_id, None)
        known.waiting.discard(claim_id)

    def charge(self, lane: str, used: Units, limits: KnownLimits) -> None:
        spent = [word for name, units in used.items() if units for word in (name, units)]
        known = self._lane(lane)
        self._step(known, "charge", *self._limits(known, limits), *spent)

    def hold(self, lane: str, wait_ns: int, dimension: str) -> None:
        self._step(self._lane(lane), "hold", _us(wait_ns), dimension)

    def at_least(self, lane: str, dimension: str, used: int, age_ns: int, limits: KnownLimits) -> None:
        known = self._lane(lane)
        self._step(known, "at_least", *self._limits(known, limits), dimension, max(0, used), age_ns // _US)

    def status(self, lane: str) -> LaneStatus:
        _, held_us, refunds_unused, processes, rows = self._step(self._lane(lane), "status")
        levels = [Level(name.decode(), used, limit, period_us / 1e6) for name, used, limit, period_us in rows]
        return LaneStatus(levels, refunds_unused == b"1", max(1, processes), held_us * _US)

    def heartbeat(self) -> None:
        now_ns = self._clock.now_ns()
        for lane in self._lanes.values():
            if (lane.leases or lane.waiting) and now_ns - lane.heartbeat_ns >= _HEARTBEAT_NS:
                self._step(lane, "heartbeat")
                lane.heartbeat_ns = now_ns

    def has_changed(self) -> bool:
        """Return whether a message came, or the instant that the store gave us has; costs no command."""
        now_ns = self._clock.now_ns()
        is_due = self._hear(now_ns)
        for lane in self._lanes.values():
            if lane.due_ns is not None and lane.due_ns <= now_ns:
                lane.due_ns, is_due = None, True
        return is_due

    def reset_after_fork(self) -> None:
        self._token = uuid.uuid4().hex
        self._client = self._listener = None  # redis-py closes the child's copies without a word to the server
        self._lanes, self._subscribed = {}, {}

    def close(self) -> None:
        for lane in self._lanes.values():
            if lane.leases or lane.waiting:
                try:
                    self._step(lane, "leave")
                except LimiterUnavailable:
                    break  # its silence will tell the same in a few seconds
        self._lanes.clear()
        self._drop_connections()

    def _know(self, name: str, tag: str) -> _Lane:
        """Have the lane *name* under the keys that begin with *tag*."""
        known = self._lanes[name] = _Lane(f"{tag}:told", [f"{tag}:{key}" for key in _KEYS])
        return known

    def _lane(self, name: str) -> _Lane:
        known = self._lanes.get(name)
        if known is None:
            fingerprint = hashlib.sha256(name.encode()).hexdigest()[:24]
            known = self._know(name, f"gq:{{{self._scope}:{fingerprint}}}")
        return known

    def _limits(self, lane: _Lane, limits: KnownLimits) -> list[object]:
        """Return the words for those limits that are not what the store had after our last step."""
        words: list[object] = [0]
        for name, (limit, period_ns) in limits.items():
            if b";%s=%s" % (name.encode(), _SIZE.pack(limit, _us(period_ns))) not in lane.memory:
                words += [name, limit, _us(period_ns)]
        words[0] = len(words) // 3
        return words

    def _step(self, lane: _Lane, operation: str, *words: object) -> list[Any]:
        """Run one operation and return what it replied; if the store has forgotten, remind it first."""
        reply = self._run(lane, operation, *words)
        while reply[0] == _FORGOT:
            self._hear(self._clock.now_ns())  # the last words before it forgot may still be on their way
            self._learn(lane, self._run(lane, "restore", *self._reminder(lane))[5])
            reply = self._run(lane, operation, *words)
        self._learn(lane, reply[5])
        return reply[:5]

    def _learn(self, lane: _Lane, memory: bytes) -> None:
        """Take the store's account of itself, but for that of a lane it does not have."""
        if memory:
            epoch, step, _ = memory.split(b" ", 2)
            lane.epoch, lane.step = epoch.decode(), int(step)
            lane.memory, lane.at_ns = memory, self._clock.now_ns()

    def _reminder(self, lane: _Lane) -> list[object]:
        """Return what we remember of a lane, as "restore" wants it."""
        _, _, now_us, refunds_unused, packed = lane.memory.split(b" ", 4)
        elapsed_us = (self._clock.now_ns() - lane.at_ns) // _US
        limits: list[object] = []
        levels: list[object] = []
        while packed:
            name, _, packed = packed[1:].partition(b"=")
            limit, period_us, strict_us, credited_us = map(int, _BUCKET.unpack_from(packed))
            packed = packed[_BUCKET_BYTES:]
            limits += [name, limit, period_us]
            levels += [name, *(each - int(now_us) - elapsed_us for each in (strict_us, credited_us))]
        count = len(levels) // 3
        leases = [word for pair in lane.leases.items() for word in pair]
        return [refunds_unused, count, *limits, count, *levels, *leases]

    def _run(self, lane: _Lane, operation: str, *words: object) -> list[Any]:
        arguments = (operation, self._token, lane.channel, lane.epoch, lane.step, *words)
        try:
            if self._client is None:
                self._client = self._connect()
            try:
                reply: list[Any] = self._client.evalsha(self._sha, len(_KEYS), *lane.keys, *arguments)
            except self._errors.NoScriptError:
                reply = self._client.eval(self._script, len(_KEYS), *lane.keys, *arguments)
        except (self._errors.RedisError, OSError) as error:
            self._drop_connections()  # after a failover the same name may lead elsewhere
            raise self._unavailable(error) from error
        return reply

    def _unavailable(self, error: Exception) -> LimiterUnavailable:
        cure = "is it running, can this host reach it, and is the address in limiter= the right one?"
        cures = {
            "OutOfMemoryError": "it is full: give it memory, and keep maxmemory-policy at noeviction",
            "ReadOnlyError": "this is a replica: name the master, or an address that follows it",
            "AuthenticationError": "check user and password",
            "NoPermissionError": "its user needs +@scripting +@read +@write +@pubsub ~gq:* &gq:*",
        }
        cure = next((cure for name, cure in cures.items() if isinstance(error, getattr(self._errors, name))), cure)
        return LimiterUnavailable(f"no shared budget from {self._address}: {error}; {cure}", address=self._address)

    def _listen(self, lane: _Lane) -> None:
        """Subscribe to a lane; earlier messages are lost, so the next look says that there was something."""
        channel = lane.channel.encode()
        if channel in self._subscribed:
            return
        try:
            if self._listener is None:
                self._listener = self._client.pubsub(ignore_subscribe_messages=True)
            self._listener.subscribe(lane.channel)
        except (self._errors.RedisError, OSError):
            self._hang_up()
            return
        self._subscribed[channel] = lane
        lane.due_ns = self._clock.now_ns()

    def _hear(self, now_ns: int) -> bool:
        """Take in the messages that came; return whether a lane must be looked at now."""
        is_news = False
        if self._listener is None:
            if self._client is None or now_ns < self._subscribe_at_ns:
                return False
            self._subscribe_at_ns = now_ns + _RESUBSCRIBE_NS
            for lane in self._lanes.values():
                if lane.waiting:
                    self._listen(lane)
        try:
            while self._listener is not None and (message := self._next_message()) is not None:
                lane = self._subscribed[message["channel"]]
                is_news |= self._on_message(lane, message["data"], now_ns)
        except (self._errors.RedisError, OSError, KeyError):
            self._hang_up()
        return is_news

    def _next_message(self) -> Any:
        """Return the next message, or None; redis-py answers None to a note about the subscription itself, too."""
        while True:
            message = self._listener.get_message(timeout=0)
            if message is not None:
                return message
            connection = self._listener.connection
            if connection is None or not connection.can_read(timeout=0):
                return None

    def _on_message(self, lane: _Lane, message: bytes, now_ns: int) -> bool:
        if message == b"epoch":
            return True
        owner, wait_us, memory = message.split(b" ", 2)
        epoch, step, _ = memory.split(b" ", 2)
        if epoch.decode() == lane.epoch and int(step) > lane.step:
            self._learn(lane, memory)
        if owner.decode() == self._token:
            lane.due_ns = None if int(wait_us) < 0 else now_ns + int(wait_us) * _US
        return False

    def _hang_up(self) -> None:
        listener, self._listener = self._listener, None
        self._subscribed.clear()
        if listener is not None:
            _quietly(listener.close)

    def _drop_connections(self) -> None:
        self._hang_up()
        client, self._client = self._client, None
        if client is not None:
            _quietly(client.close)


def _connector(url: str, address: str, is_cluster: bool) -> Callable[[], Any]:
    try:
        redis = importlib.import_module("redis")
    except ImportError as error:
        raise MissingExtraError.needed("limiter='redis://…'", "redis") from error
    no_retry = importlib.import_module("redis.retry").Retry(importlib.import_module("redis.backoff").NoBackoff(), 0)
    settings = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S, "socket_keepalive": True}

    def connect() -> Any:
        if is_cluster:
            return redis.RedisCluster.from_url(url, **settings)
        return redis.Redis.from_url(url, protocol=2, single_connection_client=True, retry=no_retry, **settings)

    try:
        redis.Redis.from_url(url, **settings).connection_pool.make_connection()
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"limiter={address!r}: {error}") from error
    return connect


def _address_of(url: str) -> str:
    """Return *url* without user, password and query, whatever it is."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _costs(cost: Units) -> str:
    return ";".join(f"{name}={units}" for name, units in cost.items() if units > 0)


def _us(ns: int) -> int:
    """Return whole microseconds, rounded up: a longer wait, a slower drain."""
    return max(0, -(-ns // _US))


def _quietly(close: Callable[[], Any]) -> None:
    """Let go of a connection that may be broken."""
    try:
        close()
    except Exception:  # whatever a broken connection says about its end does not matter any more
        return

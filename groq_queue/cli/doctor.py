"""``groq-queue doctor``: checks each thing a run depends on, names the cure where one is wrong, and costs nothing.

What is sent is one ``GET models``. The key is never shown, only a fingerprint that
tells it from others. What is slow to load, such as the network, is imported by the
check that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from groq_queue.cli import Exit
from groq_queue.cli.arguments import add_base_url, add_command, count, seconds
from groq_queue.display import duration_text, file_size, plural
from groq_queue.errors import ConfigurationError, GroqQueueError, MissingExtraError, excerpt

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands
    from groq_queue.clock import Clock
    from groq_queue.transport import Secret

_DESCRIPTION = """\
Check what a run depends on: key, base URL, proxy, network, clock, open files,
and a journal and a limiter if you name them. Sends one GET for the list of
models, which costs nothing. The key is never printed.
"""

_EPILOG = """\
exit codes: 0 nothing failed   1 network, server, journal or limiter   3 key or settings
"""

_LOCAL_KEY = "local"  # servers on this machine ask for none
_GROQ_KEY_CHARACTERS = range(40, 200)  # 56 as of 2026-11; only what is far off is suspicious
_SKEW_S = 5.0  # Retry-After dates and the journal's instants bear less than that
_DISK_BYTES = 500_000_000
_WAL_BYTES = 64_000_000
_SPARE_FILES = 64  # besides one connection for each worker
_PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
_CURES = {
    "DNS": "check the name in the base URL and this machine's network; a proxy is named by HTTPS_PROXY",
    "TCP": "does a server listen at this port, and is there a firewall or a proxy (HTTPS_PROXY) before it?",
    "TLS": "does the port speak https, and is a proxy in between?",
}
_TAG = re.compile(r"<[^>]*>")  # of the pages that proxies and load balancers answer with


def add_to(commands: Commands) -> None:
    """Register the ``doctor`` subcommand."""
    parser = add_command(
        commands, "doctor", "check key, address, network, clock, journal and limiter", doctor, _DESCRIPTION, _EPILOG
    )
    add_base_url(parser)
    parser.add_argument("--model", metavar="M", help="also check that the API serves this model")
    parser.add_argument("--journal", metavar="FILE", help="also check this journal")
    parser.add_argument("--limiter", metavar="URL", help="also check this limiter")
    parser.add_argument("--workers", type=count, default=64, metavar="N",
                        help="how many requests you plan to have in flight at once (default: 64)")  # fmt: skip
    parser.add_argument("--timeout", type=seconds, default=10.0, metavar="S",
                        help="seconds to wait for the network (default: 10)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the checks as one JSON object")


def doctor(args: argparse.Namespace) -> int:
    """Check everything, print it, and return 0, or 3 for settings that cannot work, or 1 for anything else."""
    checks = []
    for check in Doctor(args).checks():
        checks.append(check)
        if not args.json:
            print(f"{check.level:<5} {check.name:<11} {check.text}", flush=True)
    failed = [check for check in checks if check.level == "fail"]
    code = Exit.DONE
    if failed:
        code = Exit.CONFIGURATION if any(check.is_configuration for check in failed) else Exit.SOME_FAILED
    if args.json:
        report = {
            "checks": [{"name": each.name, "level": each.level, "text": each.text} for each in checks],
            "ok": not failed,
            "exit_code": int(code),
        }
        print(json.dumps(report))
    else:
        warned = [check for check in checks if check.level == "warn"]
        print(f"\n{_summary(failed, warned)}", file=sys.stderr)
    return code


def _summary(failed: list[Check], warned: list[Check]) -> str:
    """Return which checks failed and which warn, in one line; each has printed its own cause and cure."""
    if not failed and not warned:
        return "all ok"
    summary = f"{plural(len(failed), 'check') if failed else 'no check'} failed"
    summary += f": {', '.join(check.name for check in failed)}" if failed else ""
    names = ", ".join(check.name for check in warned)
    return summary + (f"; {plural(len(warned), 'warning')}: {names}" if warned else "")


class Check(NamedTuple):
    """One line of the report."""

    name: str
    level: str  # "ok", "warn", "fail" or "skip"
    text: str
    is_configuration: bool = False  # a failure is the user's settings, not the world


class Doctor:
    """What is checked; later checks use what earlier ones found."""

    def __init__(self, args: argparse.Namespace) -> None:
        from groq_queue.clock import SystemClock

        self._args = args
        self._clock = SystemClock()
        self._url: str | None = None
        self._key: Secret | None = None
        self._proxy: str | None = None
        self._is_reached = False

    def checks(self) -> Iterator[Check]:
        yield self._versions()
        yield self._base_url()
        yield self._api_key()
        if self._url is not None:
            yield self._proxies()
            yield self._connection()
            yield from self._models()
        yield self._open_files()
        if self._args.journal is not None:
            yield from self._journal(self._args.journal)
        if self._args.limiter is not None:
            yield _limiter(self._args.limiter, self._clock)

    def _versions(self) -> Check:
        from importlib import metadata

        from groq_queue import __version__

        python = ".".join(map(str, sys.version_info[:3]))
        below = ", ".join(f"{name} {metadata.version(name)}" for name in ("urllib3", "requests"))
        return Check("versions", "ok", f"groq_queue {__version__}, Python {python}, {below}")

    def _base_url(self) -> Check:
        from groq_queue.transport import resolve_base_url
        from groq_queue.wiring.accounts import DEFAULT_BASE_URL

        given = self._args.base_url or os.environ.get("GROQ_BASE_URL")
        source = "--base-url" if self._args.base_url else "GROQ_BASE_URL" if given else "the default"
        try:
            self._url = resolve_base_url(given or DEFAULT_BASE_URL)
        except ConfigurationError as error:
            return Check("base URL", "fail", f"from {source}: {error}", True)
        return Check("base URL", "ok", f"{self._url}, from {source}")

    def _api_key(self) -> Check:
        from groq_queue.transport import Secret
        from groq_queue.transport.address import is_loopback

        given = os.environ.get("GROQ_API_KEY")
        is_local = self._url is not None and is_loopback(urlsplit(self._url).hostname or "")
        if not given:
            if is_local:
                self._key = Secret(_LOCAL_KEY)
                return Check("key", "ok", "GROQ_API_KEY is not set; a server on this machine needs none")
            return Check("key", "fail", "GROQ_API_KEY is not set: export GROQ_API_KEY=… (console.groq.com/keys)", True)
        try:
            self._key = Secret(given, "GROQ_API_KEY")
        except ConfigurationError as error:
            return Check("key", "fail", str(error), True)
        text = f"GROQ_API_KEY is set, {len(given)} characters, fingerprint {self._key.fingerprint()}"
        is_groq = self._url is not None and (urlsplit(self._url).hostname or "").endswith("groq.com")
        if is_groq and not (given.startswith("gsk_") and len(given) in _GROQ_KEY_CHARACTERS):
            return Check("key", "warn", f"{text}; keys of Groq begin with gsk_ and have 56: was it copied whole?")
        return Check("key", "ok", text)

    def _proxies(self) -> Check:
        from groq_queue.transport.pooled import environment_proxy

        assert self._url is not None
        named = [name for name in _PROXY_VARIABLES if os.environ.get(name) or os.environ.get(name.lower())]
        try:
            self._proxy = environment_proxy(urlsplit(self._url))
        except ConfigurationError as error:
            return Check("proxy", "fail", str(error), True)
        hint = f" ({', '.join(named)} set)" if named else ""
        if self._proxy is None:
            return Check("proxy", "ok", f"none applies{hint}")
        return Check("proxy", "ok", f"through {_without_credentials(self._proxy)}{hint}")

    def _connection(self) -> Check:
        """Resolve, connect and shake hands, each timed, with the API or with the proxy before it."""
        import socket
        import ssl

        from groq_queue.transport.address import port_of

        assert self._url is not None
        target = urlsplit(self._proxy or self._url)
        host = target.hostname or ""
        peer = f"{'proxy ' if self._proxy else ''}{host}:{port_of(target)}"
        timings = []
        step = "DNS"
        try:
            began_ns = self._clock.now_ns()
            socket.getaddrinfo(host, port_of(target), type=socket.SOCK_STREAM)
            timings.append(f"DNS {self._ms(began_ns)}")
            step, began_ns = "TCP", self._clock.now_ns()
            with socket.create_connection((host, port_of(target)), timeout=self._args.timeout) as plain:
                timings.append(f"TCP {self._ms(began_ns)}")
                if target.scheme == "https":
                    from groq_queue.transport.pooled import tls_context

                    step, began_ns = "TLS", self._clock.now_ns()
                    with tls_context().wrap_socket(plain, server_hostname=host) as secured:
                        timings.append(f"{secured.version()} {self._ms(began_ns)}")
        except ssl.SSLCertVerificationError as error:
            return Check("connection", "fail", f"{peer}: the certificate does not verify: {error.verify_message}; "
                         "put the path of its CA bundle into SSL_CERT_FILE")  # fmt: skip
        except OSError as error:
            why = excerpt(str(error.strerror or error))
            return Check("connection", "fail", f"{peer}: {step} failed: {why}{_after(timings)}; {_CURES[step]}")
        self._is_reached = True
        return Check("connection", "ok", f"{peer}: {', '.join(timings)}")

    def _models(self) -> Iterator[Check]:
        """Ask for the list of models, which needs the key and costs nothing."""
        from groq_queue.clock import NS_PER_S

        if self._key is None or not self._is_reached:
            yield Check("models", "skip", "not asked, because of the above")
            return
        began_ns, began_s = self._clock.now_ns(), self._clock.wall_s()
        try:
            status, headers, body = self._get_models()
        except (OSError, ValueError) as error:
            yield Check("models", "fail", f"GET models: {self._key.redact(excerpt(str(error)))}")
            return
        took_s = (self._clock.now_ns() - began_ns) / NS_PER_S
        yield _models_check(status, body, took_s, self._args.model, self._key)
        yield _skew(headers.get("date"), began_s + took_s / 2)

    def _get_models(self) -> tuple[int, Mapping[str, str], bytes]:
        """Return the answer to one GET, whose errors are turned into ``OSError`` without a trace of the key."""
        import urllib3

        from groq_queue.transport.base import default_user_agent
        from groq_queue.transport.pooled import tls_context

        assert self._key is not None
        options: dict[str, Any] = {"timeout": self._args.timeout, "retries": False, "ssl_context": tls_context()}
        if self._proxy is None:
            pool = urllib3.PoolManager(**options)
        else:
            parts = urlsplit(self._proxy)
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
            secret = urllib3.make_headers(proxy_basic_auth=user) if user else None
            pool = urllib3.ProxyManager(_without_credentials(self._proxy), proxy_headers=secret, **options)
        problem = ""
        with pool:
            try:
                answer = pool.request(
                    "GET",
                    f"{self._url}/models",
                    headers={"Authorization": f"Bearer {self._key.reveal()}", "User-Agent": default_user_agent()},
                    redirect=False,
                )
                return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.data
            except urllib3.exceptions.HTTPError as error:
                problem = f"{type(error).__name__}: {excerpt(str(error))}"
        raise OSError(problem)

    def _open_files(self) -> Check:
        try:
            import resource
        except ImportError:  # Windows
            return Check("open files", "skip", "this system sets no such limit")
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = self._args.workers + _SPARE_FILES
        need = f"{plural(self._args.workers, 'worker')} may need {needed:,}"
        if soft != resource.RLIM_INFINITY and soft < needed:
            text = f"{soft:,} allowed, {need}: ulimit -n {needed}"
            return Check("open files", "warn", text)
        allowed = "any number" if soft == resource.RLIM_INFINITY else f"{soft:,}"
        return Check("open files", "ok", f"{allowed} allowed, {need}")

    def _journal(self, path: str) -> Iterator[Check]:
        directory = os.path.dirname(os.path.abspath(path))
        if not os.path.exists(path):
            is_writable = os.path.isdir(directory) and os.access(directory, os.W_OK)
            text = f"{path} does not exist; {directory} " + ("is writable" if is_writable else "cannot be written")
            yield Check("journal", "ok" if is_writable else "fail", text, not is_writable)
        else:
            yield from _contents(path)
        if os.path.isdir(directory):
            free = shutil.disk_usage(directory).free
            level = "ok" if free >= _DISK_BYTES else "warn"
            yield Check("disk", level, f"{file_size(free)} free in {directory}")

    def _ms(self, began_ns: int) -> str:
        return f"{(self._clock.now_ns() - began_ns) / 1e6:.1f} ms"


def _models_check(status: int, body: bytes, took_s: float, model: str | None, key: Secret) -> Check:
    said = f"GET models: HTTP {status} in {took_s * 1e3:.0f} ms"
    if status == 200:
        names = _names(body)
        if names is None:
            return Check("models", "warn", f"{said}, but the answer is no list of models: is the base URL right?")
        if model is not None and model not in names:
            some = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
            return Check("models", "fail", f"{said}; {model!r} is not among its {len(names)} models: {some}", True)
        return Check("models", "ok", f"{said}, {plural(len(names), 'model')}")
    if status in (401, 403):
        what = "the key is not accepted" if status == 401 else "the key or this network may not ask"
        return Check("models", "fail", f"{said}: {what}: check GROQ_API_KEY and the base URL", True)
    if status == 404:
        return Check("models", "warn", f"{said}: the server has no such list; is the path of the base URL right?")
    answer = key.redact(excerpt(" ".join(_TAG.sub(" ", body.decode("utf-8", "replace")).split())))
    cure = "it is the server's own trouble: try again later" if status >= 500 else "is the base URL right?"
    return Check("models", "fail", f"{said}: {answer}: {cure}", 300 <= status < 400)


def _names(body: bytes) -> set[str] | None:
    with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return {str(model["id"]) for model in json.loads(body)["data"]}
    return None


def _skew(date: str | None, middle_s: float) -> Check:
    """Compare our clock in the middle of the exchange with the server's, which tells whole seconds."""
    from email.utils import parsedate_to_datetime

    if date is None:
        return Check("clock", "skip", "the server does not tell the time")
    try:
        server_s = parsedate_to_datetime(date).timestamp() + 0.5
    except (ValueError, TypeError):
        return Check("clock", "skip", f"the server tells no readable time: {excerpt(date)!r}")
    skew_s = middle_s - server_s
    if abs(skew_s) <= _SKEW_S:
        return Check("clock", "ok", "agrees with the server's")
    skew = f"{duration_text(abs(round(skew_s)))} {'ahead of' if skew_s > 0 else 'behind'} the server's"
    return Check("clock", "warn", f"{skew}: dates in Retry-After mislead; use NTP")


def _contents(path: str) -> Iterator[Check]:
    from groq_queue.journal import Reader

    try:
        with Reader.open(path) as reader:
            summary = reader.summary()
    except GroqQueueError as error:
        yield Check("journal", "fail", excerpt(str(error)), isinstance(error, ConfigurationError))
        return
    counts = ", ".join(f"{count:,} {status}" for status, count in summary.counts.items() if count) or "empty"
    owner = "nobody has it open" if summary.owner_pid is None else f"open in process {summary.owner_pid}"
    yield Check("journal", "ok", f"{path}: schema {summary.schema}, {counts}; {owner}; {file_size(summary.file_bytes)}")
    if summary.wal_bytes > _WAL_BYTES:
        yield Check("journal log", "warn", f"{file_size(summary.wal_bytes)} not yet in the file: a reader holds it up")


def _limiter(address: str, clock: Clock) -> Check:
    from groq_queue.limiters.store import check_address, open_store

    try:
        if check_address(address).startswith("sqlite:"):
            from groq_queue.limiters.sqlite import check_place, path_of

            path = path_of(address)
            if not os.path.exists(path):  # looking must not make it
                check_place(path)
                return Check("limiter", "ok", f"{path} does not exist; {os.path.dirname(path)} is writable")
        store = open_store(address, clock)
        try:
            began_ns = clock.now_ns()
            alive = store.status("").processes
            took_ms = (clock.now_ns() - began_ns) / 1e6
            shared = f", {alive} processes share it now" if alive > 1 else ""
            return Check("limiter", "ok", f"{store.address}: answers in {took_ms:.1f} ms{shared}")
        finally:
            store.close()
    except GroqQueueError as error:
        is_configuration = isinstance(error, (ConfigurationError, MissingExtraError))
        return Check("limiter", "fail", excerpt(str(error)), is_configuration)


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _after(timings: list[str]) -> str:
    return f" (after {', '.join(timings)})" if timings else ""

"""Both transports under one name, and a network without the developer's own settings."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from extras import needs_program

from groq_queue.transport import PooledTransport, Secret, Transport, deadline
from groq_queue.transport.session import SessionTransport

KEY = "gsk_SENTINELsentinel+/0123456789abcdWXYZ"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def key() -> Secret:
    return Secret(KEY)


def timer_alarm(seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
    """The simplest alarm there is: a thread per attempt."""
    timer = threading.Timer(seconds, callback)
    timer.daemon = True
    timer.start()
    return timer.cancel


class HandAlarm:
    """An alarm that rings when a test says so."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._callbacks: list[Callable[[], None]] = []

    def __call__(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        self.log.append(f"set {seconds:g}")
        self._callbacks.append(callback)
        return lambda: self.log.append("off")

    def ring(self, number: int = -1) -> None:
        """Call back the attempt of that number, as if its time were over."""
        self._callbacks[number]()


@pytest.fixture
def alarm() -> HandAlarm:
    return HandAlarm()


class HandClock:
    """The clock of attempts, standing still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def attempt_clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """What attempts take for the time; sockets keep their own."""
    clock = HandClock()
    monkeypatch.setattr(deadline, "now_s", clock)
    return clock


Opener = Callable[..., Transport]


@pytest.fixture
def open_pooled(key: Secret) -> Iterator[Opener]:
    opened: list[Transport] = []

    def open_one(base_url: str, **options: Any) -> Transport:
        opened.append(PooledTransport(base_url, key, **options))
        return opened[-1]

    yield open_one
    for transport in opened:
        transport.close()


@pytest.fixture
def open_session(key: Secret) -> Iterator[Opener]:
    opened: list[tuple[Transport, requests.Session]] = []

    def open_one(base_url: str, session: requests.Session | None = None, **options: Any) -> Transport:
        session = session or requests.Session()
        opened.append((SessionTransport(session, base_url, key, **options), session))
        return opened[-1][0]

    yield open_one
    for transport, session in opened:
        transport.close()
        session.close()


@pytest.fixture(params=["pooled", "session"])
def open_transport(request: pytest.FixtureRequest) -> Opener:
    opener: Opener = request.getfixturevalue(f"open_{request.param}")
    return opener


class Stopwatch:
    """Seconds since the block began."""

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = time.perf_counter() - self._start


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate with its key, in one file, for 127.0.0.1 and api.example.test."""
    openssl = needs_program("openssl")
    folder = tmp_path_factory.mktemp("certificate")
    path = folder / "server.pem"
    names = "subjectAltName=IP:127.0.0.1,DNS:api.example.test"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    subprocess.run(
        [openssl, *make.split(), "-addext", names, "-keyout", str(path), "-out", str(folder / "cert.pem")],
        check=True,
        capture_output=True,
        timeout=20,
    )
    path.write_bytes(path.read_bytes() + (folder / "cert.pem").read_bytes())
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context

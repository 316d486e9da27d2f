"""D35 to D49: what servers, networks and proxies do."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from groq_queue import ConfigurationError

from .harness import (
    KEY,
    PATIENCE_S,
    SLACK,
    Figure,
    Server,
    child,
    ended,
    error_of,
    memory_mib,
    queue,
    seconds,
    server,
    wait_until,
)


def kind(error: BaseException | None) -> str:
    return "answer" if error is None else type(error).__name__


def d35(full: bool) -> Figure:
    count = 100_000 if full else 600
    wrong = failed = done = 0
    kinds: Counter[str] = Counter()
    lock = threading.Lock()

    def check(name: str, future: Any) -> None:
        nonlocal wrong, failed, done
        error = future.exception()
        text = "" if error is not None else future.result().text
        with lock:
            done += 1
            failed += error is not None
            kinds[kind(error)] += error is not None
            wrong += error is None and text != hashlib.sha256(name.encode()).hexdigest()

    with server() as bad:
        begin = time.monotonic()
        with queue(bad.url("faulty-10"), max_workers=32, max_pending=2_000) as q:
            for number in range(count):
                q.submit(f"p{number}", callback=lambda future, name=f"p{number}": check(name, future))
        took = time.monotonic() - begin
        faults = bad.seen("faulty-10")["faults"]
    recovered = 1 - failed / max(1, faults)
    peak = memory_mib("VmHWM")
    ok = done == count and not wrong and recovered >= 0.999 and peak <= 300
    return Figure(
        ok,
        f"{count:,} requests, {faults:,} faults: unresolved {count - done}, mismatched {wrong}, "
        f"recovered {recovered:.2%} "
        f"(failed {dict(+kinds)}), peak {peak:.0f} MiB (bar 300), {count / took:,.0f} req/s",
    )


def d36(full: bool) -> Figure:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    said = []
    took = 0.0
    for url in (f"http://127.0.0.1:{port}/v1", "https://nope.invalid/v1"):
        with queue(url, max_retries=2) as q:
            begin = time.monotonic()
            error = error_of(q.submit("x"))
            took = max(took, time.monotonic() - begin)
            said.append((kind(error), getattr(error, "sent", None), getattr(error, "attempts", None)))
    ok = said == [("APIConnectionError", "no", 3)] * 2 and took <= (1.5 + 2) * SLACK
    return Figure(
        ok, f"refused and nope.invalid: {said[0][0]}, {said[1][0]}, sent {said[0][1]}; slowest {took:.1f} s (bar 3.5)"
    )


@contextlib.contextmanager
def tls_server(directory: Path, name: str, days: str, host: str) -> Iterator[tuple[int, Path, list[bytes]]]:
    """Serve TLS with a certificate of its own making; what arrives in plain is noted."""
    pem, asked, cert, names = (directory / f"{name}.{end}" for end in ("pem", "csr", "crt", "ext"))
    names.write_text(f"subjectAltName={host}")
    for make in (
        f"req -newkey rsa:2048 -nodes -subj /CN=faults -keyout {pem} -out {asked}",
        f"x509 -req -in {asked} -signkey {pem} -days {days} -extfile {names} -out {cert}",
    ):
        done = subprocess.run(["openssl", *make.split()], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, pem)
    got: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain, contextlib.suppress(OSError):
                got.append(b"")
                with context.wrap_socket(plain, server_side=True) as sock:
                    got[-1] = sock.recv(65_536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], cert, got
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def d37(full: bool) -> Figure:
    if shutil.which("openssl") is None:
        return Figure(False, "no openssl binary to make certificates with")
    said, plaintext = [], 0
    with tempfile.TemporaryDirectory() as directory:
        for name, days, host, is_trusted in (
            ("self-signed", "2", "IP:127.0.0.1", False),
            ("expired", "-1", "IP:127.0.0.1", True),
            ("wrong-host", "2", "DNS:other.example", True),
        ):
            with tls_server(Path(directory), name, days, host) as (port, cert, got):
                os.environ.pop("SSL_CERT_FILE", None)
                if is_trusted:
                    os.environ["SSL_CERT_FILE"] = str(cert)
                with queue(f"https://127.0.0.1:{port}/v1") as q:
                    error = error_of(q.submit("x"))
                said.append((kind(error), getattr(error, "attempts", 0), "certificate" in str(error)))
                plaintext += sum(map(len, got))
    ok = said == [("APIConnectionError", 1, True)] * 3 and not plaintext
    return Figure(
        ok,
        f"self-signed, expired, wrong host: attempts {[tries for _, tries, _ in said]}, "
        f"bytes of the request seen {plaintext}",
    )


def d38(full: bool) -> Figure:
    with server() as bad, queue(bad.url("html-502-2")) as q:
        well = q.submit("x").result(PATIENCE_S).attempts
        sent = bad.seen("html-502-2")["sent"]
        with queue(bad.url("html-502"), max_retries=1) as never:
            error = error_of(never.submit("x"))
        with queue(bad.url("html-200"), max_retries=1) as odd:
            strange = error_of(odd.submit("x"))
    length = max(len(str(error)), len(str(strange)))
    ok = (
        (well, sent) == (3, 3)
        and kind(error) == "InternalServerError"
        and kind(strange) == "APIResponseError"
        and length <= 300
    )
    return Figure(
        ok,
        f"twice 502: sends {sent}; for ever: {kind(error)}; as a 200: {kind(strange)}; "
        f"longest message {length} (bar 300)",
    )


def _sends(codes: tuple[int, ...], max_retries: int) -> dict[int, int]:
    sends = {}
    with server() as bad:
        for code in codes:
            with queue(bad.url(f"status-{code}"), max_retries=max_retries) as q:
                error_of(q.submit("x"))
            sends[code] = bad.seen(f"status-{code}")["sent"]
    return sends


def d39(full: bool) -> Figure:
    sends = _sends((400, 401, 403, 404, 405, 413, 422, 424), 5)
    return Figure(set(sends.values()) == {1}, f"sends {sends}")


def d40(full: bool) -> Figure:
    retries = 3 if full else 1
    billed = dict.fromkeys((408, 500, 502, 504), 1 + min(retries, 2))  # after work perhaps: max_unknown is 2
    bars = billed | dict.fromkeys((429, 498, 503), 1 + retries)
    sends = _sends(tuple(bars), retries)
    return Figure(
        sends == bars,
        f"max_retries={retries}: sends {sends} (bar {1 + retries}, and 1 + max_unknown, 3, where work may be billed)",
    )


def d41(full: bool) -> Figure:
    said, slowest = [], 0.0
    with server() as bad:
        for name in ("silent", "dripheaders", "dripbody", "continue"):
            with queue(bad.url(name), timeout=(0.3, 0.3), max_retries=0) as q:
                begin = time.monotonic()
                said.append(kind(error_of(q.submit("x"))))
                slowest = max(slowest, time.monotonic() - begin)
    ok = said == ["APITimeoutError"] * 4 and slowest <= 1.6 * SLACK
    return Figure(
        ok,
        f"silence, dripping headers, dripping body, endless 100: {', '.join(set(said))}, "
        f"slowest {slowest:.2f} s (bar 1.6 s: the timeout and 1)",
    )


def d42(full: bool) -> Figure:
    said = []
    with server() as bad:
        for name in ("short", "chunkcut", "halfjson"):
            with queue(bad.url(name), max_retries=0) as q:
                said.append(kind(error_of(q.submit("x"))))
    return Figure(
        "answer" not in said, f"cut length, cut chunk, half JSON: {', '.join(said)}; ok results {said.count('answer')}"
    )


def d43(full: bool) -> Figure:
    megabytes = 300 if full else 100
    said, growth = [], []
    with server() as bad:
        for name in (f"big-{megabytes}", f"bomb-{megabytes}"):
            with queue(bad.url(name), max_retries=0) as q:
                before = memory_mib()
                said.append(kind(error_of(q.submit("x"))))
                growth.append(memory_mib("VmHWM") - before)
    ok = "answer" not in said and max(growth) <= 64
    return Figure(
        ok,
        f"{megabytes} MB plain, {megabytes} MB gzip bomb: {said[0]}, {said[1]}; "
        f"memory +{growth[0]:.0f}, +{growth[1]:.0f} MiB (bar 64)",
    )


def d44(full: bool) -> Figure:
    idle_s, rounds, at_once = (5.0, 5, 20) if full else (0.2, 5, 10)
    errors = 0
    with server() as bad, queue(bad.url(f"idle-{idle_s}"), max_workers=at_once) as q:
        for number in range(rounds):
            futures = [q.submit(f"{number}-{place}") for place in range(at_once)]
            errors += sum(error_of(future) is not None for future in futures)
            time.sleep(idle_s * (0.98 + 0.04 * number / rounds))
    return Figure(not errors, f"{rounds * at_once} requests around the moment when the server closes: errors {errors}")


_PROXIED = """
url, retries = sys.argv[1], 0
try:
    q = queue(url, max_retries=0, timeout=(2, 2), **({"allow_http": True} if sys.argv[2:] else {}))
    print(type(q.submit("x").exception(20)).__name__)
except Exception as error:
    print(type(error).__name__, error)
"""


def d45(full: bool) -> Figure:
    def run(url: str, *more: str, **environment: str) -> str:
        return ended(child(_PROXIED, url, *more, **environment))[1].strip()

    with server() as bad, server() as proxy, socket.create_server(("127.0.0.1", 0)) as unused:
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        unused.close()
        alive = f"http://127.0.0.1:{proxy.port}"
        clear = run("http://api.example.test/v1", HTTP_PROXY=alive)
        loopback = run(bad.url("ok"), HTTP_PROXY=alive, HTTPS_PROXY=alive)
        through = run("https://api.example.test/v1", HTTPS_PROXY=dead)
        spared = run("http://no.example.test/v1", "allow", HTTP_PROXY=alive, NO_PROXY="no.example.test")
        at_proxy = proxy.seen("ok")["sent"]
        key_at_proxy = KEY in str(proxy.seen("ok"))
    ways = [
        clear.startswith("ConfigurationError") and "key in clear" in clear,
        loopback == "NoneType" and not at_proxy,
        through == "APIConnectionError",
        spared == "APIConnectionError",
    ]
    return Figure(all(ways) and not key_at_proxy, f"{sum(ways)} of 4 as documented; key seen in clear: {key_at_proxy}")


def d46(full: bool) -> Figure:
    count, away_s = (200, 3.0) if full else (12, 0.3)
    bad = Server()
    try:
        with queue(bad.url("slow-0.05"), max_workers=8, max_retries=8) as q:
            futures = [q.submit(f"{number}") for number in range(count)]
            wait_until(lambda: sum(future.done() for future in futures) >= 10)
            port = bad.port
            bad.kill()
            time.sleep(away_s)
            bad = Server(port)
            errors = Counter(kind(error_of(future)) for future in futures)
    finally:
        bad.kill()
    return Figure(
        errors["answer"] == count,
        f"port closed for {away_s:g} s under {count} requests: {dict(errors)}, lost {count - sum(errors.values())}",
    )


def d47(full: bool) -> Figure:
    count, retries = (200, 5) if full else (30, 2)
    with server() as bad, queue(bad.url("status-500"), max_retries=retries, max_workers=8) as q:
        futures = [q.submit(f"{number}", deadline=60 if full else 2) for number in range(count)]
        kinds = Counter(kind(error_of(future)) for future in futures)
        sent = bad.seen("status-500")["sent"]
    ok = sent <= count * (1 + retries) and kinds["answer"] == 0 and sum(kinds.values()) == count
    return Figure(
        ok, f"{count} requests at a dead server: {sent} sends (bar {count * (1 + retries)}), ended as {dict(kinds)}"
    )


def d48(full: bool) -> Figure:
    with server() as bad, queue(bad.url("revoked-20"), max_workers=8) as q:
        futures = [q.submit(f"{number}") for number in range(1_000)]
        took = seconds(lambda: wait(futures, PATIENCE_S))
        kinds = Counter(kind(error_of(future)) for future in futures)
        after = bad.seen("revoked-20")["sent"] - 20
    ok = kinds["AuthenticationError"] == 1_000 - kinds["answer"] and after <= 16
    return Figure(
        ok, f"revoked with 1,000 queued: {after} sends after that (bar 16), {dict(kinds)}, all ended after {took:.1f} s"
    )


def d49(full: bool) -> Figure:
    said = ""
    with server() as bad, queue(bad.url("ok")) as q:
        try:
            q.submit("x", stream=True)
        except ConfigurationError as error:
            said = str(error)
        sent = bad.seen("ok")["sent"]
    return Figure("stream" in said and not sent, f"sent {sent}: {said}")


def redirects(full: bool) -> Figure:
    """Not a row: redirects and netrc, of findings 6 and C8, C9."""
    with server() as bad, server() as elsewhere, tempfile.NamedTemporaryFile("w", suffix=".netrc") as netrc:
        netrc.write("machine 127.0.0.1 login thief password stolen\n")
        netrc.flush()
        os.chmod(netrc.name, 0o600)
        os.environ["NETRC"] = netrc.name
        said = []
        for code in (301, 302, 303, 307, 308):
            with queue(bad.url(f"redirect-{code}-{elsewhere.port}"), max_retries=0) as q:
                said.append(str(error_of(q.submit("x"))))
        followed = elsewhere.seen("ok")["sent"]
        import requests

        with requests.Session() as session:
            for own in (None, session):
                with queue(bad.url("ok"), session=own) as q:
                    q.complete("x")
                said.append(bad.seen("ok")["headers"]["authorization"])
    told = sum("redirect" in one and str(elsewhere.port) in one for one in said[:5])
    right = sum(one == f"Bearer {KEY}" for one in said[5:])
    return Figure(
        (followed, told, right) == (0, 5, 2),
        f"5 redirects: followed {followed}, host named {told}; netrc replaced the key {2 - right} times of 2",
    )

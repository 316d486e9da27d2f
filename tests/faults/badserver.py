"""A server that misbehaves as its address says: ``http://127.0.0.1:PORT/NAME-ARGUMENTS/openai/v1``.

Run ``python -m tests.faults.badserver [PORT]``; it prints its port and serves until it
is killed. Raw sockets, a thread per connection, nothing shared with the library: what
it saw is told by ``GET /seen/NAME-ARGUMENTS`` as JSON. Each prompt counts its own attempts, so
``status-502-2`` fails every prompt twice and then answers.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any


class Seen:
    """What came in for one address; ``lock`` guards it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.came = threading.Condition(self.lock)  # notified at each request
        self.prompts: list[str] = []
        self.times: list[float] = []
        self.attempts: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.faults = 0

    def told(self) -> dict[str, Any]:
        with self.lock:
            return {
                "sent": len(self.prompts),
                "distinct": len(self.attempts),
                "most": max(self.attempts.values(), default=0),
                "prompts": self.prompts[:2_000],
                "times": self.times[:2_000],
                "headers": self.headers,
                "faults": self.faults,
            }


_seen: defaultdict[str, Seen] = defaultdict(Seen)


class Call:
    """One request, and the means to answer it badly."""

    def __init__(self, sock: socket.socket, name: str, headers: dict[str, str], body: bytes) -> None:
        self.sock, self.name, self.headers, self.body = sock, name, headers, body
        try:
            payload = json.loads(body)
            self.prompt = payload["messages"][-1]["content"]
            self.model = payload["model"]
        except (ValueError, KeyError, IndexError, TypeError):
            self.prompt, self.model = "", ""
        seen = _seen[name]
        with seen.lock:
            seen.attempts[self.prompt] += 1
            self.attempt = seen.attempts[self.prompt]
            self.number = len(seen.prompts)
            seen.prompts.append(self.prompt[:100])
            seen.times.append(time.monotonic())
            seen.headers = headers
            seen.came.notify_all()
        self.seen = seen

    def completion(self) -> bytes:
        """A good answer; its text tells what was asked, so that a mix-up is seen."""
        digest = hashlib.sha256(self.prompt.encode("utf-8", "surrogatepass")).hexdigest()
        message = {"role": "assistant", "content": digest}
        body = {
            "id": f"n{self.number}",
            "object": "chat.completion",
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
        }
        return json.dumps(body).encode()

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def answer(self, body: bytes | None = None, status: str = "200 OK", **headers: str) -> bool:
        """Send a well-formed answer; the connection goes on."""
        body = self.completion() if body is None else body
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        return True

    def error(self, status: int, message: str = "no", **headers: str) -> bool:
        return self.answer(json.dumps({"error": {"message": message}}).encode(), f"{status} Told", **headers)

    def reset(self) -> bool:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def drip(call: Call, head: bytes, piece: bytes) -> bool:
    call.send(head)
    while True:
        time.sleep(0.1)
        call.send(piece)


def status(call: Call, code: str, times: str = "1000000000") -> bool:
    return call.error(int(code)) if call.attempt <= int(times) else call.answer()


def html(call: Call, code: str, times: str = "1000000000") -> bool:
    page = b"<html><body><h1>Bad gateway</h1>" + b"<p>nginx</p>" * 500 + b"</body></html>"
    return call.answer(page, f"{code} Bad") if call.attempt <= int(times) else call.answer()


def slow(call: Call, seconds: str) -> bool:
    time.sleep(float(seconds))
    return call.answer()


def silent(call: Call) -> bool:
    time.sleep(60)
    return False


def short(call: Call) -> bool:
    body = call.completion()
    call.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[: len(body) // 2])
    return False


def chunkcut(call: Call) -> bool:
    call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{")
    return False


def halfjson(call: Call) -> bool:
    body = call.completion()
    call.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body[: len(body) // 2])
    return False


def big(call: Call, megabytes: str) -> bool:
    size = int(megabytes) * 1_048_576
    call.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
    piece = b" " * 1_048_576
    for _ in range(int(megabytes)):
        call.send(piece)
    return True


def bomb(call: Call, megabytes: str) -> bool:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = b" " * 1_048_576
    body = b"".join(packer.compress(piece) for _ in range(int(megabytes))) + packer.flush()
    return call.answer(body, Content_Encoding="gzip")


def redirect(call: Call, code: str, port: str) -> bool:
    return call.answer(b"", f"{code} There", Location=f"http://127.0.0.1:{port}/ok/openai/v1/chat/completions")


def hold(call: Call, seconds: str, times: str) -> bool:
    """Refuse the first *times* requests of all and name a wait."""
    if call.number < int(times):
        time.sleep(0.1)  # all that are on their way at once have come
        return call.error(429, "Rate limit reached", Retry_After=seconds)
    return call.answer()


def blind(call: Call, times: str, _: str) -> bool:
    """Refuse without naming a wait."""
    return call.error(429, "Rate limit reached") if call.number < int(times) else call.answer()


def bare(call: Call, times: str) -> bool:
    """Refuse the first *times* requests of all at one moment, without naming a wait."""
    if call.number < int(times):
        with call.seen.came:
            call.seen.came.wait_for(lambda: len(call.seen.prompts) >= int(times), timeout=2)
        return call.error(429, "Rate limit reached")
    return call.answer()


def revoked(call: Call, after: str) -> bool:
    if call.number < int(after):
        return slow(call, "0.02")
    return call.error(401, f"Invalid API Key: {call.headers.get('authorization', '')}")


def told(call: Call, remaining: str = "14399", reset: str = "2m59.56s") -> bool:
    """Real headers: requests are those of a day, tokens those of a minute."""
    return call.answer(
        x_ratelimit_limit_requests="14400", x_ratelimit_remaining_requests=remaining,
        x_ratelimit_reset_requests=reset, x_ratelimit_limit_tokens="600000",
        x_ratelimit_remaining_tokens="599000", x_ratelimit_reset_tokens="7.66s",
    )  # fmt: skip


def lastofday(call: Call) -> bool:
    """One request is left of the day's, which drain one in six seconds."""
    return told(call, "1", "23h59m54s")


_GARBAGE = ["", "-1", "NaN", "inf", "1e999", "९", "2m59.56", "ms", "0x10", "999999999999999999999", "Mon, 99 Foo 0000"]


def garbage(call: Call) -> bool:
    draws = random.Random(call.number)
    names = ("limit_requests", "remaining_requests", "reset_requests", "limit_tokens", "remaining_tokens")
    headers = {
        f"x_ratelimit_{name}": draws.choice(_GARBAGE).encode("utf-8").decode("latin-1")
        for name in (*names, "reset_tokens")
    }
    return call.answer(retry_after=draws.choice(_GARBAGE).encode("utf-8").decode("latin-1"), **headers)


def forged(call: Call) -> bool:
    """A message that would write lines of its own into a log."""
    return call.error(400, "no\n2026-01-01 CRITICAL root: forged\x1b[2J\r\nforged" + "x" * 10_000)


def works(call: Call, seconds: str, end: str, _: str) -> bool:
    """Answer the first request; read the others, work, and break the connection off without a word."""
    if not call.number:
        return call.answer()
    time.sleep(float(seconds))
    return call.reset() if end == "reset" else False


def away(call: Call, code: str, seconds: str, _: str) -> bool:
    """Fail for so long, from the first request on."""
    return call.error(int(code)) if time.monotonic() < call.seen.times[0] + float(seconds) else call.answer()


def pausing(call: Call, code: str, seconds: str, times: str) -> bool:
    """Fail the first *times* requests of all and ask for a pause."""
    if call.number < int(times):
        time.sleep(0.1)  # all that are on their way at once have come
        return call.error(int(code), "over capacity", Retry_After=seconds)
    return call.answer()


def form(call: Call, which: str) -> bool:
    """Answer well, in a form that is seldom seen."""
    body = call.completion()
    length = f"Content-Length: {len(body)}"
    marked = b"\xef\xbb\xbf" + body[:-1] + b', "logprobs": [NaN, -Infinity]}'
    squashed = zlib.compress(body)[2:-4]  # deflate without its frame, as some servers send it
    forms = {
        "interim": (b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", [length], body),
        "headers": (b"", [*(f"X-{number}: 1" for number in range(150)), length], body),
        "lengths": (b"", [f"{length}, {len(body)}"], body),
        "marked": (b"", [f"Content-Length: {len(marked)}"], marked),
        "twice": (b"", [f"Content-Length: {len(body)}", "Content-Encoding: gzip, gzip"], body),
        "deflate": (b"", [f"Content-Length: {len(squashed)}", "Content-Encoding: deflate"], squashed),
        "brotli": (b"", [length, "Content-Encoding: br"], body),
        "charset": (b"", [length, "Content-Encoding: utf-8"], body),
    }
    before, headers, body = forms[which]
    if which == "twice":
        for _ in range(2):
            packer = zlib.compressobj(9, zlib.DEFLATED, 31)
            body = packer.compress(body) + packer.flush()
        headers = [f"Content-Length: {len(body)}", "Content-Encoding: gzip, gzip"]
    call.send(before + "\r\n".join(["HTTP/1.1 200 OK", *headers]).encode() + b"\r\n\r\n" + body)
    return True


def idle(call: Call, seconds: str) -> bool:
    """Answer, and close when nothing more comes in that time."""
    call.sock.settimeout(float(seconds))
    return call.answer()


def one(call: Call, which: str) -> bool:
    """Refuse one prompt for good."""
    return call.error(400) if call.prompt == which else call.answer()


def faulty(call: Call, percent: str) -> bool:
    """Answer that share of the attempts with a fault, the same for the same prompt and attempt."""
    draws = random.Random(f"{call.prompt} {call.attempt}")
    if draws.random() * 100 >= float(percent):
        return call.answer()
    with call.seen.lock:
        call.seen.faults += 1
    kind = draws.choice(["before", "after", 429, 500, 503, "slow", "short", "html"])
    if isinstance(kind, int):
        return call.error(kind, "Rate limit reached. Please try again in 20ms" if kind == 429 else "no")
    if kind in ("before", "after"):
        return call.reset()
    return {"slow": lambda: slow(call, "1"), "short": lambda: short(call), "html": lambda: html(call, "502")}[kind]()


BEHAVIOURS: dict[str, Callable[..., bool]] = {
    "ok": lambda call, *_: call.answer(),
    "reset": lambda call: call.reset(),
    "dripheaders": lambda call: drip(call, b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n"),
    "dripbody": lambda call: drip(call, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
    "continue": lambda call: drip(call, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    **{
        behave.__name__: behave
        for behave in (
            *(status, html, slow, silent, short, chunkcut, halfjson, big, bomb, redirect, hold, blind, revoked),
            *(told, lastofday, garbage, forged, idle, one, faulty, works, away, pausing, form, bare),
        )
    },
}


def serve(sock: socket.socket) -> None:
    """Answer the requests of one connection."""
    with sock, sock.makefile("rb") as file:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while line := file.readline():
                words = line.split()
                headers = {}
                while (header := file.readline()) not in (b"\r\n", b"\n", b""):
                    name, _, value = header.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = file.read(int(headers.get("content-length", 0)))
                path = words[1].decode("latin-1").split("/")
                if words[0] == b"GET":
                    told = json.dumps(_seen[path[2]].told()).encode()
                    sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(told)}\r\n\r\n".encode() + told)
                    continue
                if "://" in words[1].decode("latin-1"):  # we are asked as a proxy
                    path = ["", "ok"]
                behaviour, *arguments = path[1].split("-")
                if not BEHAVIOURS[behaviour](Call(sock, path[1], headers, body), *arguments):
                    return
        except OSError:
            return


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), backlog=1_024)
    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    main()

"""The other side, in a process of its own: the simulator, which meters, or a stub, which only answers.

The stub costs some 40 us a request, so that what is measured is the client. Both
tell what arrived when; instants are CLOCK_MONOTONIC's, which processes share.
"""

from __future__ import annotations

import heapq
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Remote:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.base_url = process.stdout.readline().strip()
        if not self.base_url:
            raise RuntimeError("the server did not start; its error is above")

    def records(self) -> list[list[Any]]:
        """Return ``[second, model, status, requested, used, first words of the prompt]`` of each arrival."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("records\n")
        self._process.stdin.flush()
        records: list[list[Any]] = json.loads(self._process.stdout.readline())
        return records


@contextmanager
def simulator(limits: dict[str, dict[str, Any]], **options: Any) -> Iterator[Remote]:
    """Run a simulator with ``{model: limits}``; *options* are those of ``GroqSimulator``, *faults* as mappings."""
    yield from _running("simulator", {"limits": limits, **options})


@contextmanager
def stub(latency_s: float = 0.0) -> Iterator[Remote]:
    """Run a server that answers every POST with one fixed completion, *latency_s* later."""
    yield from _running("stub", {"latency_s": latency_s})


def _running(kind: str, options: dict[str, Any]) -> Iterator[Remote]:
    command = [sys.executable, __file__, kind, json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Remote(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _serve_simulator(limits: dict[str, dict[str, Any]], faults: list[dict[str, Any]] = (), **options: Any) -> None:  # type: ignore[assignment]
    from groq_queue import Limits
    from groq_queue.simulator import Fault, GroqSimulator

    for name in ("latency", "arrival_delay"):
        if isinstance(options.get(name), list):
            options[name] = tuple(options[name])
    known = {model: Limits(**each) for model, each in limits.items()}
    with GroqSimulator(limits=known, faults=[Fault(**fault) for fault in faults], **options) as groq:
        print(groq.base_url, flush=True)
        for _ in sys.stdin:
            lines = [
                [each.arrived_ns / 1e9, each.model, each.status, each.requested, each.used_tokens, each.prompt[:24]]
                for each in groq.log
            ]
            print(json.dumps(lines), flush=True)


_BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "llama-3.1-8b-instant",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Rain. " * 100}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 200, "total_tokens": 290},
        "x_groq": {"id": "req_1"},
    }
).encode()
_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\nserver: stub\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


def _serve_stub(latency_s: float) -> None:
    """One thread, one selector; reads no more of a request than its length and the start of its prompt."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    scheduler = selectors.DefaultSelector()
    scheduler.register(listener, selectors.EVENT_READ)
    scheduler.register(sys.stdin, selectors.EVENT_READ)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/openai/v1", flush=True)
    arrived: list[list[Any]] = []
    held: dict[socket.socket, bytes] = {}
    due: list[tuple[float, int, socket.socket]] = []
    count = 0
    while True:
        wait_s = None if not due else max(0.0, due[0][0] - time.monotonic())
        for key, _ in scheduler.select(wait_s):
            where = key.fileobj
            if where is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                held[connection] = b""
                scheduler.register(connection, selectors.EVENT_READ)
            elif where is sys.stdin:
                if not sys.stdin.readline():
                    return
                print(json.dumps(arrived), flush=True)
                arrived.clear()
            else:
                assert isinstance(where, socket.socket)
                try:
                    piece = where.recv(65_536)
                except OSError:
                    piece = b""
                if not piece:
                    scheduler.unregister(where)
                    held.pop(where).strip()
                    where.close()
                    continue
                text = held[where] + piece
                if not _is_whole(text):
                    held[where] = text
                    continue
                held[where] = b""
                now = time.monotonic()
                arrived.append([now, "", 200, 0, 0, _prompt_of(text)])
                if latency_s:
                    count += 1
                    heapq.heappush(due, (now + latency_s, count, where))
                else:
                    where.sendall(_ANSWER)
        while due and due[0][0] <= time.monotonic():
            _, _, where = heapq.heappop(due)
            if where in held:
                where.sendall(_ANSWER)


def _is_whole(text: bytes) -> bool:
    end = text.find(b"\r\n\r\n")
    if end < 0:
        return False
    place = text.lower().find(b"content-length:", 0, end)
    return place < 0 or len(text) - end - 4 >= int(text[place + 15 : text.find(b"\r\n", place)])


def _prompt_of(text: bytes) -> str:
    place = text.find(b'"content":')
    return text[place + 10 : place + 40].strip(b' "').split(b'"')[0][:24].decode("utf-8", "replace")


if __name__ == "__main__":
    {"simulator": _serve_simulator, "stub": _serve_stub}[sys.argv[1]](**json.loads(sys.argv[2]))

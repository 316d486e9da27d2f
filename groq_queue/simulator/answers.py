"""The bodies of answers: short, deterministic by seed and prompt, and shaped like the real ones."""

from __future__ import annotations

import base64
import re
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from groq_queue.simulator.calls import ApiCall, ApiError, embedding_inputs, to_json
from groq_queue.simulator.faults import Fault
from groq_queue.simulator.wire import HttpReply

_WANTS_NUMBER = re.compile(r"(number only|only (a|the) number)\W*$", re.IGNORECASE)
_STREAM_PIECES = 4
_EMBEDDING_SIZE = 8

_STATUS_ERRORS: dict[int, tuple[str, str | None, str]] = {  # type, code, message
    401: ("invalid_request_error", "invalid_api_key", "Invalid API Key"),
    429: ("tokens", "rate_limit_exceeded", "Rate limit reached, said by a fault of the simulator."),
    498: ("capacity_exceeded", "capacity_exceeded", "Flex tier capacity exceeded, said by a fault of the simulator."),
    500: ("internal_server_error", None, "Internal Server Error"),
    503: ("internal_server_error", None, "The model is currently over capacity. Please back off exponentially."),
}
_PLAIN_ERROR = ("invalid_request_error", None, "An error said by a fault of the simulator.")


@dataclass
class Generation:
    """What an admitted call really used, and how long it took."""

    completion: int
    latency_s: float


def base_headers(request_id: str) -> str:
    """Return the header lines every answer carries."""
    return f"x-request-id: {request_id}\r\nx-groq-region: sim\r\nserver: cloudflare\r\n"


def error_reply(error: ApiError) -> HttpReply:
    """Return *error* as an answer."""
    return HttpReply(error.status, error.body())


def usage_of(call: ApiCall, use: Generation) -> dict[str, Any]:
    """Return the usage object of a chat answer; times in seconds."""
    prompt_s = min(call.ask.prompt * 1e-5, use.latency_s)
    return {
        "queue_time": 0.0,
        "prompt_tokens": call.ask.prompt,
        "prompt_time": round(prompt_s, 9),
        "completion_tokens": use.completion,
        "completion_time": round(use.latency_s - prompt_s, 9),
        "total_tokens": call.ask.prompt + use.completion,
        "total_time": round(use.latency_s, 9),
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def content_of(call: ApiCall, seed: object) -> str:
    """Return the words of the answer: a number for prompts that end by asking for one."""
    draw = zlib.crc32(f"{seed}/{call.prompt}".encode("utf-8", "surrogatepass"))
    if _WANTS_NUMBER.search(call.prompt[-80:]):
        return str(draw % 1_000)
    words = " ".join(call.prompt[:200].split()[:8])
    text = f'Simulated answer {draw % 1_000} to "{words}".'
    wanted = call.body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema"):
        return to_json({"answer": text}).decode("utf-8", "surrogatepass")
    return text


def success_reply(call: ApiCall, use: Generation, seed: object, fault: Fault | None) -> HttpReply:
    """Return the answer to an admitted *call*, without the x-ratelimit headers."""
    content = fault.content if fault is not None and fault.content is not None else content_of(call, seed)
    if call.endpoint == "embeddings":
        reply = HttpReply(200, to_json(_embeddings(call, seed)))
    elif call.endpoint.startswith("audio/"):
        reply = _transcription(call, content)
    elif call.body.get("stream"):
        reply = _stream(call, use, content)
    else:
        reply = HttpReply(200, to_json(_chat(call, use, content)))
    reply.headers = base_headers(call.request_id)
    return reply


def _finish(call: ApiCall, use: Generation) -> str:
    return "length" if use.completion >= call.allowance else "stop"


def _chat(call: ApiCall, use: Generation, content: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{call.number:032x}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "logprobs": None,
                "finish_reason": _finish(call, use),
            }
        ],
        "usage": usage_of(call, use),
        "usage_breakdown": None,
        "system_fingerprint": "fp_simulated",
        "x_groq": {"id": call.request_id},
        "service_tier": tier_of(call.body),
    }


def _stream(call: ApiCall, use: Generation, content: str) -> HttpReply:
    base = {
        "id": f"chatcmpl-{call.number:032x}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": call.model,
        "system_fingerprint": "fp_simulated",
    }

    def event(delta: Mapping[str, str], finish: str | None = None, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + to_json(base | {"choices": [choice]} | more) + b"\n\n"

    size = -(-len(content) // _STREAM_PIECES) or 1
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    usage = usage_of(call, use)
    events = [event({"role": "assistant", "content": ""}, x_groq={"id": call.request_id})]
    events += [event({"content": piece}) for piece in pieces]
    events.append(event({}, _finish(call, use), x_groq={"id": call.request_id, "usage": usage}))
    options = call.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        events.append(b"data: " + to_json(base | {"choices": [], "usage": usage}) + b"\n\n")
    events.append(b"data: [DONE]\n\n")
    return HttpReply(200, content_type="text/event-stream", chunks=events)


def _embeddings(call: ApiCall, seed: object) -> dict[str, Any]:
    size = call.body.get("dimensions")
    size = size if isinstance(size, int) and 1 <= size <= 4096 else _EMBEDDING_SIZE
    vectors: list[object] = []
    for given in embedding_inputs(call.body):
        draw = zlib.crc32(f"{seed}/{given}".encode("utf-8", "surrogatepass"))
        numbers = [((draw * (place + 1)) % 2_001 - 1_000) / 1_000 for place in range(size)]
        if call.body.get("encoding_format") == "base64":
            vectors.append(base64.b64encode(struct.pack(f"<{size}f", *numbers)).decode())
        else:
            vectors.append(numbers)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)],
        "model": call.model,
        "usage": {"prompt_tokens": call.ask.prompt, "total_tokens": call.ask.prompt},
    }


def _transcription(call: ApiCall, content: str) -> HttpReply:
    wanted = call.body.get("response_format", "json")
    if wanted == "text":
        return HttpReply(200, content.encode(), content_type="text/plain; charset=utf-8")
    body: dict[str, Any] = {"text": content, "x_groq": {"id": call.request_id}}
    if wanted == "verbose_json":
        seconds = float(call.ask.seconds)
        task = "translate" if call.endpoint.endswith("translations") else "transcribe"
        segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": content}
        body = {"task": task, "language": "English", "duration": seconds, "segments": [segment]} | body
    return HttpReply(200, to_json(body))


def fault_reply(fault: Fault, call: ApiCall) -> HttpReply:
    """Return the answer of a fault that has a status, bent as it says."""
    status = fault.status or 500
    kind, code, message = _STATUS_ERRORS.get(status, _STATUS_ERRORS[500] if status >= 500 else _PLAIN_ERROR)
    reply = error_reply(ApiError(status, message, kind=kind, code=code))
    reply.headers = base_headers(call.request_id)
    return corrupt(reply, fault)


def corrupt(reply: HttpReply, fault: Fault) -> HttpReply:
    """Put the body, the page and the headers of *fault* into *reply*."""
    if fault.html:
        page = f"<html><head><title>{reply.status}</title></head><body><h1>{reply.status} Bad answer</h1></body></html>"
        reply.body, reply.chunks, reply.content_type = page.encode(), None, "text/html; charset=utf-8"
    if fault.body is not None:
        reply.chunks = None
        if isinstance(fault.body, bytes):
            reply.body = fault.body
        elif isinstance(fault.body, str):
            reply.body = fault.body.encode()
            reply.content_type = "text/plain; charset=utf-8" if not fault.html else reply.content_type
        else:
            reply.body = to_json(dict(fault.body))
    if fault.headers:
        given = {name.lower(): value for name, value in fault.headers.items()}
        reply.content_type = given.pop("content-type", reply.content_type)
        kept = [line for line in reply.headers.splitlines() if line.partition(":")[0] not in given]
        reply.headers = "".join(f"{line}\r\n" for line in [*kept, *(f"{n}: {v}" for n, v in given.items())])
    return reply


def model_body(model: str) -> dict[str, Any]:
    """Return what GET models says of *model*."""
    return {
        "id": model,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "simulator",
        "active": True,
        "context_window": 131_072,
        "max_completion_tokens": 32_768,
        "public_apps": None,
    }


def models_body(models: Iterable[str]) -> dict[str, Any]:
    """Return the answer to GET models."""
    return {"object": "list", "data": [model_body(model) for model in models]}


def tier_of(body: Mapping[str, Any]) -> str:
    """Return the service tier a call ran in; the buckets are the same for all tiers."""
    tier = body.get("service_tier")
    return tier if tier in ("flex", "performance") else "on_demand"

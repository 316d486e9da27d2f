"""The simulator over HTTP: what it admits, what it charges, what its headers and bodies say."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import re
import socket
import threading
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from freezegun import freeze_time

from groq_queue.simulator import GroqSimulator, go_duration

MODEL = "llama-3.1-8b-instant"
S = 1_000_000_000
Simulate = Callable[..., GroqSimulator]
Ask = Callable[..., Any]


def open_socket(simulator: GroqSimulator) -> socket.socket:
    return socket.create_connection((simulator.host, simulator.port), timeout=5)


def request_bytes(prompt: str, **fields: Any) -> bytes:
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def read_answer(reader: Any) -> tuple[int, dict[str, str], bytes]:
    """Read one answer with a Content-Length from a socket's file."""
    status = int(reader.readline().split()[1])
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, reader.read(int(headers["content-length"]))


# Metering.


def test_client_that_waits_as_told_is_admitted(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    The wait in the body is enough to the nanosecond; retry-after is its ceiling in seconds.
    """
    simulator = simulate(tpm=1_000, clock_ns=clock, output=1.0)
    ask(simulator, max_tokens=900)

    refused = ask(simulator, max_tokens=900)
    wait = re.search(r"try again in ([0-9.]+)s\. ", refused.error["message"])
    assert wait is not None
    wait_ns = round(float(wait[1]) * S)

    assert 429 == refused.status
    assert ("tokens", "rate_limit_exceeded") == (refused.error["type"], refused.error["code"])
    assert str(-(-wait_ns // S)) == refused.headers["retry-after"]
    clock.now_ns += wait_ns - 1
    assert 429 == ask(simulator, max_tokens=900).status
    clock.now_ns += 1
    assert 200 == ask(simulator, max_tokens=900).status


@pytest.mark.parametrize(("settlement", "kept"), [("corrected", 225), ("kept", 900), ("deferred", 225)])
def test_settlement_decides_what_a_finished_call_has_cost(
    simulate: Simulate, ask: Ask, clock: Any, settlement: str, kept: int
) -> None:
    """
    A quarter of the allowance was used: two settlements charge that, one keeps the allowance.
    """
    simulator = simulate(tpm=10_000, otpm=5_000, clock_ns=clock, output=0.25, settlement=settlement)

    answer = ask(simulator, max_completion_tokens=900)

    usage = answer.json()["usage"]
    assert 225 == usage["completion_tokens"]
    assert usage["prompt_tokens"] + kept == simulator.level(MODEL, "TPM")
    assert kept == simulator.level(MODEL, "OTPM")
    assert (usage["prompt_tokens"] + 900, usage["total_tokens"]) == (
        simulator.stats().tokens_admitted,
        simulator.stats().tokens_used,
    )


def test_deferred_settlement_runs_into_debt(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    Calls admitted together, each by its prompt, complete above the limit; the next waits it all out.
    """
    simulator = simulate(tpm=1_000, clock_ns=clock, output=1.0, settlement="deferred", latency=0.05)
    sockets = [open_socket(simulator) for _ in range(3)]
    for one in sockets:
        one.sendall(request_bytes("Hi.", max_tokens=900))
    with_readers = [one.makefile("rb") for one in sockets]
    answers = [read_answer(reader) for reader in with_readers]
    for one in [*with_readers, *sockets]:
        one.close()

    prompt = json.loads(answers[0][2])["usage"]["prompt_tokens"]
    assert [200, 200, 200] == [status for status, _, _ in answers]
    assert 3 * (prompt + 900) == simulator.level(MODEL, "TPM")
    refused = ask(simulator, "Hi.", max_tokens=900)
    wait_ns = (4 * (prompt + 900) - 1_000) * 60_000_000
    assert f"try again in {go_duration(wait_ns)}. " in refused.error["message"]


def test_headers_show_days_of_requests_and_minutes_of_tokens(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    remaining is what is left, reset is the time until full; no other dimension is ever shown.
    """
    limits = {"rpm": 30, "rpd": 1_000, "tpm": 6_000, "tpd": 100_000, "itpm": 5_000, "otpm": 5_000}
    simulator = simulate(**limits, clock_ns=clock, output=1.0)

    answer = ask(simulator, max_tokens=400)

    used = answer.json()["usage"]["total_tokens"]
    assert {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-reset-requests": "1m26.4s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": str(6_000 - used),
        "x-ratelimit-reset-tokens": go_duration(used * 10_000_000),
    } == {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
    assert answer.headers["x-request-id"] == answer.json()["x_groq"]["id"]


def test_headers_read_at_admission_include_the_reservation(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    Read at admission the whole allowance is gone, read at completion half of it is back.
    """
    left = {}
    for moment in ("admission", "completion"):
        simulator = simulate(tpm=6_000, clock_ns=clock, headers_at=moment)
        left[moment] = int(ask(simulator, max_tokens=400).headers["x-ratelimit-remaining-tokens"])

    assert 200 == left["completion"] - left["admission"]


def test_refusal_by_requests_a_minute_has_no_token_headers(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    A 429 by RPM shows the day's requests only, and the refused call was not charged there.
    """
    simulator = simulate(rpm=1, rpd=1_000, tpm=6_000, clock_ns=clock)
    ask(simulator)

    refused = ask(simulator)

    assert (429, "requests") == (refused.status, refused.error["type"])
    assert "999" == refused.headers["x-ratelimit-remaining-requests"]
    assert [] == [name for name in refused.headers if name.endswith("-tokens")]
    assert "60" == refused.headers["retry-after"]


def test_refusal_by_the_day_shows_token_headers_that_look_full(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    TPD is invisible in headers: the minute may read completely full while the day is spent.
    """
    simulator = simulate(tpm=100_000, tpd=100_000, clock_ns=clock)
    assert simulator.spend(MODEL, tokens=99_000)
    clock.now_ns += 60 * S

    refused = ask(simulator, max_tokens=2_000)

    assert "tokens per day (TPD): Limit 100000" in refused.error["message"]
    assert "100000" == refused.headers["x-ratelimit-remaining-tokens"]


def test_request_too_large_is_413_without_a_wait(simulate: Simulate, ask: Ask) -> None:
    """
    What can never fit is not told to come back.
    """
    refused = ask(simulate(tpm=500), max_tokens=8_000)

    assert 413 == refused.status
    assert "rate_limit_exceeded" == refused.error["code"]
    assert "retry-after" not in refused.headers


def test_server_without_headers_still_tells_the_wait(simulate: Simulate, ask: Ask) -> None:
    """
    send_headers=False drops x-ratelimit, not retry-after.
    """
    simulator = simulate(rpm=1, rpd=9, tpm=9_000, send_headers=False)

    answers = [ask(simulator), ask(simulator)]

    assert [200, 429] == [answer.status for answer in answers]
    assert [] == [name for answer in answers for name in answer.headers if name.startswith("x-ratelimit")]
    assert "retry-after" in answers[1].headers


def test_each_model_has_its_own_budget(simulate: Simulate, ask: Ask) -> None:
    """
    One exhausted model never starves another; a mapping names its models by itself.
    """
    limits = {"big": SimpleNamespace(rpm=1, minute_s=60, hour_s=3600, day_s=86400)}
    simulator = simulate(limits=limits, models=["small"], rpm=50)

    assert [200, 429] == [ask(simulator, model="big").status for _ in range(2)]
    assert [200, 200] == [ask(simulator, model="small").status for _ in range(2)]


def test_another_program_of_the_organisation_spends_the_same_budget(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    spend() follows the same rule: admitted while it fits, refused without a charge.
    """
    simulator = simulate(rpm=3, tpm=1_000, clock_ns=clock)

    assert [True, True, False] == [simulator.spend(MODEL, tokens=450) for _ in range(3)]
    assert (900, 2) == (simulator.level(MODEL, "TPM"), simulator.level(MODEL, "RPM"))
    assert 429 == ask(simulator, max_tokens=200).status


def test_stats_and_log_tell_of_the_same_calls(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    What was admitted, refused and used can be read back, in the order of the meter.
    """
    simulator = simulate(rpm=2, clock_ns=clock, output=0.5)
    for prompt in ("one", "two", "three"):
        ask(simulator, prompt, max_tokens=10)

    stats, log = simulator.stats(), simulator.log

    assert ["one", "two", "three"] == [record.prompt for record in log]
    assert [(200, None), (200, None), (429, "RPM")] == [(record.status, record.dimension) for record in log]
    assert (3, 2, 1) == (stats.received, stats.admitted, stats.refused)
    assert ({200: 2, 429: 1}, {"RPM": 1}) == (stats.by_status, stats.refused_by_dimension)
    assert stats.tokens_admitted == sum(record.requested for record in log[:2])
    assert stats.tokens_used == sum(record.used_tokens for record in log)
    assert {clock.now_ns} == {record.arrived_ns for record in log}
    over_http = ask(simulator, path="/simulator/stats", method="GET", key=None).json()
    assert json.loads(json.dumps(stats.to_dict())) == over_http


def test_waiting_for_requests_ends_with_the_last_of_them(simulate: Simulate, ask: Ask) -> None:
    """
    A waiter is woken by the request it waits for and says False when time is up.
    """
    simulator = simulate()
    seen = []
    waiter = threading.Thread(target=lambda: seen.append(simulator.wait_for_requests(2, timeout=5)))
    waiter.start()

    ask(simulator)
    ask(simulator)
    waiter.join(5)

    assert [True] == seen
    assert simulator.wait_for_requests(3, timeout=0) is False


# Endpoints.


def test_chat_answer_has_the_shape_of_the_service(simulate: Simulate, ask: Ask) -> None:
    """
    A completion carries content, usage with times, the tier and ids; the prompt decides the content.
    """
    simulator = simulate(models=["m"], output=0.5)

    body = ask(simulator, "Tell me of rain.", model="m", max_tokens=10).json()

    assert ("chat.completion", "m", "on_demand") == (body["object"], body["model"], body["service_tier"])
    assert "Tell me of rain." in body["choices"][0]["message"]["content"]
    assert "stop" == body["choices"][0]["finish_reason"]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert {"queue_time", "prompt_time", "completion_time", "total_time"} <= set(usage)
    again = ask(simulator, "Tell me of rain.", model="m", max_tokens=10).json()
    assert body["choices"] == again["choices"]
    assert body["id"] != again["id"]


def test_question_for_a_number_gets_a_number(simulate: Simulate, ask: Ask) -> None:
    """
    Prompts that end by asking for a number are answered by one, the same one each time.
    """
    simulator = simulate()
    prompt = "How many sheep are there? Answer with the number only."

    contents = [ask(simulator, prompt).json()["choices"][0]["message"]["content"] for _ in range(2)]

    assert contents[0].isdigit()
    assert contents[0] == contents[1]


def test_stream_ends_with_usage_and_done(simulate: Simulate, ask: Ask) -> None:
    """
    Role first, then pieces of content, then the reason with x_groq.usage, then [DONE].
    """
    answer = ask(simulate(), "Sing.", stream=True, stream_options={"include_usage": True}, max_tokens=10)

    lines = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
    chunks = [json.loads(line) for line in lines[:-1]]

    assert "text/event-stream" == answer.headers["content-type"]
    assert "[DONE]" == lines[-1]
    assert "assistant" == chunks[0]["choices"][0]["delta"]["role"]
    assert "Sing." in "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
    assert 2 < len(chunks)
    assert "stop" == chunks[-2]["choices"][0]["finish_reason"]
    assert 5 == chunks[-2]["x_groq"]["usage"]["completion_tokens"]
    assert ([], 5) == (chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"])


def test_embeddings_cost_their_prompt_and_nothing_else(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    One vector for each input, usage of the prompt only.
    """
    simulator = simulate(tpm=100, clock_ns=clock)

    body = ask(simulator, path="/v1/embeddings", messages=None, input=["red", "green apples"]).json()

    assert [0, 1] == [one["index"] for one in body["data"]]
    assert body["data"][0]["embedding"] != body["data"][1]["embedding"]
    assert {"prompt_tokens": 3, "total_tokens": 3} == body["usage"]
    assert 3 == simulator.level(MODEL, "TPM")


def test_audio_is_metered_in_seconds(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    Seconds come from the body or the query; headers show the hour; the answer has no usage.
    """
    simulator = simulate(audio_hour=100, audio_day=1_000, rpd=10, clock_ns=clock)
    path = "/openai/v1/audio/transcriptions"

    first = ask(simulator, path=path, messages=None, url="https://example.org/a.wav", seconds=30)
    form = (
        b'--xx\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + MODEL.encode() + b"\r\n"
        b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n\x00\x01\r\n--xx--\r\n'
    )
    kind = {"content-type": "multipart/form-data; boundary=xx"}
    second = ask(simulator, path=f"{path}?seconds=65", raw=form, headers=kind)
    third = ask(simulator, path=path, messages=None, url="https://example.org/a.wav")

    assert {"text", "x_groq"} == set(first.json())
    assert "70" == first.headers["x-ratelimit-remaining-audio-seconds"]
    assert "18m0s" == first.headers["x-ratelimit-reset-audio-seconds"]
    assert "5" == second.headers["x-ratelimit-remaining-audio-seconds"]
    assert (429, "seconds") == (third.status, third.error["type"])
    assert "seconds of audio per hour (ASPH): Limit 100, Used 95, Requested 10. " in third.error["message"]
    assert "3m0s. " in third.error["message"]


def test_models_are_listed_and_cost_nothing(simulate: Simulate, ask: Ask) -> None:
    """
    GET models and GET models/{id} are not metered; ids may hold a slash.
    """
    simulator = simulate(models=["openai/gpt-oss-20b", "other"], rpm=1)

    listed = ask(simulator, path="/openai/v1/models", method="GET").json()
    one = ask(simulator, path="/openai/v1/models/openai/gpt-oss-20b", method="GET").json()

    assert ["openai/gpt-oss-20b", "other"] == [model["id"] for model in listed["data"]]
    assert "openai/gpt-oss-20b" == one["id"]
    assert [] == simulator.log


@pytest.mark.parametrize(
    ("status", "code", "options"),
    [
        (404, "model_not_found", {"model": "nobody"}),
        (404, "unknown_url", {"path": "/openai/v1/chat"}),
        (404, "model_not_found", {"path": "/v1/models/nobody", "method": "GET"}),
        (405, "unknown_method", {"method": "GET"}),
        (401, "invalid_api_key", {"key": None}),
        (401, "invalid_api_key", {"key": ""}),
        (401, "invalid_api_key", {"key": "gsk_wrong"}),
        (400, None, {"raw": b'{"model": '}),
        (400, None, {"raw": b"[1, 2]"}),
        (400, None, {"messages": None}),
        (400, None, {"messages": "hello"}),
        (400, None, {"messages": [{"role": "user", "content": 7}]}),
        (400, None, {"max_tokens": 0}),
        (400, None, {"n": 2}),
    ],
)
def test_what_is_wrong_is_said_and_not_metered(
    simulate: Simulate, ask: Ask, status: int, code: str | None, options: dict[str, Any]
) -> None:
    """
    Each mistake has its status and body, no x-ratelimit header, and costs nothing.
    """
    simulator = simulate(rpm=5, rpd=5, tpm=5_000, api_keys=["gsk_test"])

    answer = ask(simulator, **options)

    assert status == answer.status
    assert code == answer.error.get("code")
    assert [] == [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert 0 == simulator.level(MODEL, "RPM")
    assert {status: 1} == simulator.stats().by_status


def test_missing_messages_name_the_parameter(simulate: Simulate, ask: Ask) -> None:
    """
    A schema error says which field.
    """
    assert "messages" == ask(simulate(), messages=None).error["param"]


def test_images_and_tools_are_counted(simulate: Simulate, ask: Ask) -> None:
    """
    An image costs a fixed thousand whatever its bytes; tools are part of the prompt.
    """
    simulator = simulate()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000}}
    content = [{"type": "text", "text": "What is this?"}, image]
    tools = [{"type": "function", "function": {"name": "look", "description": "Look at it again, closely."}}]

    plain = ask(simulator, "What is this?").json()["usage"]["prompt_tokens"]
    seen = ask(simulator, messages=[{"role": "user", "content": content}]).json()["usage"]["prompt_tokens"]
    tooled = ask(simulator, "What is this?", tools=tools).json()["usage"]["prompt_tokens"]

    assert 1_000 == seen - plain
    assert plain + 10 < tooled


# Time and sockets.


def test_delayed_answers_do_not_wait_for_each_other(simulate: Simulate) -> None:
    """
    A hundred answers of 0.5 s from a hundred connections take about 0.5 s, not 50.
    """
    simulator = simulate(latency=0.5)
    sockets = [open_socket(simulator) for _ in range(100)]
    data = request_bytes("Hello.")
    started = time.monotonic()
    for one in sockets:
        one.sendall(data)
    readers = [one.makefile("rb") for one in sockets]
    statuses = [read_answer(reader)[0] for reader in readers]
    elapsed_s = time.monotonic() - started
    for one in [*readers, *sockets]:
        one.close()

    assert [200] * 100 == statuses
    assert 100 == simulator.stats().max_in_flight
    assert 0.5 <= elapsed_s < 10


def test_answers_come_while_the_clock_is_frozen(simulate: Simulate) -> None:
    """
    freezegun stops the clock of the test, not the simulator's delays.
    """
    with freeze_time("2026-01-01"):
        simulator = simulate(latency=0.01)
        with open_socket(simulator) as one, one.makefile("rb") as reader:
            one.sendall(request_bytes("Hello."))
            status, _, _ = read_answer(reader)

    assert 200 == status


def test_first_request_of_a_connection_arrives_later(simulate: Simulate) -> None:
    """
    connect_delay holds back the first request of a connection, and only that one.
    """
    drawn = []

    def delay_s(_: random.Random) -> float:
        drawn.append(1)
        return 0.1

    simulator = simulate(connect_delay=delay_s)
    with open_socket(simulator) as one, one.makefile("rb") as reader:
        started_ns = time.monotonic_ns()
        for prompt in ("first", "second"):
            one.sendall(request_bytes(prompt))
            read_answer(reader)

    first, second = simulator.log
    assert 1 == len(drawn)
    assert 100_000_000 <= first.arrived_ns - started_ns
    assert first.connection == second.connection


def test_draws_are_the_same_for_the_same_seed(simulate: Simulate, ask: Ask) -> None:
    """
    Output drawn at random depends on the seed and the number of the request, not on time.
    """

    def used(seed: int) -> list[int]:
        simulator = simulate(seed=seed, output=(0.1, 0.9), arrival_delay=(0.0, 0.001))
        for _ in range(4):
            ask(simulator, max_tokens=1_000)
        return [record.used_tokens for record in simulator.log]

    def fixed(_: random.Random, allowance: int) -> int:
        return allowance + 7

    assert used(1) == used(1)
    assert used(1) != used(2)
    over = ask(simulate(output=fixed), max_tokens=10).json()
    assert 17 == over["usage"]["completion_tokens"]


def test_pipelined_requests_are_answered_in_order(simulate: Simulate) -> None:
    """
    Bytes sent ahead wait in the connection and are answered one after the other.
    """
    simulator = simulate(latency=0.01)
    with open_socket(simulator) as one, one.makefile("rb") as reader:
        one.sendall(b"".join(request_bytes(f"number {n}") for n in range(5)))
        contents = [json.loads(read_answer(reader)[2])["choices"][0]["message"]["content"] for _ in range(5)]

    assert [True] * 5 == [f"number {n}" in content for n, content in enumerate(contents)]
    assert 1 == simulator.stats().max_in_flight


def test_request_may_come_byte_by_byte(simulate: Simulate) -> None:
    """
    Heads and bodies are put together from whatever pieces the network makes.
    """
    with open_socket(simulate()) as one, one.makefile("rb") as reader:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request_bytes("Hi."):
            one.sendall(bytes([byte]))
        assert 200 == read_answer(reader)[0]


def test_large_body_is_taken_after_100_continue(simulate: Simulate) -> None:
    """
    Who asks before sending is told to go on; two megabytes are no problem.
    """
    data = request_bytes("word" + " " * 2_000_000 + "word")
    head, _, body = data.partition(b"\r\n\r\n")
    with open_socket(simulate()) as one, one.makefile("rb") as reader:
        one.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert b"HTTP/1.1 100 Continue\r\n" == reader.readline()
        assert b"\r\n" == reader.readline()
        one.sendall(body)
        status, _, answer = read_answer(reader)

    assert 200 == status
    assert json.loads(answer)["usage"]["prompt_tokens"] < 20


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"hello\r\n\r\n"),
        (400, b"GET / HTTP/2.0\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nno colon\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nContent-Length: ten\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (413, b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000),
    ],
)
def test_bytes_that_are_no_request_are_refused_and_the_connection_closed(
    simulate: Simulate, status: int, data: bytes
) -> None:
    """
    The answer says what is wrong, then the stream ends.
    """
    with open_socket(simulate()) as one, one.makefile("rb") as reader:
        one.sendall(data)
        got, headers, body = read_answer(reader)

        assert status == got
        assert "close" == headers["connection"]
        assert json.loads(body)["error"]["message"]
        assert b"" == reader.read()


def test_connection_close_is_honoured(simulate: Simulate) -> None:
    """
    A client that asks for the end gets it after its answer; HTTP/1.0 asks for it by its version.
    """
    simulator = simulate()
    for data in (
        request_bytes("Hi.").replace(b"Host: x", b"Connection: close"),
        request_bytes("Hi.").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with open_socket(simulator) as one, one.makefile("rb") as reader:
            one.sendall(data)
            status, headers, _ = read_answer(reader)
            assert (200, "close", b"") == (status, headers["connection"], reader.read())


def test_half_closed_client_still_gets_its_answer(simulate: Simulate) -> None:
    """
    A client that has said all it has to say may still listen.
    """
    with open_socket(simulate(latency=0.02)) as one, one.makefile("rb") as reader:
        one.sendall(request_bytes("Hi."))
        one.shutdown(socket.SHUT_WR)

        assert 200 == read_answer(reader)[0]
        assert b"" == reader.read()


def test_call_of_a_client_that_left_is_still_settled(simulate: Simulate, ask: Ask, clock: Any) -> None:
    """
    The server finishes and charges what it began, whoever listens.
    """
    simulator = simulate(tpm=10_000, clock_ns=clock, latency=0.02, output=0.5)
    with open_socket(simulator) as one:
        one.sendall(request_bytes("Hi.", max_tokens=100))
        assert simulator.wait_for_requests(1, timeout=5)

    usage = ask(simulator, "Hi.", max_tokens=100).json()["usage"]  # admitted later, so completed later

    assert 50 == usage["completion_tokens"]
    assert [usage["total_tokens"]] * 2 == [record.used_tokens for record in simulator.log]
    assert 2 * usage["total_tokens"] == simulator.stats().tokens_used == simulator.level(MODEL, "TPM")


def simulators_running() -> set[threading.Thread]:
    """Return the threads of simulators, those of fixtures included."""
    return {thread for thread in threading.enumerate() if thread.name == "groq-simulator"}


def test_simulator_stops_promptly_with_open_connections() -> None:
    """
    Idle, half-sent and unanswered connections are cut; no thread and no socket stays.
    """
    before = simulators_running()
    with GroqSimulator(latency=600) as simulator:
        sockets = [open_socket(simulator) for _ in range(3)]
        sockets[1].sendall(b"POST /v1/chat")
        sockets[2].sendall(request_bytes("Hi."))
        assert simulator.wait_for_requests(1, timeout=5)
        started = time.monotonic()

    assert time.monotonic() - started < 10
    assert not simulators_running() - before
    for one in sockets:
        with contextlib.suppress(ConnectionResetError):
            assert b"" == one.recv(100)
        one.close()
    with pytest.raises(ConnectionRefusedError):
        open_socket(simulator)


def test_simulator_starts_again_on_the_same_port(ask: Ask) -> None:
    """
    An outage keeps the address, the levels and the figures.
    """
    simulator = GroqSimulator(rpm=2)
    with simulator:
        port = simulator.port
        assert 200 == ask(simulator).status
    with simulator:
        assert port == simulator.port
        assert [200, 429] == [ask(simulator).status for _ in range(2)]
        with pytest.raises(RuntimeError):
            simulator.start()

    simulator.stop()  # a second stop harms nothing
    assert 3 == simulator.stats().received


def test_stopping_at_once_after_starting_is_clean() -> None:
    """
    stop() may overtake the thread that start() began.
    """
    before = simulators_running()
    for _ in range(20):
        GroqSimulator().start().stop()

    assert not simulators_running() - before


def test_stopping_while_somebody_connects_leaves_no_socket_open() -> None:
    """
    A connection that was accepted a moment before; one left open would be told by a warning when it is freed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what other tests left open is not ours to tell
    for _ in range(20):
        simulator = GroqSimulator().start()
        address = simulator.host, simulator.port
        clients = [socket.create_connection(address, timeout=10) for _ in range(3)]

        simulator.stop()

        for client in clients:
            client.close()
    gc.collect()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rpm", 0),
        ("tpm", 1.5),
        ("tpd", True),
        ("minute_s", 0),
        ("latency", -1),
        ("arrival_delay", (2, 1)),
        ("connect_delay", "soon"),
        ("output", -0.5),
        ("settlement", "late"),
        ("headers_at", "never"),
        ("models", []),
        ("models", "llama"),
        ("api_keys", "gsk"),
        ("faults", ["boom"]),
        ("port", 70_000),
        ("log_size", -1),
        ("default_completion", 0),
    ],
)
def test_wrong_arguments_are_named(field: str, value: Any) -> None:
    """
    The error says which argument, what it was and what to give.
    """
    options = {"tpm": 1} | {field: value}

    with pytest.raises(ValueError) as caught:
        GroqSimulator(**options)

    assert field in str(caught.value)
    assert "give" in str(caught.value)


def test_limits_and_keywords_do_not_mix() -> None:
    """
    A keyword beside an object for all models would be silently lost, so it is refused.
    """
    with pytest.raises(ValueError, match="rpm"):
        GroqSimulator(limits=SimpleNamespace(rpm=3), rpm=4)


def test_two_threads_may_stop_it_at_once():
    """
    1. A looks and finds it running; 2. B stops it; 3. A tells a loop that is closed.
    """
    simulator = GroqSimulator().start()
    tell = simulator._loop.call_soon_threadsafe

    def tell_late(*args):
        del simulator._loop.call_soon_threadsafe
        simulator.stop()
        return tell(*args)

    simulator._loop.call_soon_threadsafe = tell_late

    simulator.stop()

    assert "not running" in repr(simulator)

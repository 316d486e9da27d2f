"""Each fault does what it says, to the requests it speaks of and to no other."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from groq_queue.simulator import Fault, GroqSimulator
from groq_queue.simulator.calls import ApiCall

MODEL = "llama-3.1-8b-instant"
Simulate = Callable[..., GroqSimulator]
Ask = Callable[..., Any]


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, None), (401, "invalid_api_key"), (498, "capacity_exceeded"), (500, None), (503, None), (520, None)],
)
def test_status_fault_is_not_charged(simulate: Simulate, ask: Ask, status: int, code: str | None) -> None:
    """
    The status comes with a body like the service's, and the budget is untouched.
    """
    simulator = simulate(rpm=5, faults=[Fault(status=status, times=1)])

    failed, fine = ask(simulator), ask(simulator)

    assert (status, 200) == (failed.status, fine.status)
    assert code == failed.error.get("code")
    assert [(status, 0), (200, fine.json()["usage"]["total_tokens"])] == [
        (record.status, record.used_tokens) for record in simulator.log
    ]
    assert (2, 1) == (simulator.stats().received, simulator.stats().admitted)


def test_charged_fault_spends_like_a_success(simulate: Simulate, ask: Ask) -> None:
    """
    charge=True is for errors that come after the work was done.
    """
    simulator = simulate(rpm=1, faults=[Fault(status=400, charge=True, times=1)])

    assert [400, 429] == [ask(simulator).status for _ in range(2)]
    assert 1 == simulator.stats().admitted
    assert 0 < simulator.stats().tokens_used


def test_body_and_headers_of_a_fault_replace_ours(simulate: Simulate, ask: Ask) -> None:
    """
    A success may carry nonsense: given headers win, the others stay.
    """
    rule = Fault(headers={"X-RateLimit-Remaining-Requests": "many", "x-extra": "1"}, body="not json")
    answer = ask(simulate(rpd=9, faults=[rule]))

    assert (200, b"not json") == (answer.status, answer.body)
    assert ("many", "9", "1") == (
        answer.headers["x-ratelimit-remaining-requests"],
        answer.headers["x-ratelimit-limit-requests"],
        answer.headers["x-extra"],
    )


def test_mapping_as_a_body_is_sent_as_json(simulate: Simulate, ask: Ask) -> None:
    """
    The wait of a hand-made refusal reaches the client as given.
    """
    rule = Fault(status=429, body={"error": {"message": "wait"}}, headers={"retry-after": "7"})

    answer = ask(simulate(faults=[rule]))

    assert (429, {"error": {"message": "wait"}}, "7") == (answer.status, answer.json(), answer.headers["retry-after"])


def test_html_page_comes_as_from_a_proxy(simulate: Simulate, ask: Ask) -> None:
    """
    No JSON, another content type, 502 unless another status is asked for.
    """
    answer = ask(simulate(faults=[Fault(html=True)]))

    assert 502 == answer.status
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.body.startswith(b"<html>")


@pytest.mark.parametrize(("moment", "charged"), [("before", 0), ("after", 1)])
def test_reset_comes_before_or_after_metering(simulate: Simulate, ask: Ask, moment: str, charged: int) -> None:
    """
    The client sees the same reset; only the meter knows whether it was charged.
    """
    simulator = simulate(rpm=60, clock_ns=lambda: 1, faults=[Fault(reset=moment, times=1)])

    with pytest.raises(ConnectionResetError) as caught:
        ask(simulator)

    assert ConnectionResetError is caught.type  # http.client has a subclass for a mere end of the stream
    assert charged == simulator.level(MODEL, "RPM")
    assert [200 if charged else 0] == [record.status for record in simulator.log]
    assert 200 == ask(simulator).status


def test_truncated_body_is_shorter_than_promised(simulate: Simulate, ask: Ask) -> None:
    """
    Content-Length is true, the connection ends early: a client can tell.
    """
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(simulate(faults=[Fault(truncate=True)]))

    assert 0 < len(caught.value.partial)


def test_truncated_stream_has_no_end(simulate: Simulate, ask: Ask) -> None:
    """
    A chunked answer stops without its last chunk.
    """
    with pytest.raises(http.client.IncompleteRead):
        ask(simulate(faults=[Fault(truncate=True)]), stream=True)


def test_half_json_ends_cleanly(simulate: Simulate, ask: Ask) -> None:
    """
    Without a length the end looks right: only the JSON tells.
    """
    answer = ask(simulate(faults=[Fault(half_json=True)]))

    assert "content-length" not in answer.headers
    assert answer.body.startswith(b'{"id":')
    with pytest.raises(json.JSONDecodeError):
        answer.json()


def test_silent_server_is_metered_and_never_answers(simulate: Simulate) -> None:
    """
    The request arrives, is charged, and nothing comes back until the client gives up.
    """
    simulator = simulate(faults=[Fault(silent=True)])
    connection = http.client.HTTPConnection(simulator.host, simulator.port, timeout=0.1)
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi."}]})

    connection.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer k"})
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()

    assert simulator.wait_for_requests(1, timeout=5)
    assert 1 == simulator.stats().admitted


def test_delay_is_added_to_the_answer(simulate: Simulate, ask: Ask) -> None:
    """
    The call is metered at once and answered late.
    """
    simulator = simulate(faults=[Fault(delay_s=0.1)])
    started_ns = time.monotonic_ns()

    assert 200 == ask(simulator).status
    ended_ns = time.monotonic_ns()

    assert 100_000_000 <= ended_ns - started_ns
    assert 100_000_000 <= ended_ns - simulator.log[0].arrived_ns


@pytest.mark.parametrize("content", ["", "Exactly this."])
def test_content_of_an_answer_can_be_given(simulate: Simulate, ask: Ask, content: str) -> None:
    """
    Even no content at all, as reasoning models send when their allowance is spent.
    """
    answer = ask(simulate(faults=[Fault(content=content)]))

    assert content == answer.json()["choices"][0]["message"]["content"]


def test_rule_speaks_only_of_what_it_matches(simulate: Simulate, ask: Ask) -> None:
    """
    Part of a prompt or a function of the call; the first rule that matches wins.
    """
    rules = [
        Fault(status=500, match="rain"),
        Fault(status=503, match=lambda call: call.model == "other"),
        Fault(status=502, match="tea"),
    ]
    simulator = simulate(models=["other", MODEL], faults=rules)

    def status(prompt: str, model: str = MODEL) -> int:
        answer: int = ask(simulator, prompt, model=model).status
        return answer

    assert [500, 502, 200] == [status("heavy rain"), status("green tea"), status("rust")]
    assert [500, 503] == [status("rain", "other"), status("tea", "other")]


def test_rule_that_raises_ends_one_connection_only(simulate: Simulate, ask: Ask) -> None:
    """
    A mistake in a test's own function is not a hang and not the end of the server.
    """

    def broken(call: ApiCall) -> bool:
        return 1 / len(call.prompt) > 1

    simulator = simulate(faults=[Fault(status=500, match=broken)])

    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(simulator, "")
    assert 200 == ask(simulator, "Hello.").status


def test_rule_counts_its_times_and_turns(simulate: Simulate, ask: Ask) -> None:
    """
    every= takes each n-th match, times= ends it.
    """
    simulator = simulate(faults=[Fault(status=500, every=3, times=2)])

    assert [200, 200, 500, 200, 200, 500, 200, 200, 200] == [ask(simulator).status for _ in range(9)]


def test_probability_is_drawn_from_the_seed(simulate: Simulate, ask: Ask) -> None:
    """
    About the given share, and the same requests each time.
    """

    def statuses() -> list[int]:
        simulator = simulate(seed=3, faults=[Fault(status=500, probability=0.5)])
        return [ask(simulator).status for _ in range(40)]

    first = statuses()

    assert 10 <= first.count(500) <= 30
    assert first == statuses()


def test_refusal_of_the_meter_keeps_its_text_under_a_fault(simulate: Simulate, ask: Ask) -> None:
    """
    A rule that rewrites answers does not rewrite refusals; one that cuts them does.
    """
    simulator = simulate(rpm=1, faults=[Fault(body={"odd": 1})])

    assert {"odd": 1} == ask(simulator).json()
    assert "Rate limit reached" in ask(simulator).error["message"]
    simulator.set_faults([Fault(truncate=True)])
    with pytest.raises(http.client.IncompleteRead):
        ask(simulator)


def test_rules_can_be_changed_while_it_runs(simulate: Simulate, ask: Ask) -> None:
    """
    Replaced or added behind the others, counters of the others kept.
    """
    simulator = simulate(faults=[Fault(status=500, times=2)])

    assert 500 == ask(simulator).status
    simulator.add_fault(Fault(status=503))
    assert [500, 503] == [ask(simulator).status for _ in range(2)]
    simulator.set_faults([])
    assert 200 == ask(simulator).status


@pytest.mark.parametrize(
    "options",
    [
        {"status": 99},
        {"reset": "sometimes"},
        {"delay_s": -1},
        {"times": 0},
        {"every": 0},
        {"probability": 1.5},
    ],
)
def test_wrong_rules_are_named(options: dict[str, Any]) -> None:
    """
    The error names the field and what to give.
    """
    with pytest.raises(ValueError) as caught:
        Fault(**options)

    assert next(iter(options)) in str(caught.value)
    assert "give" in str(caught.value)

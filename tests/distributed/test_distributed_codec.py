"""What travels: requests and their ends as JSON, and the lanes they go by."""

from __future__ import annotations

import json

import pytest

from groq_queue.core.request import Request, State
from groq_queue.core.response import Completion
from groq_queue.core.token_estimate import PromptSize, TokenCost
from groq_queue.distributed.codec import Ending, decode_ending, decode_request, encode_ending, encode_request
from groq_queue.distributed.wakeups import LANES, lane_for, parse_lanes
from groq_queue.errors import (
    APITimeoutError,
    ConfigurationError,
    DailyLimitReached,
    GroqQueueError,
    QueueTimeout,
    RateLimitError,
    RequestTooLarge,
)


def test_a_request_comes_out_as_it_went_in():
    """
    But for its custom_id, which belongs to the submitting process, and its state.
    """
    request = Request(
        model="m",
        endpoint="chat/completions",
        body='{"model":"m","messages":[{"role":"user","content":"größer 🌍"}]}'.encode(),
        size=PromptSize(3, 50, 7, True),
        priority=8,
        client="ünï",
        custom_id="mine",
        max_wait_ns=5,
        deadline_ns=6,
        tier="flex",
        turn_cost=9,
        shrinks=True,
    )

    twin, base_url = decode_request(encode_request(request, "https://api.example/v1"))

    for name in (
        *("id", "model", "lane", "endpoint", "body", "size", "priority", "client", "max_wait_ns", "deadline_ns"),
        *("turn_cost", "shrinks"),
    ):
        assert getattr(request, name) == getattr(twin, name), name
    assert (None, "https://api.example/v1") == (twin.custom_id, base_url)
    assert "m (flex)" == twin.lane
    assert isinstance(twin.size, PromptSize)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"options": 1}', "null", '{"options": {}, "size": [1]}'])
def test_what_is_no_request_is_refused(text):
    """
    As a message of another version might be.
    """
    with pytest.raises(ValueError, match="version"):
        decode_request(text)


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("HTTP 429: slow", status_code=429, body={"error": {"message": "slow"}}, headers={"a": "b"}),
        APITimeoutError("silent", sent="unknown"),
        DailyLimitReached("spent", resets_in=3.5, limit="tokens per day (TPD)"),
        RequestTooLarge(9, 8, "tokens per minute (TPM)"),
        QueueTimeout("late", retry_after=1.0),
        ConfigurationError("wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_as_our_own_class_with_its_facts(error):
    """
    And its cause; its headers stay behind, the name of its request comes back.
    """
    error.__cause__ = GroqQueueError("before")
    text = encode_ending(Ending(State.FAILED, error=error, attempts=2))

    ending = decode_ending("failed", text, custom_id="mine")

    assert type(error) is type(ending.error)
    assert (str(error), "mine", "before") == (str(ending.error), ending.error.custom_id, str(ending.error.__cause__))
    facts = {name: value for name, value in vars(error).items() if name not in ("headers", "custom_id")}
    assert facts == {name: vars(ending.error)[name] for name in facts}
    assert not getattr(ending.error, "headers", {})
    assert json.loads(text)["attempts"] == 2


def test_an_answer_comes_out_with_dots_and_with_what_it_cost():
    """
    As the embedded engine delivers it.
    """
    answer = Completion({"choices": [{"message": {"content": "hi"}}], "usage": {"total_tokens": 3}}, attempts=2)

    ending = decode_ending(
        "completed",
        encode_ending(Ending(State.COMPLETED, answer, None, 2, 1.5, TokenCost(3, 4))),
        custom_id="mine",
    )

    assert answer == ending.result
    assert ("hi", 3, "mine", 2, 1.5) == (
        ending.result.text,
        ending.result.usage.total_tokens,
        ending.result.custom_id,
        ending.result.attempts,
        ending.result.waited,
    )
    assert TokenCost(3, 4) == ending.charged


def test_every_priority_has_one_lane():
    """
    Urgent ones before normal ones before the others, without a gap.
    """
    assert [0, 5, 6] == [lane.first for lane in LANES]
    assert list(range(11)) == [priority for lane in LANES for priority in range(lane.first, lane.last + 1)]
    assert [lane_for(priority).first <= priority <= lane_for(priority).last for priority in range(11)] == [True] * 11


@pytest.mark.parametrize("text", ["", "urgent", "urgent:0", "urgent:-1", "urgent:x", "slow:1", "bulk:1,bulk:2", "a:1,"])
def test_nonsense_for_lanes_is_refused_with_an_example(text):
    """
    The message shows what to write.
    """
    with pytest.raises(ConfigurationError, match="urgent:4,normal:8,bulk:8"):
        parse_lanes(text)

"""The errors: facts as attributes, cures in the message, and all of it through a pickle."""

from __future__ import annotations

import pickle
import queue
from typing import Any

import pytest

from groq_queue import errors
from groq_queue.errors import (
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    CapacityExceededError,
    ConfigurationError,
    ContentTooLargeError,
    CostLimitReached,
    DailyLimitReached,
    EngineUnavailable,
    GroqQueueError,
    InternalServerError,
    JournalError,
    LimiterUnavailable,
    MissingExtraError,
    NotFoundError,
    PermissionDeniedError,
    QueueBusy,
    QueueClosed,
    QueueFull,
    QueueTimeout,
    RateLimitError,
    RequestTooLarge,
    UnprocessableEntityError,
    error_message,
    excerpt,
    status_error,
)

WHO: dict[str, Any] = {"request_id": "r1", "custom_id": "row 7"}
ANSWER: dict[str, Any] = {"body": {"error": {"message": "no"}}, "headers": {"x-request-id": "req_01"}}
SAMPLES: list[GroqQueueError] = [
    GroqQueueError("m", **WHO),
    ConfigurationError("m", **WHO),
    MissingExtraError("m", **WHO),
    QueueClosed("m", **WHO),
    QueueBusy("m", retry_after=1.5, **WHO),
    QueueFull("m", limit=10, client="a", retry_after=2.5, **WHO),
    QueueTimeout("m", retry_after=None, **WHO),
    RequestTooLarge(900, 800, "tokens per minute (TPM)", **WHO),
    DailyLimitReached("m", resets_in=31.5, limit="tokens per day (TPD)", **WHO),
    CostLimitReached("m", **WHO),
    JournalError("m", **WHO),
    EngineUnavailable("m", address="redis://cache:6379/0", **WHO),
    LimiterUnavailable("m", address="/tmp/budgets", **WHO),
    APIError("m", **WHO),
    APIConnectionError("m", sent="no", is_final=True, **WHO),
    APITimeoutError("m", sent="yes", **WHO),
    APIResponseError("m", **WHO),
    APIStatusError("m", status_code=418, **ANSWER, **WHO),
    BadRequestError("m", status_code=400, **ANSWER, **WHO),
    AuthenticationError("m", status_code=401, **ANSWER, **WHO),
    PermissionDeniedError("m", status_code=403, **ANSWER, **WHO),
    NotFoundError("m", status_code=404, **ANSWER, **WHO),
    ContentTooLargeError("m", status_code=413, **ANSWER, **WHO),
    UnprocessableEntityError("m", status_code=422, **ANSWER, **WHO),
    RateLimitError("m", status_code=429, **ANSWER, **WHO),
    CapacityExceededError("m", status_code=498, **ANSWER, **WHO),
    InternalServerError("m", status_code=503, **ANSWER, **WHO),
]


def every_error() -> set[type]:
    return {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GroqQueueError)}


def test_every_error_has_a_sample_here() -> None:
    assert every_error() == {type(error) for error in SAMPLES}


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling_with_all_its_facts(error: GroqQueueError, protocol: int) -> None:
    error.late_fact = 5  # type: ignore[attr-defined]

    twin = pickle.loads(pickle.dumps(error, protocol))

    assert type(error) is type(twin)
    assert vars(error) == vars(twin)
    assert (str(error), error.args) == (str(twin), twin.args)
    assert ("r1", "row 7") == (twin.request_id, twin.custom_id)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_a_copy_is_equal_and_free_of_the_traceback(error: GroqQueueError) -> None:
    raised = None
    try:
        raise error
    except GroqQueueError as caught:
        raised = caught

    twin = raised.copy()
    twin.custom_id = "other"

    assert raised.__traceback__ is not None
    assert twin.__traceback__ is None
    assert type(error) is type(twin)
    assert str(error) == str(twin)
    assert "row 7" == error.custom_id


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (ConfigurationError, (ValueError,)),
        (MissingExtraError, (ImportError,)),
        (QueueClosed, (RuntimeError,)),
        (QueueFull, (QueueBusy, queue.Full, ValueError)),
        (QueueTimeout, (QueueBusy,)),
        (RequestTooLarge, (ValueError,)),
        (APITimeoutError, (APIConnectionError, APIError)),
        (APIResponseError, (APIError,)),
        (APIStatusError, (APIError,)),
        (DailyLimitReached, (GroqQueueError,)),
        (CostLimitReached, (GroqQueueError,)),
        (JournalError, (GroqQueueError,)),
        (LimiterUnavailable, (GroqQueueError,)),
    ],
)
def test_the_tree_is_the_documented_one(kind: type, bases: tuple[type, ...]) -> None:
    assert all(issubclass(kind, base) for base in (GroqQueueError, *bases))


def test_a_request_too_large_says_by_how_much() -> None:
    error = RequestTooLarge(9_024, 8_000, "tokens per minute (TPM)")

    assert (9_024, 8_000, "tokens per minute (TPM)") == (error.cost, error.capacity, error.limit)
    assert "9024" in str(error)
    assert "tokens per minute (TPM) never holds more than 8000" in str(error)
    assert "lower max_completion_tokens by 1024 or shorten the prompt" in str(error)


# -- statuses


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (413, ContentTooLargeError),
        (422, UnprocessableEntityError),
        (429, RateLimitError),
        (498, CapacityExceededError),
        (500, InternalServerError),
        (503, InternalServerError),
        (529, InternalServerError),
        (418, APIStatusError),
        (424, APIStatusError),
        (302, APIStatusError),
    ],
)
def test_each_status_has_its_error(status: int, kind: type) -> None:
    headers = {"x-request-id": "req_01"}

    error = status_error(status, {"error": {"message": "said"}}, headers, **WHO)
    headers.clear()

    assert kind is type(error)
    assert (status, {"error": {"message": "said"}}) == (error.status_code, error.body)
    assert "req_01" == error.server_request_id == error.headers["x-request-id"]
    assert ("r1", "row 7") == (error.request_id, error.custom_id)
    assert str(error).startswith(f"HTTP {status}: ")


def test_a_429_that_never_fits_is_a_content_too_large_error() -> None:
    assert ContentTooLargeError is type(status_error(429, None, {}, too_large=True))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "over capacity", "type": "x"}}, "over capacity"),
        ({"error": "over capacity"}, "over capacity"),
        ({"message": "over capacity"}, "over capacity"),
        ("over capacity", "over capacity"),
        ({"error": {"message": None}}, "no message"),
        ({}, "no message"),
        (None, "no message"),
        ("  \n ", "no message"),
        ({"error": {"message": ["a", 1]}}, "['a', 1]"),
    ],
)
def test_the_servers_sentence_is_found_whatever_the_shape(body: Any, said: str) -> None:
    assert f"HTTP 500: {said}" == str(status_error(500, body, {}))


def test_a_redirect_names_where_to() -> None:
    error = status_error(308, "", {"location": "https://elsewhere.example/\x1b[2J"})

    assert "HTTP 308: redirect to https://elsewhere.example/\\x1b[2J refused: set base_url to the final address" == str(
        error
    )


def test_an_excerpt_is_one_line_and_cannot_move_the_cursor() -> None:
    assert "a\\nb\\x1b[31m\\x00\\u202e\\ud800é" == excerpt("  a\nb\x1b[31m\x00\u202e\ud800é  ")


@pytest.mark.parametrize("length", [199, 200, 201, 5_000_000])
def test_an_excerpt_is_of_200_characters(length: int) -> None:
    assert "x" * min(200, length) + ("…" if length > 200 else "") == excerpt("x" * length)


@pytest.mark.parametrize("body", [None, 5, [], "text", {"error": []}, {"error": {"message": {"deep": 1}}}])
def test_a_message_is_always_a_str(body: Any) -> None:
    assert isinstance(error_message(body), str)


def test_no_error_holds_request_headers() -> None:
    """
    Only response headers are kept; a key cannot leak through a pickle.
    """
    assert all("authorization" not in str(vars(error)).lower() for error in SAMPLES)

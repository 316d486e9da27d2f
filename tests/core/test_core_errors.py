"""The errors: facts as attributes, cures in the message, and all of it through a pickle."""

from __future__ import annotations

import json
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
    DeadlockError,
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
    UnknownArgument,
    UnprocessableEntityError,
    error_message,
    error_of,
    excerpt,
    record_of,
    safe_repr,
    status_error,
)

WHO: dict[str, Any] = {"request_id": "r1", "custom_id": "row 7"}
ANSWER: dict[str, Any] = {"body": {"error": {"message": "no"}}, "headers": {"x-request-id": "req_01"}}
SAMPLES: list[GroqQueueError] = [
    GroqQueueError("m", **WHO),
    ConfigurationError("m", **WHO),
    UnknownArgument("m", **WHO),
    MissingExtraError("m", **WHO),
    QueueClosed("m", **WHO),
    DeadlockError("m", **WHO),
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
        (DeadlockError, (RuntimeError,)),
        (QueueFull, (QueueBusy, queue.Full, ValueError)),
        (QueueTimeout, (QueueBusy,)),
        (RequestTooLarge, (ValueError,)),
        (APITimeoutError, (APIConnectionError, APIError)),
        (APIResponseError, (APIError,)),
        (APIStatusError, (APIError,)),
        (DailyLimitReached, (GroqQueueError,)),
        (CostLimitReached, (GroqQueueError,)),
        (JournalError, (GroqQueueError,)),
        (QueueBusy, ()),
        (EngineUnavailable, ()),
        (APIError, ()),
        (APIConnectionError, (APIError,)),
        *((kind, (APIStatusError, APIError)) for kind in APIStatusError.__subclasses__()),
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


class Attempt:
    """The request of a foreign library, as its exceptions hold it."""

    headers: dict[str, str] = {"Authorization": "Bearer gsk_secret"}  # noqa: RUF012


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_no_error_takes_the_key_through_a_pickle_or_into_a_journal(error: GroqQueueError) -> None:
    """
    Its cause may hold the request with its headers; what is pickled or stored is the error without it.
    """
    raised = error.copy()
    raised.__cause__ = ConnectionError("reset", vars(Attempt))
    raised.__cause__.request = Attempt.headers  # type: ignore[attr-defined]

    stored, pickled = repr(record_of(raised)), pickle.dumps(raised)

    assert "gsk_secret" not in stored
    assert b"gsk_secret" not in pickled
    assert raised.__cause__ is raised.copy().__cause__


# -- what a journal keeps of them


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_that_was_stored_is_of_its_kind_again_and_knows_its_facts(error: GroqQueueError) -> None:
    """
    All but the headers, which only a response has.
    """
    stored = json.loads(json.dumps(record_of(error)))

    twin = error_of(stored)

    facts = {name: value for name, value in vars(error).items() if name != "headers"}
    assert type(error) is type(twin)
    assert str(error) == str(twin)
    assert facts == {name: value for name, value in vars(twin).items() if name != "headers"}
    assert {} == getattr(twin, "headers", {})


@pytest.mark.parametrize("kind", ["ZeroDivisionError", "Literal", "queue", "gone", None])
def test_a_stored_error_of_another_kind_leaves_open_whether_the_request_was_answered(kind: str | None) -> None:
    twin = error_of({"kind": kind, "message": "division by zero", "facts": {"a": 1}})

    assert APIConnectionError is type(twin)
    assert ("division by zero", "unknown", True) == (str(twin), twin.sent, twin.is_final)
    assert "gone" == str(error_of({"kind": "gone"}))


def test_a_stored_error_without_facts_has_no_request() -> None:
    twin = error_of({"kind": "QueueClosed", "message": "m", "facts": None})

    assert QueueClosed is type(twin)
    assert (None, None) == (twin.request_id, twin.custom_id)


@pytest.mark.parametrize(
    ("fact", "is_kept"),
    [
        (None, True),
        (True, True),
        (0.5, True),
        ("x" * 10_000, True),
        ("x" * 10_001, False),
        ([1] * 200, True),
        ([1] * 201, False),
        ((1, "a"), True),
        ({"a": [1]}, True),
        ({1: "a"}, False),
        ({"a": object}, False),
        ({"a": "x" * 10_000}, False),
        ([object], False),
        (object, False),
        (b"x", False),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_of_the_facts_of_an_error_only_the_plain_and_small_are_stored(fact: Any, is_kept: bool) -> None:
    error = ConfigurationError("m")
    error.fact = fact  # type: ignore[attr-defined]

    record = record_of(error)

    assert is_kept == ("fact" in record["facts"])
    assert ("ConfigurationError", "m") == (record["kind"], record["message"])


# -- values in messages


def test_a_value_is_shown_as_far_as_it_matters() -> None:
    assert ["5", "'a'", "'" + "x" * 49 + "…"] == [safe_repr(5), safe_repr("a"), safe_repr("x" * 400, 50)]
    assert safe_repr(10**5_000).startswith("<a int>")


def test_a_value_of_a_hundred_characters_is_shown_whole() -> None:
    assert ["'" + "x" * 98 + "'", "'" + "x" * 99 + "…"] == [safe_repr("x" * 98), safe_repr("x" * 99)]

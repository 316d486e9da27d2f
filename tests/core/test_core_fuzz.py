"""Foreign text never raises, and what JSON can carry arrives byte for byte."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

from extras import needs

from groq_queue.core.headers import parse_duration, parse_rate_headers, parse_refusal, parse_retry_after
from groq_queue.core.request import build_payload, encode_payload
from groq_queue.core.response import Completion, decode_object, usage_of
from groq_queue.core.retry import Meaning, meaning_of
from groq_queue.core.token_estimate import Estimator, size_of
from groq_queue.errors import ConfigurationError, error_message, excerpt, status_error

needs("hypothesis", is_module=True)

from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SECOND = 1_000_000_000

plausible = st.lists(
    st.sampled_from(
        [
            *"0123456789.,:-+ ~()\t",
            *(
                "ns",
                "us",
                "\u00b5s",
                "\u03bcs",
                "ms",
                "s",
                "m",
                "h",
                "d",
                "\u00c2\u00b5s",
                "\u0665",
                "nan",
                "inf",
                "e9",
            ),
            *(
                "Rate limit reached",
                "Request too large",
                " on ",
                "(TPM)",
                "(OTPM)",
                "()",
                "Limit ",
                "Used ",
                "Requested ",
            ),
            *("Please try again in ", "%3F", "GMT", "Thu, 01 Jan 1970 00:16:45 GMT", "31 Dec 99999", "\x00", "\ud800"),
        ]
    ),
    max_size=14,
).map("".join)
texts = st.one_of(st.text(st.characters(), max_size=80), plausible)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**40), 10**40),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(text=texts, wall_s=st.floats(allow_nan=False, allow_infinity=False))
@example(text="Mon, 01 Jan 0001 00:00:00 +2359", wall_s=0.0)
@example(text="Fri, 31 Dec 9999 23:59:59 -2359", wall_s=0.0)
@example(text="9" * 5_000, wall_s=0.0)
@example(text="1 JAN 0 0:0", wall_s=-1.7e308)
@example(text="1 JAN 0 0:0", wall_s=1.7e308)
def test_no_text_makes_a_parser_of_headers_raise(text: str, wall_s: float) -> None:
    names = [f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining")]

    duration, retry_after = parse_duration(text), parse_retry_after(text, wall_s)
    seen = parse_rate_headers(dict.fromkeys(names, text))
    refusal = parse_refusal(text)

    assert duration is None or (isinstance(duration, int) and duration >= 0)
    assert retry_after is None or (isinstance(retry_after, int) and retry_after >= 0)
    assert all(0 <= header.remaining <= header.limit for header in seen)
    assert refusal is None or all(
        value is None or value >= 0 for value in (refusal.limit, refusal.used, refusal.requested, refusal.wait_ns)
    )


@settings(max_examples=300, deadline=None)
@given(status=st.integers(300, 599), body=st.one_of(json_values, texts, st.fixed_dictionaries({"error": json_values})))
def test_no_body_of_an_error_makes_its_reading_raise(status: int, body: Any) -> None:
    meaning, _ = meaning_of(status, body)
    error = status_error(status, body, {})

    assert isinstance(meaning, Meaning)
    assert isinstance(error_message(body), str)
    assert all(character.isprintable() for character in str(error))
    assert str(error) == str(pickle.loads(pickle.dumps(error)))


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters()))
def test_every_excerpt_is_printable(text: str) -> None:
    assert all(character.isprintable() for character in excerpt(text))


@settings(max_examples=300, deadline=None)
@given(value=json_values, prompt=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_json_can_carry_arrives_as_it_was(value: Any, prompt: str) -> None:
    payload = build_payload(prompt, None, "m", {"extra": value}, "chat/completions")

    body = encode_payload(payload)

    assert payload == json.loads(body)
    assert body == json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    assert 0 < size_of(payload).base


@settings(max_examples=300, deadline=None)
@given(body=st.one_of(st.binary(max_size=60), json_values.map(lambda value: json.dumps(value).encode())))
def test_a_body_is_an_object_or_a_value_error(body: bytes) -> None:
    try:
        told = json.loads(body.decode("utf-8"), parse_constant=no_constant)
    except ValueError:
        told = None

    try:
        decoded = decode_object(body)
    except ValueError:
        decoded = None

    assert (told if isinstance(told, dict) else None) == decoded
    assert decoded is None or decoded == pickle.loads(pickle.dumps(Completion(decoded)))


def no_constant(name: str) -> None:
    raise ValueError(name)


@settings(max_examples=200, deadline=None)
@given(value=st.one_of(json_values, st.binary(), st.sets(st.integers()), st.floats(), st.text(st.characters())))
def test_any_value_that_json_carries_is_encoded_and_any_other_refused_by_name(value: Any) -> None:
    payload = {"a": value}
    try:
        expected = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        expected = b"payload"

    try:
        said = encode_payload(payload)
    except ConfigurationError as error:
        said = str(error)[: len("payload")].encode()

    assert expected == said


@settings(max_examples=200, deadline=None)
@given(usage=json_values)
def test_no_usage_makes_its_reading_raise(usage: Any) -> None:
    found = usage_of({"usage": usage})

    assert found is None or (len(found) == 3 and 0 <= found[2] <= found[0])


@settings(max_examples=100, deadline=None)
@given(
    history=st.lists(
        st.tuples(st.integers(8, 10**6), st.integers(0, 10**6), st.integers(0, 10**5), st.booleans()), max_size=120
    ),
    content=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)
def test_a_price_is_a_positive_whole_number_after_any_history(
    history: list[tuple[int, int, int, bool]], content: str
) -> None:
    estimator = Estimator()
    size = size_of({"messages": [{"role": "user", "content": content}]})
    for base, prompt, completion, is_capped in history:
        estimator.learn(size._replace(base=base, completion=completion + 1 if is_capped else None), prompt, completion)

    cost = estimator.price(size)

    assert all(isinstance(units, int) for units in cost)
    assert 1 <= cost.prompt
    assert 1 <= cost.completion
    assert math.isfinite(cost.tokens)

"""The answer: a dict with attributes."""

from __future__ import annotations

import copy
import json
import pickle
import types
from typing import Any

import pytest

from groq_queue.core.response import Completion, decode_object, usage_of

BODY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Grüße"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    "items": "a key named as a method",
}


def answer() -> Completion:
    return Completion(decode_object(json.dumps(BODY).encode()), custom_id="row 7", attempts=2, waited=0.5)


def test_an_answer_is_the_servers_dict() -> None:
    assert BODY == answer()
    assert isinstance(answer(), dict)
    assert BODY == json.loads(json.dumps(answer()))
    assert BODY == dict(**answer())


def test_an_answer_is_read_by_attributes() -> None:
    completion = answer()

    assert "Grüße" == completion.choices[0].message.content == completion.text
    assert (8, "m", "chatcmpl-1") == (completion.usage.total_tokens, completion.model, completion.id)
    assert ("row 7", 2, 0.5) == (completion.custom_id, completion.attempts, completion.waited)
    assert "a key named as a method" == completion["items"]


def test_a_missing_attribute_names_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no 'reasoning'; it has index, message, finish_reason"):
        answer().choices[0].reasoning  # noqa: B018

    assert not hasattr(answer(), "nothing")
    assert "fallback" == getattr(answer(), "nothing", "fallback")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_answer_survives_pickling_with_our_facts(protocol: int) -> None:
    twin = pickle.loads(pickle.dumps(answer(), protocol))

    assert answer() == twin
    assert Completion is type(twin)
    assert ("row 7", 2, 0.5) == (twin.custom_id, twin.attempts, twin.waited)
    assert "Grüße" == twin.choices[0].message.content


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copy_is_equal_and_its_own(make: Any) -> None:
    original = answer()

    twin = make(original)
    assert original == twin
    twin["model"] = "other"

    assert ("row 7", "Grüße", "m") == (twin.custom_id, twin.text, original.model)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"text": "a transcript"}, "a transcript"),
        ({"text": None}, ""),
        ({}, ""),
        ({"choices": []}, ""),
        ({"choices": None}, ""),
        ({"choices": [{}]}, ""),
        ({"choices": [{"message": None}]}, ""),
        ({"choices": [{"message": {"content": None}}]}, ""),
        ({"choices": [{"text": "legacy"}]}, "legacy"),
        ({"choices": [{"message": {"content": "said"}, "text": "legacy"}], "text": "a transcript"}, "said"),
        ({"choices": [{"text": "one"}, {"text": "two"}]}, "one"),
        ({"choices": [], "text": "a transcript"}, "a transcript"),
        ({"choices": [None], "text": "a transcript"}, ""),
        ({"choices": {"0": 1}, "text": "a transcript"}, "a transcript"),
        ({"text": 5}, ""),
    ],
)
def test_text_is_always_a_str(body: dict[str, Any], text: str) -> None:
    assert text == Completion(body).text


def test_a_plain_answer_was_sent_once_and_waited_for_nothing() -> None:
    assert (None, 1, 0.0) == (Completion({}).custom_id, Completion({}).attempts, Completion({}).waited)


# -- decoding


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b"error code: 1010",
        b'{"a": nan}',
        b'{"a": 1',
        b'{"a": 1} trailing',
        b"[1, 2]",
        b'"text"',
        b"null",
        b"5",
        b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a": ' * 200_000 + b"1" + b"}" * 200_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_not_one_object_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        decode_object(body)


def test_the_objects_inside_an_object_are_read_by_attributes_too() -> None:
    decoded = decode_object(b'{"a": [{"b": {"c": 1}}]}')

    assert {"a": [{"b": {"c": 1}}]} == decoded
    assert 1 == decoded["a"][0].b.c


def test_what_is_nested_too_deep_is_named() -> None:
    with pytest.raises(ValueError, match=r"^nested too deep$"):
        decode_object(b"[" * 200_000)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_object_is_read_in_every_encoding_that_json_was_ever_written_in(encoding: str) -> None:
    assert {"a": "ü"} == decode_object('{"a": "ü"}'.encode(encoding))


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_json_lacks_is_null(word: str) -> None:
    """
    Servers write one for the logarithm of a probability of zero; the answer is not worth less for it.
    """
    assert {"logprob": None, "b": 1} == decode_object(f'{{"logprob": {word}, "b": 1}}'.encode())


def test_a_wrong_byte_or_a_line_break_inside_a_string_does_not_cost_the_answer() -> None:
    assert {"a": "x\ufffdy", "b": "1\n2"} == decode_object(b'{"a": "x\xffy", "b": "1\n2"}')


def test_a_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="a JSON list instead of an object"):
        decode_object(b"[]")


# -- usage


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, (3, 5, 0)),
        ({"prompt_tokens": 3, "total_tokens": 3}, (3, 0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, (9, 5, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 40}}, (9, 5, 9)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -4}}, (9, 5, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": "4"}}, (9, 5, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": None}, (9, 5, 0)),
        ({"prompt_tokens": -1, "completion_tokens": 5}, None),
        ({"prompt_tokens": 1, "completion_tokens": -5}, None),
        ({"prompt_tokens": "3"}, None),
        ({"prompt_tokens": 3.5}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0, 0)),
        ({"prompt_tokens": 0}, (0, 0, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 1}}, (9, 0, 1)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 9}}, (9, 0, 9)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 0}}, (9, 0, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {}}, (9, 0, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": types.MappingProxyType({"cached_tokens": 5})}, (9, 0, 5)),
        (types.MappingProxyType({"prompt_tokens": 3, "completion_tokens": 5}), (3, 5, 0)),
        ({"prompt_tokens": 10**12, "completion_tokens": 10**12}, (10**12, 10**12, 0)),
        ({"prompt_tokens": 10**12 + 1, "completion_tokens": 1}, None),
        ({"prompt_tokens": 1, "completion_tokens": 10**12 + 1}, None),
        ({"prompt_tokens": 3, "completion_tokens": "5"}, None),
        ({"prompt_tokens": 3, "completion_tokens": None}, None),
        ({"completion_tokens": 5}, None),
        ({}, None),
        (None, None),
        ([3, 5], None),
    ],
)
def test_usage_is_read_or_there_is_none(usage: Any, found: tuple[int, int, int] | None) -> None:
    assert found == usage_of({"usage": usage})


def test_an_answer_without_usage_has_none() -> None:
    assert usage_of({"text": "transcript"}) is None


def test_the_repr_of_an_answer_shows_its_text_first():
    answer = Completion({"id": "x", "choices": [{"message": {"content": "Paris."}}]}, attempts=2, waited=0.25)

    assert repr(answer).startswith("Completion(text='Paris.', attempts=2, waited=0.25, {'id': 'x', 'choices'")


def test_a_pickled_answer_names_the_public_class():
    """
    So answers that were pickled can be read wherever the class lies in a later version.
    """
    body = decode_object(b'{"choices": [{"text": "a"}], "usage": {"total_tokens": 3}}')
    answer = Completion(body, custom_id="c", attempts=2, waited=1.5)

    pickled = pickle.dumps(answer)
    back = pickle.loads(pickled)

    assert b"groq_queue.core" not in pickled
    assert (Completion, answer) == (type(back), back)
    assert ("c", 2, 1.5, 3, "a") == (
        back.custom_id, back.attempts, back.waited, back.usage.total_tokens, back.choices[0].text,
    )  # fmt: skip

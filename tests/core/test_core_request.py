"""What was submitted: checked, made a payload, and kept as bytes."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import types
from enum import Enum, IntEnum
from typing import Any

import pytest

from groq_queue.core import request as core_request
from groq_queue.core.request import (
    MAX_PAYLOAD_BYTES,
    Request,
    State,
    build_payload,
    encode_payload,
    head_of_prompt,
    lane_of,
    lower_cap,
    normal_form,
    tier_of,
)
from groq_queue.core.token_estimate import PromptSize
from groq_queue.errors import ConfigurationError

CHAT = "chat/completions"


def build(content: Any = None, messages: Any = None, model: Any = "m", endpoint: str = CHAT, **params: Any) -> Any:
    return build_payload(content, messages, model, params, endpoint)


class Role(str):
    """A kind of str, as some libraries have for roles."""


# -- what may be submitted


def test_a_str_is_one_message_of_the_user() -> None:
    assert {"messages": [{"role": "user", "content": "hi"}], "model": "m"} == build("hi")


@pytest.mark.parametrize("wrap", [list, tuple, collections.UserList])
def test_a_sequence_is_the_messages(wrap: Any) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]

    by_position, by_keyword = build(wrap(messages)), build(messages=wrap(messages))

    assert messages == list(by_position["messages"]) == list(by_keyword["messages"])


@pytest.mark.parametrize("wrap", [dict, types.MappingProxyType, collections.OrderedDict])
def test_a_mapping_is_a_whole_payload_and_stays_the_callers(wrap: Any) -> None:
    mine = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}

    payload = build(wrap(mine), seed=7)

    assert {**mine, "model": "m", "seed": 7} == payload
    assert {"messages", "temperature"} == mine.keys()


def test_the_payloads_own_model_wins_over_the_default() -> None:
    assert "own" == build({"model": "own", "messages": [{"role": "user"}]}, model="default")["model"]
    assert "default" == build({"model": None, "messages": [{"role": "user"}]}, model="default")["model"]


def test_what_is_not_ours_passes_untouched() -> None:
    assert {"temperature": 0, "made_up": [1]}.items() <= build("hi", temperature=0, made_up=[1]).items()


def test_other_endpoints_need_no_messages() -> None:
    assert {"model": "m", "input": ["a"]} == build(endpoint="embeddings", input=["a"])


@pytest.mark.parametrize("content", [print, lambda: None, type("Fn", (), {"__call__": lambda self: 1})()])
def test_a_callable_is_sent_to_submit_call(content: Any) -> None:
    with pytest.raises(TypeError, match=r"submit_call\(fn, \*args\)") as caught:
        build(content)

    assert not isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize(
    ("content", "more", "named"),
    [
        (None, {}, "messages: nothing to send"),
        ({}, {}, "messages: nothing to send"),
        ("hi", {"messages": [{"role": "user"}]}, "messages="),
        ([], {}, "messages=[]"),
        (b"hi", {}, "prompt=b'hi'"),
        (bytearray(b"hi"), {}, "prompt=bytearray"),
        (5, {}, "prompt=5"),
        ({"a"}, {}, "prompt={'a'}"),
        (iter("ab"), {}, "prompt=<str_"),
        (["hi"], {}, "messages[0]='hi'"),
        ([{"role": "user"}, None], {}, "messages[1]=None"),
        ([{"content": "hi"}], {}, "messages[0]['role']=None"),
        ([{"role": 5}], {}, "messages[0]['role']=5"),
        (None, {"messages": "hi"}, "messages='hi'"),
        (None, {"messages": {"role": "user"}}, "messages={'role'"),
        (None, {"messages": b"hi"}, "messages=b'hi'"),
        (None, {"messages": {1}}, "messages={1}"),
        ({"messages": 5}, {}, "messages=5"),
        ("hi", {"model": None}, "model=None"),
        ("hi", {"model": " "}, "model=' '"),
        ("hi", {"model": 7}, "model=7"),
        ({"model": ["m"], "messages": [{"role": "user"}]}, {}, "model=['m']"),
        ("hi", {"stream": True}, "stream=True"),
        ({"stream": 1, "messages": [{"role": "user"}]}, {}, "stream=True"),
        ([], {"messages": [{"role": "user"}]}, "messages="),
        (5, {"messages": []}, "messages="),
        (None, {"messages": []}, "messages=[]"),
        (None, {"messages": bytearray(b"hi")}, "messages[0]="),
    ],
)
def test_what_cannot_be_sent_is_named(content: Any, more: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(content, **more)

    assert named in str(caught.value)


def test_messages_among_the_parameters_are_looked_at_although_the_prompt_is_a_str() -> None:
    with pytest.raises(ConfigurationError, match=r"^messages=5: "):
        build_payload("hi", None, "m", {"messages": 5}, CHAT)


def test_another_endpoint_may_be_sent_messages_of_any_shape() -> None:
    assert {"model": "m", "messages": 5} == build({"messages": 5}, endpoint="responses")


def test_stream_may_be_named_if_it_is_false() -> None:
    assert build("hi", stream=False)["stream"] is False


@pytest.mark.parametrize(
    "message", [{"role": "user"}, types.MappingProxyType({"role": "user"}), {"role": Role("user"), "content": None}]
)
def test_a_message_is_any_mapping_with_a_role(message: Any) -> None:
    assert [message] == build([message])["messages"]


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(b"x" * 10_000_000)

    assert len(str(caught.value)) < 300


# -- what JSON can carry


class Colour(str, Enum):
    RED = "red"


class Number(IntEnum):
    TWO = 2


def test_the_payload_is_compact_utf_8() -> None:
    assert '{"a":"é\\n\U0001f600","b":[1,null,true,0.5]}'.encode() == encode_payload(
        {"a": "é\n\U0001f600", "b": (1, None, True, 0.5)}
    )


def test_the_payload_keeps_the_order_of_its_keys() -> None:
    assert b'{"b":1,"a":{"d":2,"c":3}}' == encode_payload({"b": 1, "a": {"d": 2, "c": 3}})


def test_without_the_interpreters_own_encoder_the_bytes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = {"b": "\u00e9\n", "a": [1, None, {"d": 0.5, "c": ()}]}
    expected = encode_payload(payload)
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    monkeypatch.setattr(core_request, "_encode", core_request._make_encode())

    assert expected == encode_payload(payload)
    with pytest.raises(ConfigurationError, match=r"^payload\['a'\]=nan; JSON cannot carry it$"):
        encode_payload({"a": float("nan")})
    with pytest.raises(ConfigurationError, match="half of a surrogate pair"):
        encode_payload({"a": "\ud800"})


def test_kinds_of_str_and_int_are_written_as_their_values() -> None:
    assert b'{"a":"red","b":2}' == encode_payload({"a": Colour.RED, "b": Number.TWO})


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (float("nan"), "payload['a'][1]['b']=nan"),
        (float("inf"), "payload['a'][1]['b']=inf"),
        (float("-inf"), "payload['a'][1]['b']=-inf"),
        (b"x", "payload['a'][1]['b']=b'x' is a bytes"),
        ({1}, "payload['a'][1]['b']={1} is a set"),
        (1j, "payload['a'][1]['b']=1j is a complex"),
        (print, "payload['a'][1]['b']=<built-in function print> is a builtin"),
        (types.MappingProxyType({}), "payload['a'][1]['b']=mappingproxy({}) is a mappingproxy"),
        ({(1, 2): 3}, "payload['a'][1]['b']: the key (1, 2) is not a str"),
        ({1: 2}, "payload['a'][1]['b']: the key 1 is not a str"),
        ({None: 2}, "payload['a'][1]['b']: the key None is not a str"),
        ({True: 2}, "payload['a'][1]['b']: the key True is not a str"),
        ([0, {"c": float("nan")}], "payload['a'][1]['b'][1]['c']=nan"),
        ((0.5, [None, float("nan")]), "payload['a'][1]['b'][1][1]=nan"),
        ({"c": 1, "d": {2}}, "payload['a'][1]['b']['d']={2} is a set"),
        ({"c": {"d": 1}, 2: 3}, "payload['a'][1]['b']: the key 2 is not a str"),
        ({"k" * 99: 0, b"k" * 99: 0}, "payload['a'][1]['b']: the key b'" + "k" * 48 + " is not a str"),
    ],
)
def test_what_json_cannot_carry_is_named_by_its_path(value: Any, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        encode_payload({"a": [0, {"b": value}]})

    assert str(caught.value).startswith(named)
    assert str(caught.value).endswith("JSON cannot carry it")


@pytest.mark.parametrize("payload", [{"a": "say \ud800"}, {"a": ["\udfff"]}, {"\ud800": 1}, {"a": {"b\udc00": 1}}])
def test_half_a_surrogate_pair_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="half of a surrogate pair after"):
        encode_payload(payload)


@pytest.mark.parametrize(
    ("text", "near"), [("abc\ud800def", '{"a":"abc'), ("0123456789abcdefghijklmnopq\udfff", "789abcdefghijklmnopq")]
)
def test_what_stands_before_half_a_surrogate_pair_is_told(text: str, near: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        encode_payload({"a": text})

    assert f"payload: holds half of a surrogate pair after {near!r}; JSON cannot carry it" == str(caught.value)


@pytest.mark.parametrize("payload", [{1: 2}, {"a": 1, 2: 3}, {b"a": 1}])
def test_a_key_of_the_payload_itself_is_a_str(payload: dict[Any, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"^payload: the key .* is not a str; JSON cannot carry it$"):
        encode_payload(payload)


def test_a_path_of_300_characters_is_told_whole_and_a_longer_one_by_both_ends() -> None:
    told = []
    for length in (285, 286):
        with pytest.raises(ConfigurationError) as caught:
            encode_payload({"k" * length: float("nan")})
        told.append(str(caught.value))

    assert f"payload['{'k' * 285}']=nan; JSON cannot carry it" == told[0]
    assert f"payload['{'k' * 141}…{'k' * 144}']=nan; JSON cannot carry it" == told[1]


def test_a_number_of_five_thousand_digits_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="payload"):
        encode_payload({"a": 10**5_000})


def test_a_payload_that_holds_itself_is_refused() -> None:
    payload: dict[str, Any] = {"a": []}
    payload["a"].append(payload)

    with pytest.raises(ConfigurationError, match=r"^payload\['a'\]\[0\]\['a'\].*holding itself"):
        encode_payload(payload)


def test_a_payload_nested_a_hundred_thousand_deep_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(ConfigurationError, match="nested deeper than 100 levels"):
        encode_payload({"a": deep})


def test_a_payload_may_be_nested_as_deep_as_documented() -> None:
    for wrap in (lambda inner: [inner], lambda inner: (inner,), lambda inner: {"k": inner}):
        nested: Any = 1
        for _ in range(99):
            nested = wrap(nested)

        assert 1 == encode_payload({"a": nested}).count(b"1")
        with pytest.raises(ConfigurationError, match="nested deeper than 100 levels, or holding itself"):
            encode_payload({"a": wrap(nested)})


def test_what_json_cannot_carry_is_named_at_the_deepest_level_too() -> None:
    nested: Any = float("nan")
    for _ in range(99):
        nested = [nested]

    with pytest.raises(ConfigurationError, match=r"\[0\]\[0\]=nan; JSON cannot carry it$"):
        encode_payload({"a": nested})


def test_a_payload_may_fill_ten_mebibytes_and_no_more() -> None:
    frame = len(encode_payload({"a": ""}))

    full = encode_payload({"a": "é" * ((MAX_PAYLOAD_BYTES - frame) // 2)})
    with pytest.raises(ConfigurationError) as caught:
        encode_payload({"a": "x" * (MAX_PAYLOAD_BYTES - frame + 1)})

    assert MAX_PAYLOAD_BYTES == 10 * 1024 * 1024 == len(full)
    assert "10,485,761 bytes" in str(caught.value)
    assert "10,485,760" in str(caught.value)


def test_the_largest_size_may_be_another() -> None:
    assert 8 == len(encode_payload({"a": 12}, 8))
    with pytest.raises(ConfigurationError) as caught:
        encode_payload({"a": 12}, 7)

    assert "payload: 8 bytes, more than max_payload_bytes=7: shorten it, or raise that bound" == str(caught.value)


def test_the_bytes_are_a_snapshot() -> None:
    """
    What the caller does to the messages after ``submit`` changes nothing.
    """
    messages = [{"role": "user", "content": "before"}]
    body = encode_payload(build(messages))

    messages[0]["content"] = "after"
    messages.append({"role": "user", "content": "more"})

    assert {"messages": [{"role": "user", "content": "before"}], "model": "m"} == json.loads(body)


# -- the request


def test_a_request_starts_pending_with_an_id_of_its_own() -> None:
    one, two = (
        Request(model="m", endpoint=CHAT, body=b"{}", size=PromptSize(1, 1), priority=5, custom_id=custom_id)
        for custom_id in (None, "row 7")
    )

    assert State.PENDING is one.state
    assert one.id != two.id
    assert f"request {one.id[:8]}" == str(one)
    assert "request 'row 7'" == str(two)
    assert (0, 0, 0, 0) == (one.attempts, one.retries, one.unknown, one.arrival)


def test_a_request_keeps_what_it_was_made_of() -> None:
    size, call = PromptSize(7, 3), object()

    full = Request(
        "model",
        "embeddings",
        b"body",
        size,
        8,
        "client",
        "row 7",
        "flex",
        max_wait_ns=1,
        deadline_ns=2,
        not_before_ns=3,
        turn_cost=4,
        shrinks=True,
        request_id="mine",
        call=call,
    )

    assert ("model", "embeddings", b"body", size) == (full.model, full.endpoint, full.body, full.size)
    assert (8, 8, "client", "row 7") == (full.priority, full.rank, full.client, full.custom_id)
    assert (1, 2, 3, 4) == (full.max_wait_ns, full.deadline_ns, full.not_before_ns, full.turn_cost)
    assert ("mine", "model (flex)") == (full.id, full.lane)
    assert full.shrinks is True
    assert call is full.call


def test_a_request_of_which_nothing_is_said_has_no_bounds_and_has_not_begun() -> None:
    plain = Request("model", "embeddings", None, PromptSize(1, 1), 5)

    assert ("default", None, "model") == (plain.client, plain.custom_id, plain.lane)
    assert (None, None, None, 1) == (plain.max_wait_ns, plain.deadline_ns, plain.not_before_ns, plain.turn_cost)
    assert (False, False, False) == (plain.shrinks, plain.was_taken, plain.is_paged_out)
    assert (0, 0, 0, 0) == (plain.attempts, plain.retries, plain.refusals, plain.unknown)
    assert (0, None, 0, None) == (plain.submitted_ns, plain.started_ns, plain.arrival, plain.seq)
    assert (None, None, None, None) == (plain.call, plain.row_id, plain.future, plain.last_error)
    assert (None, ()) == (plain.due_ns, plain.timers)
    assert (0, False, None, None) == (plain.overtaken, plain.was_stale, plain.refused_ns, plain.failing_ns)
    assert State.PENDING is plain.state


def test_a_request_that_has_what_most_have_stores_no_more() -> None:
    """
    A million may wait; a dictionary of its own would cost each half a kilobyte.
    """
    plain = Request("m", CHAT, None, PromptSize(1, 1), 5)
    bounded = Request("m", CHAT, None, PromptSize(1, 1), 5, deadline_ns=7)

    assert {} == plain.__dict__
    assert {"deadline_ns": 7} == bounded.__dict__


@pytest.mark.parametrize(
    ("payload", "tier"),
    [
        ({}, None),
        ({"service_tier": None}, None),
        ({"service_tier": "auto"}, None),
        ({"service_tier": "on_demand"}, None),
        ({"service_tier": 5}, None),
        ({"service_tier": "flex"}, "flex"),
    ],
)
def test_only_a_tier_with_budgets_of_its_own_is_one(payload: dict[str, Any], tier: str | None) -> None:
    assert tier == tier_of(payload)
    assert ("m" if tier is None else "m (flex)") == lane_of("m", tier)


def test_a_tier_has_a_lane_of_its_own() -> None:
    request = Request(model="m", endpoint=CHAT, body=b"{}", size=PromptSize(1, 1), priority=5, tier="flex")

    assert ("m", "m (flex)") == (request.model, request.lane)


# -- its id


def test_an_id_is_32_hex_digits_and_stays() -> None:
    made = [Request(model="m", endpoint="e", body=b"{}", size=PromptSize(1, 1), priority=5) for _ in range(1_000)]
    ids = [request.id for request in made]

    assert 1_000 == len(set(ids))
    assert all(32 == len(id) and int(id, 16) >= 0 for id in ids)
    assert ids == [request.id for request in made]
    given = Request(model="m", endpoint="e", body=b"{}", size=PromptSize(1, 1), priority=5, request_id="mine")
    assert "mine" == given.id


_TWO_PROCESSES = """
import os, random
random.seed(0)
from groq_queue.core.token_estimate import PromptSize
from groq_queue.core.request import Request
random.seed(0)
request = lambda: Request(model="m", endpoint="e", body=b"{}", size=PromptSize(1, 1), priority=5)
before, child = request(), os.fork()
if child:
    os.waitpid(child, 0)
print(before.id, request().id, request().id, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_other_process_has_the_same_ids() -> None:
    """
    Neither a forked child, but for a request it inherits, nor the same program started again with a seed of its own.
    """
    told = [
        subprocess.run([sys.executable, "-c", _TWO_PROCESSES], capture_output=True, text=True, check=True, timeout=60)
        for _ in range(2)
    ]
    lines = [line.split() for done in told for line in done.stdout.splitlines()]

    assert 4 == len(lines)
    assert lines[0][0] == lines[1][0]
    assert 10 == len({id for line in lines for id in line})


# -- two payloads that ask for the same


def test_payloads_that_differ_in_the_order_of_keywords_or_inside_messages_ask_for_the_same() -> None:
    one = b'{"model": "m", "messages": [{"role": "user", "content": "\\u00e9"}], "temperature": 0}'
    two = '{"temperature":0,"messages":[{"content":"\u00e9","role":"user"}],"model":"m"}'.encode()

    assert normal_form(one) == normal_form(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (b'{"tools": {"a": 1, "b": 2}}', b'{"tools": {"b": 2, "a": 1}}'),
        (b'{"messages": [1, 2]}', b'{"messages": [2, 1]}'),
        (b'{"a": 1}', b'{"a": "1"}'),
        (b'{"a": 1}', b'{"b": 1}'),
        (b"{}", b'{"a": null}'),
    ],
)
def test_payloads_that_differ_in_anything_else_do_not(one: bytes, two: bytes) -> None:
    assert normal_form(one) != normal_form(two)


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"", b"{"])
def test_what_is_no_object_has_no_normal_form(body: bytes) -> None:
    with pytest.raises(ValueError):
        normal_form(body)


# -- a lower allowance


@pytest.mark.parametrize(
    ("body", "by", "lowered"),
    [
        (b'{"max_tokens":50}', 20, (b'{"max_tokens":30}', 30)),
        (b'{"max_completion_tokens":50}', 49, (b'{"max_completion_tokens":1}', 1)),
        (b'{"max_completion_tokens":50}', 50, None),
        (
            b'{"max_tokens":9,"max_completion_tokens":50,"b":1,"a":2}',
            20,
            (b'{"max_tokens":9,"max_completion_tokens":30,"b":1,"a":2}', 30),
        ),
        (b'{"max_completion_tokens":null,"max_tokens":50}', 1, (b'{"max_completion_tokens":null,"max_tokens":49}', 49)),
        (b'{"max_completion_tokens":true,"max_tokens":50}', 1, (b'{"max_completion_tokens":true,"max_tokens":49}', 49)),
        (b'{"max_tokens":"50"}', 1, None),
        (b'{"max_tokens":50.5}', 1, None),
        (b"{}", 1, None),
    ],
)
def test_the_allowance_of_a_payload_is_lowered_and_the_rest_left(
    body: bytes, by: int, lowered: tuple[bytes, int] | None
) -> None:
    assert lowered == lower_cap(body, by)


@pytest.mark.parametrize(
    ("payload", "head"),
    [
        ({"messages": [{"role": "user", "content": "Why?"}]}, "Why?"),
        ({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}, "Why?"),
        ({"messages": [{"content": "Be brief."}, {"content": [{"type": "text", "text": "Really?"}]}]}, "Really?"),
        ({"input": ["first", "second"]}, "first"),
        ({"prompt": 'a "quoted" one, ü'}, 'a "quoted" one, ü'),
        ({"messages": [{"content": "x" * 70}], "text": {"format": {"type": "text"}}}, "x" * 60 + "…"),
        ({"messages": [{"content": "long ago" + "x" * 100_000}, {"content": "of late"}]}, "of late"),
        ({"messages": [{"content": 'he wrote "content": "no"'}]}, 'he wrote "content": "no"'),
        ({"messages": [{"content": ""}], "model": "m"}, ""),
        ({"file": "x.wav"}, ""),
    ],
)
def test_the_head_of_a_prompt_is_what_is_asked_last(payload: dict[str, Any], head: str) -> None:
    assert head == head_of_prompt(encode_payload(payload, MAX_PAYLOAD_BYTES))

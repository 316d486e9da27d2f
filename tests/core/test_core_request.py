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

from groq_queue.core.pricing import Size
from groq_queue.core.request import MAX_PAYLOAD_BYTES, Request, State, build_payload, encode_payload
from groq_queue.errors import ConfigurationError

CHAT = "chat/completions"


def build(content: Any = None, messages: Any = None, model: Any = "m", endpoint: str = CHAT, **params: Any) -> Any:
    return build_payload(content, messages, model, params, endpoint)


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
    ],
)
def test_what_cannot_be_sent_is_named(content: Any, more: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(content, **more)

    assert named in str(caught.value)


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
    nested: Any = 1
    for _ in range(99):
        nested = [nested]

    assert b"[" * 99 in encode_payload({"a": nested})
    with pytest.raises(ConfigurationError):
        encode_payload({"a": [nested]})


def test_a_payload_may_fill_ten_mebibytes_and_no_more() -> None:
    frame = len(encode_payload({"a": ""}))

    full = encode_payload({"a": "é" * ((MAX_PAYLOAD_BYTES - frame) // 2)})
    with pytest.raises(ConfigurationError) as caught:
        encode_payload({"a": "x" * (MAX_PAYLOAD_BYTES - frame + 1)})

    assert MAX_PAYLOAD_BYTES == 10 * 1024 * 1024 == len(full)
    assert "10,485,761 bytes" in str(caught.value)
    assert "10,485,760" in str(caught.value)


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
        Request(model="m", endpoint=CHAT, body=b"{}", size=Size(1, 1), priority=5, custom_id=custom_id)
        for custom_id in (None, "row 7")
    )

    assert State.PENDING is one.state
    assert one.id != two.id
    assert f"request {one.id[:8]}" == str(one)
    assert "request 'row 7'" == str(two)
    assert (0, 0, 0, 0) == (one.attempts, one.retries, one.unknown, one.arrival)


def test_a_tier_has_a_lane_of_its_own() -> None:
    request = Request(model="m", endpoint=CHAT, body=b"{}", size=Size(1, 1), priority=5, tier="flex")

    assert ("m", "m (flex)") == (request.model, request.lane)


# -- its id


def test_an_id_is_32_hex_digits_and_stays() -> None:
    made = [Request(model="m", endpoint="e", body=b"{}", size=Size(1, 1), priority=5) for _ in range(1_000)]
    ids = [request.id for request in made]

    assert 1_000 == len(set(ids))
    assert all(32 == len(id) and int(id, 16) >= 0 for id in ids)
    assert ids == [request.id for request in made]
    given = Request(model="m", endpoint="e", body=b"{}", size=Size(1, 1), priority=5, request_id="mine")
    assert "mine" == given.id


_TWO_PROCESSES = """
import os, random
random.seed(0)
from groq_queue.core.pricing import Size
from groq_queue.core.request import Request
random.seed(0)
request = lambda: Request(model="m", endpoint="e", body=b"{}", size=Size(1, 1), priority=5)
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

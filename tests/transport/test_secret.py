"""The key shows itself only when asked."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from urllib.parse import quote

import pytest

from groq_queue.errors import ConfigurationError
from groq_queue.transport import Secret

KEY = "gsk_SENTINEL+/sentinel0123456789WXYZ"


def test_a_secret_shows_a_mask():
    """
    repr, str, format and containers show four characters at the end; vars has nothing to show.
    """
    secret = Secret(KEY)

    assert "gsk_…WXYZ" == repr(secret) == str(secret) == f"{secret}"
    assert "[gsk_…WXYZ]" == str([secret])
    assert not hasattr(secret, "__dict__")
    assert KEY == secret.reveal()


def test_a_short_secret_shows_nothing():
    """
    Four of fifteen characters would be too many.
    """
    assert "…" == repr(Secret("a" * 15))
    assert "…aaaa" == repr(Secret("a" * 16))


def test_a_secret_is_not_pickled_but_may_be_copied():
    """
    Copying stays in this process.
    """
    secret = Secret(KEY)

    with pytest.raises(TypeError, match="environment"):
        pickle.dumps(secret)
    assert secret is copy.copy(secret)
    assert secret is copy.deepcopy(secret)


def test_secrets_are_compared_by_value():
    """
    Equal keys are equal, hash alike and have one fingerprint; a str is not a Secret.
    """
    assert Secret(KEY) == Secret(KEY)
    assert Secret(KEY) != Secret(KEY + "x")
    assert Secret(KEY) != KEY
    assert 1 == len({Secret(KEY), Secret(KEY)})
    assert Secret(KEY).fingerprint() == Secret(KEY).fingerprint() != Secret(KEY + "x").fingerprint()
    assert 12 == len(Secret(KEY).fingerprint())


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (5, "int"),
        (None, "NoneType"),
        (b"gsk_x", "bytes"),
        ("", "empty"),
        ("gsk_hidden\n", "white space"),
        ("gsk hidden", "white space"),
        ("gsk_hidden\x00", "control"),
        ("gsk_hiddén", "ASCII"),
    ],
)
def test_an_unusable_key_is_refused_without_repeating_it(value, why: str):
    """
    The message names the field and the fault.
    """
    with pytest.raises(ConfigurationError) as caught:
        Secret(value, field="GROQ_API_KEY")

    assert str(caught.value).startswith("GROQ_API_KEY")
    assert why in str(caught.value)
    assert "hidd" not in str(caught.value)


@pytest.mark.parametrize("lead", ["", "x", "xy", "Bearer "])
def test_redaction_finds_the_key_in_every_spelling(lead: str):
    """
    Raw, percent-encoded, and in base64 at any offset.
    """
    secret = Secret(KEY)
    spelled = base64.b64encode((lead + KEY + "!").encode()).decode()

    assert f"{lead}gsk_…WXYZ!" == secret.redact(f"{lead}{KEY}!")
    assert "gsk_…WXYZ" == secret.redact(quote(KEY, safe=""))
    assert "gsk_…WXYZ" in secret.redact(spelled)
    assert len(secret.redact(spelled)) < len(spelled) - len(KEY)  # what is left belongs to the neighbours


@pytest.mark.parametrize("key", ["gsk_a+/b", KEY, "sk-?>?>?>?>"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("lead", [b"", b"u", b"us", b"use", b"user"])
def test_no_base64_of_the_key_is_left(key: str, encode, lead: bytes):
    """
    At any offset: the digits that hold nothing but bits of the key are gone, and no others.
    """
    spelled = encode(lead + key.encode() + b"tail").decode()
    first, end = len(lead) * 8, len(lead + key.encode()) * 8
    pure = [digit for digit in range(len(spelled)) if first <= digit * 6 and digit * 6 + 6 <= end]

    shown = Secret(key).redact(spelled)

    assert spelled[: pure[0]] + repr(Secret(key)) + spelled[pure[-1] + 1 :] == shown
    assert shown.encode() == Secret(key).redact_bytes(spelled.encode())


@pytest.mark.parametrize(("length", "shown"), [(7, "is aaaaaaa"), (8, "is …")])
def test_only_what_is_long_enough_for_a_key_is_replaced(length: int, shown: str):
    """
    Seven letters may stand in any text.
    """
    secret = Secret("a" * length)

    assert shown == secret.redact("is " + "a" * length)
    assert shown.encode() == secret.redact_bytes(b"is " + b"a" * length)


def test_every_place_of_the_key_is_masked():
    """
    However often it comes back.
    """
    assert "gsk_…WXYZ, gsk_…WXYZ" == Secret(KEY).redact(f"{KEY}, {KEY}")
    assert "gsk_…WXYZ, gsk_…WXYZ".encode() == Secret(KEY).redact_bytes(f"{KEY}, {KEY}".encode())


def test_a_secret_answers_for_others_as_python_expects():
    """
    What it is not made to be compared with may know better.
    """

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

    assert Secret(KEY) == Equal()
    assert NotImplemented is Secret(KEY).__eq__(KEY)


def test_redacted_json_is_still_json():
    """
    The mask holds no quote and no backslash.
    """
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()

    assert "Incorrect API key provided: gsk_…WXYZ" == json.loads(Secret(KEY).redact_bytes(body))["error"]["message"]


def test_innocent_bytes_are_not_copied():
    """
    Most answers hold no key; a placeholder key of a few letters mauls none.
    """
    body = b'{"x": "sim"}'

    assert body is Secret(KEY).redact_bytes(body)
    assert body is Secret("sim").redact_bytes(body)

"""A file says what the constructor would be told, and every mistake in it is named by its place."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from pathlib import Path

import pytest
from extras import needs

from groq_queue import ConfigurationError, GroqQueue, Limits, MissingExtraError
from groq_queue.wiring.config_file import read_config

KEY = "gsk_a_key_that_nobody_may_see_1234"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("GROQ_API_KEY", "GROQ_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path):
    def write(content, name=None):
        is_text = isinstance(content, str)
        path = tmp_path / (name or ("queue.toml" if is_text else "queue.json"))
        path.write_text(content if is_text else json.dumps(content))
        path.chmod(0o600)
        return path

    return write


TOML = "tomllib" if sys.version_info >= (3, 11) else "tomli"
PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


def toml(file, text):
    needs(TOML)
    return read_config(file(text))


def test_toml_says_what_the_constructor_is_told(file):
    options = toml(
        file,
        'model = "m"\nmax_workers = 3\ntimeout = [2, 30.5]\nageing = 60\nallow_http = true\n'
        "[limits]\nrpm = 30\ntpm = 6_000\n[prices]\nm = [0.05, 0.08]\n",
    )

    assert {
        "model": "m",
        "max_workers": 3,
        "timeout": (2, 30.5),
        "ageing": 60,
        "allow_http": True,
        "limits": Limits(rpm=30, tpm=6_000),
        "prices": {"m": (0.05, 0.08)},
    } == options


def test_json_says_the_same_and_null_is_none(file):
    path = file({"model": "m", "max_pending": None, "limits": {"a/b": {"rpm": 1}, "c": {"tpd": 2, "day_s": 10}}})

    assert {
        "model": "m",
        "max_pending": None,
        "limits": {"a/b": Limits(rpm=1), "c": Limits(tpd=2, day_s=10)},
    } == read_config(path)


def test_models_have_limits_addresses_and_keys_of_their_own(file, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "from-the-environment")
    options = toml(
        file,
        f'api_key = "{KEY}"\n[models.a]\nlimits = {{rpm = 10}}\n'
        '[models."b/c"]\nbase_url = "https://elsewhere.example/v1"\napi_key_env = "OTHER_KEY"\nlimits = {rpm = 20}\n',
    )

    assert {"a": Limits(rpm=10), "b/c": Limits(rpm=20)} == options["limits"]
    assert {"a": (None, KEY), "b/c": ("https://elsewhere.example/v1", "from-the-environment")} == options["accounts"]
    assert KEY == options["api_key"]


def test_what_is_passed_wins_over_the_file(file):
    path = file({"model": "m", "api_key_env": "NOT_SET_ANYWHERE", "max_workers": 3})

    with GroqQueue.from_config(path, api_key="other", max_workers=1, model="n") as queue:
        assert "n" == queue._settings.model


WRONG = [
    ({"max_worker": 3}, "max_worker is unknown: did you mean 'max_workers'?"),
    ({"api-key": KEY}, "api-key is unknown: did you mean 'api_key'?"),
    ({"session": 1}, "session is unknown"),
    ({"max_workers": "8"}, "max_workers is '8': use a whole number"),
    ({"max_workers": True}, "max_workers is True: use a whole number"),
    ({"model": 3}, "model is 3: use a text"),
    ({"api_key": 5}, "api_key is int: use a text"),
    ({"allow_http": 1}, "allow_http is 1: use true or false"),
    ({"limits": 5}, "limits is 5: use a table"),
    ({"limits": {"rpn": 5}}, "limits.rpn is unknown: did you mean 'rpm'?"),
    ({"limits": {"rpm": "ten"}}, "limits.rpm='ten': a limit is a whole number >= 1"),
    ({"limits": {"llama": {"rpm": 0}}}, "limits.llama.rpm=0: a limit is a whole number"),
    ({"models": {"llama": {"limits": {"rpm": -1}}}}, "models.llama.limits.rpm=-1: a limit"),
    ({"models": {"llama": {"limit": {"rpm": 1}}}}, "models.llama.limit is unknown: did you mean 'limits'?"),
    ({"models": {"llama": 5}}, "models.llama is 5: use a table"),
    ({"models": {"a.b": {"base_url": 5}}}, 'models."a.b".base_url is 5: use a text'),
    ({"models": {"m": {"limits": {"rpm": 1}}}, "limits": {"rpm": 2}}, "limits is given together with models"),
    ({"api_key": KEY, "api_key_env": "X"}, "api_key_env is given together with api_key"),
    ({"api_key_env": "NOT_SET_ANYWHERE"}, "api_key_env names 'NOT_SET_ANYWHERE', which is not set"),
    ({"api_key": "YOUR_API_KEY"}, "api_key is a placeholder"),
    ({"prices": {"m": [1]}}, "prices.m is no pair"),
    ({}, "is empty"),
    ([1], "holds a JSON list"),
]


@pytest.mark.parametrize(("content", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_a_mistake_is_named_by_file_and_place(file, content, said):
    path = file(content)

    with pytest.raises(ConfigurationError) as caught:
        read_config(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


BROKEN = [
    ('{"model": "m",\n "limits": }', "json", "line 2, column 12"),
    ('{"model": "m", "model": "n"}', "json", "'model' appears twice"),
    ('model = "m"\nmax_workers = = 3\n', "toml", "line 2, column 15"),
    ('{"a":' * 100_000, "json", "nested too deep"),
]


@pytest.mark.parametrize(("text", "suffix", "said"), BROKEN, ids=[said for _, _, said in BROKEN])
def test_a_broken_file_is_told_with_line_and_column(file, text, suffix, said):
    if suffix == "toml":
        needs(TOML)
    with pytest.raises(ConfigurationError, match=said):
        read_config(file(text, f"queue.{suffix}"))


@pytest.mark.parametrize("path", ["", 5, None, "queue.yaml", "a\0b.json"])
def test_what_is_no_path_of_a_config_is_refused(path):
    with pytest.raises(ConfigurationError, match="path="):
        read_config(path)


def test_files_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"model": "\xe9"}')
    (tmp_path / "folder.json").mkdir()

    for name, said in (("none.json", "No such file"), ("folder.json", "directory"), ("latin.json", "byte 11")):
        with pytest.raises(ConfigurationError, match=said):
            read_config(tmp_path / name)


def test_toml_without_a_parser_names_the_extra(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)

    with pytest.raises(MissingExtraError, match=r"'toml'.*pip install 'tomli>=.*use JSON"):
        read_config(file('model = "m"'))


def test_tomli_takes_the_place_of_tomllib(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomli", needs(TOML))  # they are one module under two names
    monkeypatch.setitem(sys.modules, "tomllib", None)

    assert {"model": "m"} == read_config(file('model = "m"'))


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_key_that_others_may_read_is_warned_about_once(file):
    path = file({"api_key": KEY})
    path.chmod(0o644)

    with pytest.warns(UserWarning, match=r"mode 644.*chmod 600") as told:
        GroqQueue.from_config(path).shutdown()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GroqQueue.from_config(path).shutdown()

    assert [__file__] == [warning.filename for warning in told]
    assert KEY not in str(told[0].message)


def test_nothing_is_warned_about_where_no_key_stands(file):
    path = file({"model": "m"})
    path.chmod(0o644)

    assert {"model": "m"} == read_config(path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"api_key": KEY, "max_worker": 1}),
        json.dumps({"api_key": KEY, "max_workers": -1}),
        json.dumps({"api_key": [KEY]}),
        json.dumps({"api_key": KEY + " "}),
        json.dumps({"apikey": KEY}),
        json.dumps({"models": {"m": {"api_key": [KEY]}}}),
        json.dumps({"m": {"api_key": [KEY], "req_per_minute": 1}}),
        json.dumps({"m": {"api_key": KEY, "req_per_minute": 1}}),
        json.dumps({"api_key": KEY}) + ",",
    ],
)
def test_no_error_shows_the_key(file, text):
    """
    Neither its text, nor its repr, nor what is chained to it.
    """
    with pytest.raises(ConfigurationError) as caught:
        GroqQueue.from_config(file(text, "queue.json"))

    error = caught.value
    assert KEY not in "".join(traceback.format_exception(error)) + repr(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__ or KEY not in repr(vars(error.__context__))


# CustomGroqChat's.

THEIRS = {
    "gemma2-9b-it": {
        "base_url": "https://api.groq.com/openai/v1",
        "api_key": KEY,
        "req_per_minute": 10,
        "req_per_day": 700,
        "token_per_minute": 4500,
        "token_per_day": 200000,
        "context_window": 32768,
    },
    "other": {
        "base_url": "https://elsewhere.example/v1",
        "api_key": "another-key",
        "req_per_minute": 30,
        "req_per_day": -1,
        "token_per_minute": 7500,
        "token_per_day": -1,
    },
}


def test_every_model_of_their_config_keeps_its_limits_address_and_key(file):
    options = read_config(file(THEIRS))

    assert {
        "gemma2-9b-it": Limits(rpm=10, rpd=700, tpm=4_500, tpd=200_000),
        "other": Limits(rpm=30, tpm=7_500),
    } == options["limits"]
    assert {
        "gemma2-9b-it": ("https://api.groq.com/openai/v1", KEY),
        "other": ("https://elsewhere.example/v1", "another-key"),
    } == options["accounts"]
    assert "model" not in options


def test_the_only_model_of_their_config_is_the_default(file):
    assert "other" == read_config(file({"other": THEIRS["other"]}))["model"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"req_per_minute": 0}, "other.req_per_minute is 0: use a whole number >= 1, or -1"),
        ({"req_per_minute": "30"}, "other.req_per_minute is '30': use a whole number"),
        ({"token_per_day": -2}, "other.token_per_day is -2"),
        ({"req_per_minut": 3}, "other.req_per_minut is unknown: did you mean 'req_per_minute'?"),
    ],
)
def test_a_mistake_in_their_config_is_named_by_its_place(file, change, said):
    with pytest.raises(ConfigurationError) as caught:
        read_config(file({"other": THEIRS["other"] | change}))

    assert said in str(caught.value)


def test_the_placeholder_of_their_example_is_no_key(file):
    options = read_config(file({"other": THEIRS["other"] | {"api_key": "YOUR_API_KEY"}}))

    assert {"other": ("https://elsewhere.example/v1", None)} == options["accounts"]


def test_an_address_that_the_caller_gives_wins_over_those_of_their_models(file):
    options = read_config(file(THEIRS), overrides={"base_url"})

    assert {"gemma2-9b-it": (None, KEY), "other": (None, "another-key")} == options["accounts"]
    assert "accounts" not in read_config(file(THEIRS), overrides={"base_url", "api_key"})


def test_what_the_caller_gives_wins_over_what_models_have_of_their_own(file):
    own = {"base_url": "https://elsewhere.example/v1", "api_key": "another-key"}
    path = file({"base_url": "https://common.example/v1", "api_key": KEY, "models": {"m": own}})

    assert {"m": (None, "another-key")} == read_config(path, overrides={"base_url"})["accounts"]
    assert {"m": (own["base_url"], None)} == read_config(path, overrides={"api_key"})["accounts"]
    assert {} == read_config(path, overrides={"base_url", "api_key"})


def test_what_their_loader_passes_over_we_pass_over(file):
    path = file({"other": THEIRS["other"] | {"note": "x"}})

    assert read_config(file({"other": THEIRS["other"]}, "plain.json")) == read_config(path)


def test_a_missing_limit_of_theirs_is_told(file):
    table = {name: value for name, value in THEIRS["other"].items() if name != "token_per_day"}

    with pytest.raises(ConfigurationError, match=r"other\.token_per_day is missing"):
        read_config(file({"other": table}))


def test_the_file_that_the_documentation_shows_says_what_stands_beside_it(file, monkeypatch):
    needs(TOML)
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    monkeypatch.setenv("LOCAL_KEY", "local")
    shown = PAGE.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]

    with GroqQueue.from_config(file(shown)) as queue:
        options = queue._settings
        assert "llama-3.1-8b-instant" == options.model
        assert Limits(rpm=60, tpm=8_000) == options.limits["openai/gpt-oss-120b"]
        assert "http://127.0.0.1:8000/v1" == options.resolved_accounts.by_model["local/llama"].base_url

"""Several accounts in one queue: every model keeps its own address, key and limits."""

from __future__ import annotations

import json

import pytest

from groq_queue import AuthenticationError, ConfigurationError, GroqQueue, GroqSimulator, Limits
from groq_queue.clock import SystemClock
from groq_queue.limiters import in_process

PATIENCE_S = 10


def forget_levels() -> None:
    """Play the end of the process, which takes the budgets of every account with it."""
    in_process._accounts.clear()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("GROQ_API_KEY", "GROQ_BASE_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def two():
    """Two providers, each with one model, one key and one limit of its own."""
    with (
        GroqSimulator(models=["a"], api_keys=["key-of-a"], rpm=10) as one,
        GroqSimulator(models=["b"], api_keys=["key-of-b"], rpm=20) as other,
    ):
        yield one, other


def test_their_config_json_is_used_unchanged(two, tmp_path):
    """
    Two models, two addresses, two keys, two limits; nothing of one reaches the other.
    """
    one, other = two
    path = tmp_path / "config.json"
    common = {"req_per_day": 700, "token_per_minute": 450_000, "token_per_day": -1, "context_window": 8192}
    path.write_text(
        json.dumps(
            {
                "a": {"base_url": one.base_url, "api_key": "key-of-a", "req_per_minute": 10, **common},
                "b": {"base_url": other.base_url, "api_key": "key-of-b", "req_per_minute": 20, **common},
            }
        )
    )
    path.chmod(0o600)

    with GroqQueue.from_config(path) as queue:
        futures = [queue.submit("Why?", model=model, max_completion_tokens=4) for model in "ab" * 10]
        models = sorted(future.result(PATIENCE_S).model for future in futures)
        limits = {lane.name: {level.dimension: level.limit for level in lane.limits} for lane in queue.stats().lanes}
        shown = repr(queue)

    assert ["a"] * 10 + ["b"] * 10 == models
    assert {"a": {"RPM": 10, "RPD": 700, "TPM": 450_000}, "b": {"RPM": 20, "RPD": 700, "TPM": 450_000}} == limits
    assert (10, 10) == (one.stats().received, other.stats().received)
    assert 0 == one.stats().refused + other.stats().refused
    assert "key-of" not in shown
    assert "2 addresses" in shown


def test_a_model_without_an_account_is_refused_and_never_sent_elsewhere(two, monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", "gsk_of_the_environment")
    monkeypatch.setenv("GROQ_BASE_URL", two[1].base_url)

    with (
        GroqQueue(accounts={"a": (two[0].base_url, "key-of-a")}) as queue,
        pytest.raises(ConfigurationError, match=r"model='b': no account serves it \(known: a\)"),
    ):
        queue.submit("Why?", model="b")

    assert 0 == two[1].stats().received


def test_other_models_use_the_queues_own_key(two):
    accounts = {"a": (two[0].base_url, "key-of-a")}

    with GroqQueue(api_key="key-of-b", base_url=two[1].base_url, accounts=accounts) as queue:
        models = [queue.submit("Why?", model=model).result(PATIENCE_S).model for model in ("a", "b")]

    assert ["a", "b"] == models


def test_a_rejected_key_ends_the_requests_of_its_account_only(two):
    """
    The eight that wait behind the first are never sent, the other account goes on.
    """
    accounts = {"a": (two[0].base_url, "revoked"), "b": (two[1].base_url, "key-of-b")}

    with GroqQueue(accounts=accounts, max_workers=1) as queue:
        bad = [queue.submit("Why?", model="a", priority="high") for _ in range(9)]
        good = [queue.submit("Why?", model="b") for _ in range(3)]
        errors = [future.exception(PATIENCE_S) for future in bad]
        answers = [future.result(PATIENCE_S) for future in good]

    assert 9 == len(errors)
    assert all(isinstance(error, AuthenticationError) for error in errors)
    assert 9 == len({error.request_id for error in errors})
    assert 3 == len(answers)
    assert 1 == two[0].stats().received


def test_a_journal_keeps_the_answers_and_the_budgets_of_every_account(two, tmp_path):
    """
    The second life sends nothing again and begins where the first ended, each model with its own account's level.
    """
    one, other = two
    options = {
        "accounts": {"a": (one.base_url, "key-of-a"), "b": (other.base_url, "key-of-b")},
        "limits": {"a": Limits(rpd=100), "b": Limits(rpd=200)},
        "journal": tmp_path / "run.db",
    }
    with GroqQueue(**options) as queue:
        before = [queue.complete("Why?", model=model, custom_id=f"c-{model}").id for model in "ab"]
    forget_levels()
    with GroqQueue(**options) as queue:
        after = [queue.complete("Why?", model=model, custom_id=f"c-{model}").id for model in "ab"]
        queue.complete("Why not?", model="a")
        levels = {lane: levels[0] for lane, levels in queue._limiter.levels(SystemClock().now_ns()).items()}

    assert before == after
    assert (2, 1) == (one.stats().received, other.stats().received)
    assert {"a": (2, 100), "b": (1, 200)} == {lane: (level.used, level.limit) for lane, level in levels.items()}


def test_two_models_of_one_account_share_its_connections(two):
    account = (two[0].base_url, "key-of-a")

    with GroqQueue(accounts={"a": account, "c": account}, max_workers=1) as queue:
        assert "a" == queue.complete("Why?", model="a").model
        assert 1 == len({id(line) for line in queue._limiter._by_model.values()})


@pytest.mark.parametrize(
    ("accounts", "said"),
    [
        ({}, "accounts: a dict of 0 entries"),
        ([], "accounts: a list of 0 entries"),
        ({"m": "gsk_secret_key_of_mine"}, r"accounts\['m'\]: use a pair"),
        ({"m": ("https://x.example",)}, "use a pair"),
        ({"m": ("https://x.example", 5)}, r"accounts\['m'\] key must be a str"),
        ({"m": ("ftp://x.example", "k")}, r"accounts\['m'\] base_url 'ftp://x.example'"),
        ({5: ("https://x.example", "k")}, "5 is no name of a model"),
    ],
)
def test_bad_accounts_are_named(accounts, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        GroqQueue(accounts=accounts)

    assert "gsk_secret" not in str(caught.value)


def test_a_queue_that_was_not_made_leaves_no_limits_behind():
    """
    The second account cannot be joined, so the first is left.
    """
    url = "https://limits.example/v1"
    with (
        GroqQueue(api_key="second", base_url=url, limits=Limits(rpm=5, minute_s=1)),
        pytest.raises(ConfigurationError, match="count in different periods"),
    ):
        GroqQueue(accounts={"a": (url, "first"), "b": (url, "second")}, limits=Limits(rpm=5, minute_s=2))

    with GroqQueue(api_key="first", base_url=url, limits=Limits(rpm=5, minute_s=3)) as queue:
        assert queue.stats().running

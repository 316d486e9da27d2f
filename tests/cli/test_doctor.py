"""The doctor finds what is wrong, tells the cure, and shows no key."""

from __future__ import annotations

import json
import os
import socket
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from journal.making import entry
from transport.raw_server import Peer, RawServer

from groq_queue.cli.doctor import _models_check
from groq_queue.journal import Journal
from groq_queue.limiters.sqlite import SqliteBudgetStore
from groq_queue.transport import Secret

from .conftest import MODEL, Command, run_process

KEY = "gsk_" + "a1b2" * 13


def levels(ran) -> dict[str, str]:
    return {check["name"]: check["level"] for check in json.loads(ran.out)["checks"]}


def texts(ran) -> dict[str, str]:
    return {check["name"]: check["text"] for check in json.loads(ran.out)["checks"]}


def test_all_is_well_with_the_simulator(simulate, command: Command, monkeypatch, tmp_path: Path):
    """
    Each check is ok, the journal's too, and the key is told by its fingerprint only.
    """
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    groq = simulate()
    with Journal.open(str(tmp_path / "run.db")) as journal:
        journal.add(entry(1))

    ran = command("doctor", "--base-url", groq.base_url, "--model", MODEL, "--journal", tmp_path / "run.db", "--json")

    assert 0 == ran.code
    assert {"ok"} == set(levels(ran).values())
    assert [
        "versions", "base URL", "key", "proxy", "connection", "models", "clock", "open files", "journal", "disk"
    ] == list(levels(ran))  # fmt: skip
    told = texts(ran)
    assert "1 pending; nobody has it open" in told["journal"]
    assert "TCP" in told["connection"]
    assert "1 model" in told["models"]
    assert "56 characters, fingerprint" in told["key"]
    assert KEY not in ran.out + ran.err
    assert KEY[-4:] not in told["key"]


def test_lines_are_for_people_and_the_verdict_goes_to_stderr(simulate, command: Command):
    ran = command("doctor", "--base-url", simulate().base_url)

    assert 0 == ran.code
    assert 8 == len(ran.out.splitlines())
    assert all(line.startswith("ok ") for line in ran.out.splitlines())
    assert ran.err.strip() == "all ok"


def test_the_summary_names_the_checks_that_failed_and_those_that_warn(command: Command, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)

    without_key = command("doctor", "--timeout", "1")
    monkeypatch.setenv("GROQ_API_KEY", "gsk_short")
    with_odd_key = command("doctor", "--timeout", "1")

    assert "2 checks failed: key, connection" == without_key.err.strip()
    assert "1 check failed: connection; 1 warning: key" == with_odd_key.err.strip()


def test_warnings_alone_are_named_too(simulate, command: Command):
    """
    Nothing failed, so the exit code is 0.
    """
    ran = command("doctor", "--base-url", simulate().base_url, "--workers", "2000000000")

    assert (0, "no check failed; 1 warning: open files") == (ran.code, ran.err.strip())


def test_a_server_of_this_machine_needs_no_key(simulate, command: Command):
    told = texts(command("doctor", "--base-url", simulate().base_url, "--json"))

    assert "needs none" in told["key"]


def test_a_missing_key_is_a_matter_of_configuration(command: Command, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)

    ran = command("doctor", "--json", "--timeout", "1")

    assert 3 == ran.code
    found = levels(ran)
    assert ("fail", "fail", "skip") == (found["key"], found["connection"], found["models"])
    assert "export GROQ_API_KEY" in texts(ran)["key"]
    assert "DNS failed: Name or service not known" in texts(ran)["connection"]


def no_such_name(*args, **options):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("key", "said"), [("sk-" + "x" * 50, "gsk_"), ("gsk_short", "copied whole"), ("gsk_" + "x" * 500, "56")]
)
def test_a_key_that_does_not_look_like_groqs_is_pointed_at(command: Command, monkeypatch, key: str, said: str):
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv("GROQ_API_KEY", key)

    ran = command("doctor", "--json")

    assert "warn" == levels(ran)["key"]
    assert said in texts(ran)["key"]
    assert key not in ran.out + ran.err
    assert 1 == ran.code  # the network alone failed


@pytest.mark.parametrize("key", ["gsk_a b", "gsk_é", "gsk_a\n"])
def test_a_key_that_cannot_be_one_fails(command: Command, monkeypatch, key: str):
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv("GROQ_API_KEY", key)

    ran = command("doctor", "--json")

    assert (3, "fail") == (ran.code, levels(ran)["key"])
    assert key not in ran.out


def test_a_rejected_key_is_told(simulate, command: Command, monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", KEY)

    ran = command("doctor", "--base-url", simulate(api_keys=["another"]).base_url, "--json")

    assert (3, "fail") == (ran.code, levels(ran)["models"])
    assert "HTTP 401" in texts(ran)["models"]
    assert KEY not in ran.out + ran.err


def test_a_page_of_the_servers_own_trouble_is_told_without_its_markup(simulate, command: Command):
    page = "<html><head><title>503 Busy</title></head>\n<body>Come back later</body></html>"

    told = _models_check(503, page.encode(), 0.01, None, Secret("gsk_" + "x" * 52))

    assert ("fail", False) == (told.level, told.is_configuration)
    assert told.text.endswith(": 503 Busy Come back later: it is the server's own trouble: try again later")


def test_a_model_that_is_not_served_is_told(simulate, command: Command):
    ran = command("doctor", "--base-url", simulate().base_url, "--model", "llama-9", "--json")

    assert (3, "'llama-9' is not among its 1 models: llama-3.1-8b-instant") == (
        ran.code,
        texts(ran)["models"].partition("; ")[2],
    )


def test_a_bad_address_ends_the_matter(command: Command):
    ran = command("doctor", "--base-url", "http://user:secret@example.com", "--json")

    assert (3, "fail") == (ran.code, levels(ran)["base URL"])
    assert "connection" not in levels(ran)
    assert "secret" not in ran.out


def test_a_closed_port_is_told_with_the_step_that_failed(command: Command):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    ran = command("doctor", "--base-url", f"http://127.0.0.1:{port}", "--json")

    assert 1 == ran.code
    assert f"127.0.0.1:{port}: TCP failed: Connection refused (after DNS" in texts(ran)["connection"]
    assert "does a server listen at this port" in texts(ran)["connection"]


@pytest.mark.parametrize(
    ("status", "body", "level", "said"),
    [
        ("200 OK", b"<html>", "warn", "no list of models"),
        ("200 OK", b'{"data": 5}', "warn", "no list of models"),
        ("302 Found", b"", "fail", "HTTP 302"),
        ("403 Forbidden", b"", "fail", "may not ask"),
        ("404 Not Found", b"", "warn", "path of the base URL"),
        ("500 Oops", b"broken inside", "fail", "broken inside"),
    ],
)
def test_what_the_server_answers_is_judged(command: Command, status: str, body: bytes, level: str, said: str):
    with RawServer(lambda peer: answer_once(peer, body, status)) as server:
        ran = command("doctor", "--base-url", f"http://127.0.0.1:{server.port}", "--json")

    assert level == levels(ran)["models"]
    assert said in texts(ran)["models"]
    assert "skip" == levels(ran)["clock"]


def answer_once(peer: Peer, body: bytes, status: str, *headers: str) -> None:
    if peer.read_request() is not None:  # the first connection is only a knock
        peer.answer(body, status, *headers)


def test_a_server_that_hangs_up_is_told_and_the_key_is_not(command: Command, monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    with RawServer(Peer.read_request) as server:
        ran = command("doctor", "--base-url", f"http://127.0.0.1:{server.port}", "--json")

    assert (1, "fail") == (ran.code, levels(ran)["models"])
    assert KEY not in ran.out + ran.err


@pytest.mark.parametrize(
    ("seconds", "level", "said"), [(0, "ok", "agrees"), (3_600, "warn", "behind"), (-3_600, "warn", "ahead")]
)
def test_a_clock_that_is_off_is_told(command: Command, seconds: int, level: str, said: str):
    date = f"Date: {formatdate(time.time() + seconds, usegmt=True)}"
    with RawServer(lambda peer: answer_once(peer, b'{"data": []}', "200 OK", date)) as server:
        ran = command("doctor", "--base-url", f"http://127.0.0.1:{server.port}", "--json")

    assert (0, level) == (ran.code, levels(ran)["clock"])
    assert said in texts(ran)["clock"]


def test_the_proxy_that_applies_is_named_without_its_password(command: Command, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:pa55word@127.0.0.1:{port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    ran = command("doctor", "--base-url", "https://api.example.test", "--json")

    assert 1 == ran.code
    assert f"through http://127.0.0.1:{port} (HTTPS_PROXY set)" == texts(ran)["proxy"]
    assert f"proxy 127.0.0.1:{port}: TCP failed" in texts(ran)["connection"]
    assert "pa55word" not in ran.out + ran.err


def test_no_proxy_is_honoured_and_shown(command: Command, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", ".example.test")

    told = texts(command("doctor", "--base-url", "https://api.example.test", "--json"))

    assert "none applies (HTTPS_PROXY, NO_PROXY set)" == told["proxy"]


def test_a_proxy_that_cannot_be_used_is_a_matter_of_configuration(command: Command, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")

    ran = command("doctor", "--base-url", "https://api.example.test", "--json")

    assert (3, "fail") == (ran.code, levels(ran)["proxy"])


def test_a_journal_is_looked_at_while_its_owner_is_at_work(simulate, command: Command, tmp_path: Path):
    path = tmp_path / "run.db"
    with Journal.open(str(path)) as journal:
        journal.add(entry(1))
        told = texts(command("doctor", "--base-url", simulate().base_url, "--journal", path, "--json"))

    assert f"open in process {os.getpid()}" in told["journal"]
    assert "free in" in told["disk"]


def test_what_is_no_journal_fails(simulate, command: Command, tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("not a journal, " * 100)

    ran = command("doctor", "--base-url", simulate().base_url, "--journal", path, "--json")

    assert (1, "fail") == (ran.code, levels(ran)["journal"])
    assert str(path) in texts(ran)["journal"]


def test_a_journal_that_cannot_be_made_fails(simulate, command: Command, tmp_path: Path):
    ran = command("doctor", "--base-url", simulate().base_url, "--journal", tmp_path / "no" / "x.db", "--json")

    assert (3, "fail") == (ran.code, levels(ran)["journal"])


def test_a_limiter_that_can_be_used_is_said_to_answer(simulate, command: Command, tmp_path: Path):
    """
    One that is not there yet is not made by looking.
    """
    url, path = f"sqlite://{tmp_path}/budgets.db", tmp_path / "budgets.db"
    before = command("doctor", "--base-url", simulate().base_url, "--limiter", url, "--json")
    was_made = path.exists()
    SqliteBudgetStore(str(path)).close()

    after = command("doctor", "--base-url", simulate().base_url, "--limiter", url, "--json")

    assert (0, "ok", False) == (before.code, levels(before)["limiter"], was_made)
    assert "does not exist" in texts(before)["limiter"]
    assert (0, "ok") == (after.code, levels(after)["limiter"])
    assert "answers in" in texts(after)["limiter"]


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("postgres://u:secret@x", 3, "use None for this process"),
        ("sqlite://budgets.db", 3, "three slashes"),
        ("sqlite:///no/such/place/budgets.db", 1, "create it first"),
    ],
)
def test_a_limiter_that_cannot_be_used_is_told_with_the_cure(
    simulate, command: Command, url: str, code: int, said: str
):
    ran = command("doctor", "--base-url", simulate().base_url, "--limiter", url, "--json")

    assert (code, "fail") == (ran.code, levels(ran)["limiter"])
    assert said in texts(ran)["limiter"]
    assert "secret" not in ran.out


def test_more_workers_than_files_is_pointed_at(simulate, command: Command):
    ran = command("doctor", "--base-url", simulate().base_url, "--workers", "900000000", "--json")

    assert (0, "warn") == (ran.code, levels(ran)["open files"])
    assert "ulimit -n" in texts(ran)["open files"]


def test_it_runs_as_a_process_and_says_so_in_its_help(simulate, command: Command):
    ran = run_process("doctor", "--base-url", simulate().base_url)
    told = command("doctor", "--help")

    assert (0, 0) == (ran.code, told.code)
    assert "exit codes: 0 nothing failed" in told.out

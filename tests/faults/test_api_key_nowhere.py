"""The API key is found nowhere: not in what is printed, logged, raised, pickled, stored or listed, in any spelling."""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from groq_queue import AuthenticationError, ConfigurationError

from .harness import KEY, ROOT, child, ended, queue, raised, server, wait_until
from .resources import hits, secret_run

FORMS = {
    "raw": KEY,
    "base64": base64.b64encode(f"Authorization: Bearer {KEY}".encode()).decode(),
    "reversed": KEY[::-1],
    "percent-encoded": quote(KEY, safe=""),
}

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PROGRAM = """
import logging, traceback
del KEY  # this module's own; the queue reads the environment
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
for name in ("ok", "status-400", "html-502", "reset", "short", "forged", "revoked-0", "redirect-307-1"):
    q = queue(sys.argv[1].replace("NAME", name), max_retries=1, timeout=(0.5, 0.5), api_key=None,
              journal=sys.argv[2] if name == "ok" else None)
    with q:
        try:
            print(q.submit("x", callback=lambda _: 1 / 0).result(), q, q.stats())
        except Exception as error:
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            print("".join(told.format()), repr(error), vars(error))
print(open("/proc/self/cmdline").read())
"""


@pytest.fixture(scope="module")
def bad():
    """A server for all tests but the one that looks at what it saw."""
    with server() as running:
        yield running


@pytest.mark.parametrize("form", FORMS)
def test_the_search_finds_what_it_looks_for(form):
    assert hits(f"...{FORMS[form]}...") >= 1


@linux
def test_a_program_that_tells_everything_tells_no_key(tmp_path):
    """
    Standard output, standard error with every logger at DEBUG, errors with the locals of each frame, the journal
    and what lies beside it, the arguments of the process. The key comes from the environment.
    """
    with server() as bad:
        code, out, err = ended(child(PROGRAM, bad.url("NAME"), str(tmp_path / "j.db"), GROQ_API_KEY=KEY))
        assert 0 == code, err
        assert f"Bearer {KEY}" == bad.seen("ok")["headers"]["authorization"]

    files = {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()}
    assert {"j.db", "j.db.lock"} <= set(files)
    assert 1_000 < len(err)
    assert "DEBUG:groq_queue" in err
    for name, text in {"stdout and argv": out, "stderr": err, **files}.items():
        assert 0 == hits(text), name


def test_errors_records_and_pickles_of_this_process_hold_no_key(bad, tmp_path):
    """
    ``secret_run`` goes through nine ways to succeed and fail, and walks the frames of each error.
    """
    told = secret_run(bad.url, str(tmp_path / "j.db"))

    assert 50_000 < len(told)
    assert "unreadable" in told or "cut short" in told  # it did look at failures
    assert 0 == hits(told)


def test_no_stored_error_of_a_server_that_echoes_the_key_holds_it(bad, tmp_path):
    with queue(bad.url("revoked-0"), journal=str(tmp_path / "j.db")) as q:
        error = raised(q.submit("x", custom_id="x"))
        beside = {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()}  # gone when it closes

    assert isinstance(error, AuthenticationError)
    assert "Invalid API Key" in str(error)
    assert 0 == hits(str(error) + repr(error.body) + repr(pickle.dumps(error)))
    assert {"j.db-wal", "j.db-shm", "j.db.lock"} <= set(beside)
    assert 0 == hits("".join(beside.values()))
    assert 0 == hits("".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()))


def test_a_file_of_shared_budgets_holds_no_key(bad, tmp_path):
    """
    Nor does a request that names one as a parameter, which would have stood in its body and in a journal.
    """
    with queue(bad.url("ok"), limiter=f"sqlite://{tmp_path}/b.db") as q:
        q.complete("x")
        with pytest.raises(ConfigurationError, match=r"^api_key: no option of a request") as refused:
            q.submit("x", api_key=KEY)
        files = {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()}

    assert "b.db" in files
    assert 0 == hits("".join(files.values()) + str(refused.value))


@linux
def test_the_command_line_takes_no_key_and_lists_none(bad, tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("Why?\n")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "groq_queue", "run", str(prompts), "-o", str(tmp_path / "o.jsonl")),
            *("--base-url", bad.url("slow-0.4"), "--model", "m", "--journal", str(tmp_path / "j.db")),
        ],
        cwd=ROOT,
        env={**os.environ, "GROQ_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert wait_until(lambda: bad.seen("slow-0.4")["sent"])
    arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode("latin-1")
    told = process.communicate(timeout=60)[0]

    assert 0 == process.returncode, told
    assert "groq_queue" in arguments
    assert {"o.jsonl", "j.db"} <= {path.name for path in tmp_path.iterdir()}
    files = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())
    assert 0 == hits(arguments + told + files)


@linux
def test_what_is_stored_is_for_this_user_alone(bad, tmp_path):
    before = os.umask(0o022)
    try:
        with queue(bad.url("ok"), journal=str(tmp_path / "j.db")) as q:
            q.complete("x")
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)

    assert {"j.db", "j.db-wal", "j.db-shm", "j.db.lock"} == set(modes)
    assert {0o600} == set(modes.values())

"""Files that an earlier version wrote are opened and gone on with: a journal, and a file of shared budgets.

``journal.sql`` and ``budgets.sql`` are such files as SQL, written by version 0.1.0 through ``write``. They are never
written anew: a later version adds files of its own beside them.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from groq_queue import BadRequestError, GroqQueue, GroqSimulator, JournalError, Limits
from groq_queue.simulator import Fault

HERE = Path(__file__).parent
MODEL = "llama-3.1-8b-instant"
LIMITS = Limits(rpm=1_000, tpm=100_000, tpd=1_000_000, day_s=10**9)
ADDRESS = "127.0.0.1:8099"  # to which the stored budgets belong
LONG = "A long question, which has a table of its own. " * 200


def queue_for(simulator: GroqSimulator, folder: Path) -> GroqQueue:
    return GroqQueue(
        base_url=simulator.base_url,
        api_key="gsk_test",
        model=MODEL,
        limits=LIMITS,
        journal=str(folder / "journal.db"),
        limiter=f"sqlite:///{folder}/budgets.db",
    )


def write(folder: Path) -> None:
    """Leave answers, errors, cancelled requests and some that wait."""
    bad = Fault(match="bad", status=400, body={"error": {"message": "no such thing"}})
    with GroqSimulator(limits=LIMITS, faults=[bad], port=8_099) as groq, queue_for(groq, folder) as queue:
        for name in ("one", "two", "three"):
            queue.submit(f"Question {name}", custom_id=name, max_completion_tokens=50).result(10)
        queue.submit("Question one", max_completion_tokens=50).result(10)
        queue.submit("bad", custom_id="bad").exception(10)
        queue.pause()
        queue.submit("Never", custom_id="never").cancel()
        queue.submit("Later", custom_id="later", priority="low", client="acme", temperature=0)
        queue.submit(LONG, custom_id="long", priority=0, max_completion_tokens=7)
        queue.submit("Nameless", client="acme")
        queue.submit("Shorter", custom_id="shrinks", shrink=True, max_completion_tokens=90, seed=1)
        queue.shutdown(cancel_futures=True)
    for name in ("journal", "budgets"):
        db = sqlite3.connect(folder / f"{name}.db")
        header = [
            f"PRAGMA {pragma} = {db.execute(f'PRAGMA {pragma}').fetchone()[0]};"
            for pragma in ("application_id", "user_version")
        ]
        (HERE / f"{name}.sql").write_text("\n".join([*header, *db.iterdump(), ""]), encoding="utf-8")
        db.close()


@pytest.fixture
def groq():
    with GroqSimulator(limits=LIMITS) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path, groq):
    """A folder with both files, as they were left; their server has another port now."""
    for name in ("journal", "budgets"):
        db = sqlite3.connect(tmp_path / f"{name}.db")
        text = (HERE / f"{name}.sql").read_text(encoding="utf-8")
        db.executescript(text.replace(ADDRESS, f"{groq.host}:{groq.port}"))
        db.close()
    return tmp_path


def test_a_journal_of_an_earlier_version_is_gone_on_with(groq, folder):
    """
    What was answered is not sent again, what failed says why, and what waited is sent.
    """
    with queue_for(groq, folder) as queue:
        again = queue.submit("Question one", custom_id="one", max_completion_tokens=50).result(10)
        failed = queue.get("bad")
        cancelled = queue.get("never")
        with pytest.raises(JournalError):
            queue.submit("Another question", custom_id="one")
        queue.join(10)
        stored = [queue.get(name) for name in ("one", "two", "three", "later", "long", "shrinks")]

    assert again.text == stored[0].result.text
    assert "failed" == failed.status
    assert isinstance(failed.error, BadRequestError)
    assert "cancelled" == cancelled.status
    assert ["completed"] * 6 == [record.status for record in stored]
    assert 4 == len(groq.log)
    assert {"Later", "Nameless", "Shorter"} <= {record.prompt for record in groq.log}
    assert [record for record in groq.log if record.prompt.startswith("A long question")]


def test_budgets_of_an_earlier_version_are_gone_on_with(groq, folder):
    """
    What was spent of a day, of a very long one, stays spent, and what is sent now comes on top.
    """
    before = daily_bucket(folder)
    with GroqQueue(
        base_url=groq.base_url,
        api_key="gsk_test",
        model=MODEL,
        limits=LIMITS,
        limiter=f"sqlite:///{folder}/budgets.db",
    ) as queue:
        queue.submit("One more", max_completion_tokens=50).result(10)
    after = daily_bucket(folder)

    assert [1_000_000, 10**18] == before[:2] == after[:2]
    assert 300 < before[-1] < after[-1]


def daily_bucket(folder):
    """Return the numbers of the bucket of tokens per day: limit and period first, what was ever charged last."""
    with closing(sqlite3.connect(folder / "budgets.db")) as db:
        ((state,),) = db.execute("SELECT state FROM lanes")
    return json.loads(state)["buckets"]["TPD"]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as fresh:
        write(Path(fresh))

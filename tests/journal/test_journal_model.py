"""Any sequence of calls, with reopening in between, leaves what a dict would hold."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from extras import needs

from groq_queue.errors import JournalError
from groq_queue.journal import Journal

from .making import answer, entry

needs("hypothesis", is_module=True)

from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule  # noqa: E402

NAMES = st.integers(0, 9)
FINAL = ("completed", "failed", "cancelled", "expired")


class JournalAgainstADict(RuleBasedStateMachine):
    """The model: name -> [status, row id, priority, attempts, unanswered, result, text]."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.mkdtemp()
        self.model: dict[int, list[Any]] = {}
        self.last_id = 0
        self.journal = Journal.open(f"{self.place}/run.db", durability="normal")

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.place)

    def tried(self, may: bool, call: Any) -> Any:
        """Call; it works if it *may*, else it is refused."""
        try:
            result = call()
        except JournalError:
            assert not may
            return None
        assert may
        return result

    @rule(name=NAMES, priority=st.integers(0, 2), text=st.sampled_from("ab"), many=st.booleans())
    def add(self, name: int, priority: int, text: str, many: bool) -> None:
        made = entry(name, text=text, priority=priority)
        known = self.model.get(name)
        call = (lambda: self.journal.add_many([made, made])[0]) if many else (lambda: self.journal.add(made))
        accepted = self.tried(known is None or known[6] == text, call)
        if accepted is None:
            return
        is_called_off = known is not None and known[0] in ("cancelled", "expired")
        assert accepted.is_new is (known is None or is_called_off)
        if known is not None and is_called_off:
            known[0], known[2], known[4] = "pending", priority, 0
        elif known is None:
            assert accepted.row_id > self.last_id
            self.last_id = accepted.row_id
            self.model[name] = ["pending", accepted.row_id, priority, 0, 0, None, text]
        else:
            assert (known[1], known[0]) == (accepted.row_id, accepted.stored.status)

    @rule(name=NAMES)
    def claim(self, name: int) -> None:
        known = self.model.get(name, ["", 10_000])
        attempts = self.tried(known[0] == "pending", lambda: self.journal.claim(known[1]))
        if attempts is not None:
            known[0], known[3] = "processing", known[3] + 1
            assert known[3] == attempts

    @rule(name=NAMES, was_sent=st.booleans())
    def release(self, name: int, was_sent: bool) -> None:
        known = self.model.get(name, ["", 10_000])
        may = known[0] == "processing"
        self.tried(may, lambda: self.journal.release(known[1], was_sent=was_sent))
        if may:
            known[0], known[3] = "pending", known[3] - (not was_sent)

    @rule(name=NAMES, status=st.sampled_from(FINAL), version=st.integers(0, 9))
    def finish(self, name: int, status: str, version: int) -> None:
        known = self.model.get(name, ["", 10_000])
        may = known[0] in ("pending", "processing")
        result = answer(f"{name}-{version}")
        self.tried(may, lambda: self.journal.finish(known[1], status, result=result))
        if may:
            known[0], known[5] = status, result

    @rule(on_unknown=st.sampled_from(["resend", "hold"]))
    def reopen(self, on_unknown: Any) -> None:
        self.journal.close()
        self.journal = Journal.open(f"{self.place}/run.db", durability="normal")
        self.journal.recover(on_unknown=on_unknown, max_sends=2)
        for known in self.model.values():
            if known[0] == "processing":
                known[4] += 1
                known[0] = "failed" if on_unknown == "hold" or known[4] >= 2 else "pending"

    @rule()
    def retry_failed(self) -> None:
        failed = [known for known in self.model.values() if known[0] == "failed"]
        assert len(failed) == self.journal.retry_failed()
        for known in failed:
            known[0], known[4] = "pending", 0

    @rule(keep=st.sets(st.sampled_from(FINAL)))
    def prune(self, keep: set[str]) -> None:
        gone = [name for name, known in self.model.items() if known[0] in set(FINAL) - keep]
        assert len(gone) == self.journal.prune(keep=keep)
        for name in gone:
            del self.model[name]

    @invariant()
    def the_file_holds_the_model(self) -> None:
        waiting = sorted((known[2], known[1]) for known in self.model.values() if known[0] == "pending")
        assert waiting == [(row.priority, row.row_id) for row in self.journal.pending()]
        counts = self.journal.counts()
        for status in counts:
            assert counts[status] == sum(known[0] == status for known in self.model.values())
        for name in range(10):
            stored = self.journal.get(f"c-{name}")
            known = self.model.get(name)
            if known is None:
                assert "unknown" == stored.status
                continue
            assert known[0] == stored.status
            assert (known[3], known[4]) == (stored.attempts, stored.unanswered)
            if known[0] in FINAL and known[5] is not None:
                assert known[5] == stored.result
            assert entry(name, text=known[6]).payload == self.journal.payload(known[1])


JournalAgainstADict.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestJournalAgainstADict = JournalAgainstADict.TestCase

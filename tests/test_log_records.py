"""Log records: machines find the same keys on each, and nobody finds a prompt or a key."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest
from hasty import HastyClock

import groq_queue
from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.engine.log import EVENTS
from groq_queue.simulator import Fault

KEY = "gsk_a_key_that_nobody_may_see_1234"
PROMPT = "the-prompt-that-nobody-may-see"
PATIENCE_S = 20
FACTS = {"request_id", "custom_id", "model", "lane", "client", "priority", "attempt"}


@pytest.fixture(scope="module")
def records():
    """Every record of a bad day, at DEBUG."""

    class Listening(logging.Handler):
        def emit(self, record):
            kept.append(record)

    kept, listening, root = [], Listening(), logging.getLogger()
    level = root.level
    root.addHandler(listening)
    root.setLevel(logging.DEBUG)
    try:
        run_with_everything_going_wrong()
    finally:
        root.setLevel(level)
        root.removeHandler(listening)
    return [record for record in kept if record.name.split(".")[0] == "groq_queue"]


def run_with_everything_going_wrong():
    """500s, resets, refusals, unreadable answers, a bad callback, a bad observer, a rejected key."""
    faults = [
        Fault(status=500, times=2),
        Fault(reset="after", times=1),
        Fault(reset="before", times=1),
        Fault(status=429, times=2),
        Fault(status=400, times=1),
    ]

    def bad(_):
        raise ValueError("mine")

    with GroqSimulator(models=["m"], faults=faults) as groq:
        options = {"api_key": KEY, "base_url": groq.base_url, "model": "m", "limits": Limits(), "clock": HastyClock()}
        with GroqQueue(observer=bad, max_workers=4, **options) as queue:
            futures = [
                queue.submit(PROMPT, max_completion_tokens=4, custom_id=f"c-{number}", callback=bad)
                for number in range(20)
            ]
            for future in futures:
                future.exception(PATIENCE_S)
        groq.set_faults([Fault(status=401)])
        with GroqQueue(max_workers=1, **options) as queue:
            for future in [queue.submit(PROMPT, max_completion_tokens=4) for _ in range(3)]:
                future.exception(PATIENCE_S)


def test_no_record_of_a_bad_day_holds_a_prompt_or_a_key(records):
    """
    At DEBUG, message, arguments, extras and traceback included.
    """
    formatter = logging.Formatter()
    events = {record.groq_queue_event for record in records}
    assert {"attempt_failed", "callback_raised", "observer_raised", "queue_stopped"} <= events
    for record in records:
        told = formatter.format(record) + repr(vars(record))
        assert PROMPT not in told
        assert KEY not in told
        assert KEY[-20:] not in told


def test_records_about_a_request_carry_its_facts(records):
    about = [record for record in records if record.groq_queue_event in ("attempt_failed", "callback_raised")]
    failed = [record for record in about if record.groq_queue_event == "attempt_failed"]
    assert len(failed) >= 4
    assert all(vars(record).keys() >= FACTS for record in about)
    named = [record for record in about if record.custom_id is not None]
    assert len(named) >= 20
    assert all(re.fullmatch(r"c-\d+", record.custom_id) for record in named)
    assert {500, 429, None} <= {record.status for record in failed}
    assert {"InternalServerError", "RateLimitError", "APIConnectionError"} <= {record.error for record in failed}
    assert all(record.levelno == logging.DEBUG and record.wait_s >= 0 for record in failed)


def log_calls():
    for path in sorted(Path(groq_queue.__file__).parent.rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "_log." in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_log.") and node.args:
                yield path.name, node


def test_every_record_names_its_event():
    """
    So that a new one cannot forget it; isEnabledFor is a question, not a record.
    """
    calls = [(name, node) for name, node in log_calls() if not ast.unparse(node.func).endswith("isEnabledFor")]

    assert len(calls) >= 10
    for name, node in calls:
        assert "extra" in {keyword.arg for keyword in node.keywords}, f"{name}:{node.lineno}"


def test_every_event_is_written_down_and_used():
    root = Path(groq_queue.__file__).parent
    text = "".join(path.read_text() for path in root.rglob("*.py") if path.name != "log.py")
    used = set(re.findall(r'log_fields\(\s*"(\w+)"|"groq_queue_event": "(\w+)"', text))

    assert set(EVENTS) == {first or second for first, second in used}

"""What is loaded when: a program that only needs the queue, or a page of help, waits for nothing else.

Counted in names, not in milliseconds; those are measured by ``benchmarks/startup.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("argparse", "asyncio", "ctypes", "difflib", "ftplib", "multiprocessing", "pickle", "platform", "sqlite3"),
    *("statistics", "subprocess", "tomllib", "tomli", "unittest", "uuid", "xml", "logging.handlers", "http.server"),
)


def loaded_by(code, first=""):
    """Return the names of the modules that *code* loads in a clean interpreter, beyond what *first* has loaded."""
    script = (
        f"import json, sys\n{first}\nbefore = set(sys.modules)\n"
        f"{code}\nprint('\\n' + json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_front_door_alone_loads_no_room():
    """
    So whatever looks at every installed package, such as pytest for its plugins, pays for nothing.
    """
    loaded = loaded_by("import groq_queue")

    assert {"groq_queue"} == {name for name in loaded if name.split(".")[0] == "groq_queue"}
    assert not loaded & {"requests", "urllib3", "concurrent.futures", "dataclasses", *HEAVY}


def test_the_queue_loads_little_beside_its_two_dependencies():
    """
    What somebody mistyped, a journal, a report, a simulator and the command line are loaded when they are needed.
    """
    added = loaded_by("from groq_queue import GroqQueue", first="import requests, urllib3")

    assert "groq_queue.api.queue" in added
    assert set() == added & set(HEAVY)
    rooms = {".".join(name.split(".")[:2]) for name in added if name.startswith("groq_queue.")}
    assert not rooms & {f"groq_queue.{room}" for room in ("cli", "integrations", "journal", "simulator", "testing")}
    assert not rooms & {"groq_queue.reporting", "groq_queue.wiring.config_file"}


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["completion", "bash"]])
def test_help_and_completion_load_no_queue_and_no_network(words):
    loaded = loaded_by(f"from groq_queue.cli import main\nmain({words!r})")

    rooms = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("groq_queue.")}
    assert (
        {"groq_queue.cli", "groq_queue.errors"}
        <= rooms
        <= {*("groq_queue.cli", "groq_queue.display", "groq_queue.errors")}
    )
    assert not loaded & {f"groq_queue.cli.{work}" for work in ("batch", "batch_files", "batch_lines")}
    assert not loaded & {"requests", "urllib3", "ssl", "socket", "asyncio", "sqlite3", "concurrent.futures"}

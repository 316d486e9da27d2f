"""What other people's tests get: fixtures that cost nothing until they are used, and a clock."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from concurrent.futures import wait
from importlib import metadata
from pathlib import Path

import pytest
from extras import needs

from groq_queue import GroqQueue, GroqSimulator, Limits
from groq_queue.testing import FakeClock, plugin

PATIENCE_S = 10


def pytest_of_a_user(tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user would, in a project of their own."""
    (tmp_path / "test_theirs.py").write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GROQ_", "PYTEST_"))}
    plugins = [] if is_installed() else ["-p", "groq_queue.testing.plugin"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *plugins, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


def is_installed() -> bool:
    found = metadata.entry_points(group="pytest11", name="groq_queue")
    return any("groq_queue.testing.plugin" == each.value for each in found)


THEIRS = """
import os
import pytest
from groq_queue import GroqQueue

pytestmark = pytest.mark.groq_simulator(rpm=99, tpm=5_000)

@pytest.mark.groq_simulator(rpm=30, models=["m"])
def test_one(groq_simulator, groq_simulator_factory):
    with GroqQueue(model="m") as queue:
        queue.complete("Why?", max_completion_tokens=4)
        limits = {level.dimension: level.limit for level in queue.stats().lanes[0].limits}
    assert groq_simulator.stats().received == 1
    assert limits["TPM"] == 5_000
    assert os.environ["GROQ_BASE_URL"] + "/openai/v1" == groq_simulator.base_url
    assert groq_simulator_factory().base_url != groq_simulator.base_url

def test_after():
    assert "GROQ_BASE_URL" not in os.environ
    assert "GROQ_API_KEY" not in os.environ

@pytest.mark.groq_simulator(30)
def test_wrong(groq_simulator):
    pass
"""


@pytest.fixture(scope="module")
def their_run(tmp_path_factory):
    return pytest_of_a_user(tmp_path_factory.mktemp("theirs"), THEIRS, "-rA")


def test_the_fixture_is_a_running_simulator_that_the_environment_leads_to(their_run):
    """
    With the options of the nearest marker; after the test nothing of it is left in the environment.
    """
    assert "PASSED test_theirs.py::test_one" in their_run.stdout, their_run.stdout + their_run.stderr
    assert "PASSED test_theirs.py::test_after" in their_run.stdout


def test_options_without_names_are_refused(their_run):
    assert 1 == their_run.returncode
    assert "ERROR test_theirs.py::test_wrong" in their_run.stdout
    assert "pass options by name" in their_run.stdout


def test_the_fixture_leads_the_official_sdk_to_the_simulator_too(tmp_path):
    """
    It reads the same variables, and completes the address by itself.
    """
    needs("groq")

    done = pytest_of_a_user(
        tmp_path,
        """
from groq import Groq

def test_one(groq_simulator):
    with Groq(max_retries=0) as sdk:
        asked = {"role": "user", "content": "Why?"}
        answer = sdk.chat.completions.create(model="llama-3.1-8b-instant", messages=[asked])
    assert answer.choices[0].message.content
    assert groq_simulator.stats().admitted == 1
""",
    )

    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_whoever_does_not_use_it_loads_nothing_of_it(tmp_path):
    """
    But for the two modules that hold the fixtures.
    """
    done = pytest_of_a_user(
        tmp_path,
        "import sys\n"
        "def test_one():\n"
        "    ours = {name for name in sys.modules if name.startswith('groq_queue')}\n"
        "    assert ours <= {'groq_queue', 'groq_queue.testing', 'groq_queue.testing.plugin'}, ours\n",
    )

    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_imports_nothing_but_pytest():
    tree = ast.parse(Path(plugin.__file__).read_text())
    roots = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])

    assert roots - sys.stdlib_module_names == {"pytest"}


def test_minutes_of_a_limit_pass_in_no_time():
    """
    Thirty pass at once, the others when the clock has moved, and the server refuses none.
    """
    clock = FakeClock()
    with (
        GroqSimulator(rpm=30, clock_ns=clock.now_ns, models=["m"]) as groq,
        GroqQueue(
            api_key="t", base_url=groq.base_url, model="m", limits=Limits(rpm=30), clock=clock, max_workers=4
        ) as queue,
    ):
        futures = [queue.submit("Why?", max_completion_tokens=4) for _ in range(60)]
        wait(futures[:30], PATIENCE_S)
        first = sum(future.done() for future in futures)
        clock.advance(60)
        wait(futures[30:], PATIENCE_S)

        assert 30 == first
        assert 60 == sum(future.done() for future in futures)
        assert 0 == groq.stats().refused


def test_the_names_of_the_room_are_there():
    from groq_queue import testing

    assert [testing.FakeClock, testing.Fault, testing.GroqSimulator] == [
        getattr(testing, name) for name in testing.__all__
    ]
    with pytest.raises(AttributeError):
        testing.Nothing  # noqa: B018

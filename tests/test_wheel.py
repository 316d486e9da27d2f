"""The wheel, as somebody installs it: into an environment that knows nothing of this repository.

The two dependencies come from the environment of the tests, so nothing is downloaded
where setuptools can build a wheel by itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from extras import needs, needs_program

from groq_queue import GroqSimulator

pytestmark = pytest.mark.gate  # a wheel is built and installed first

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "groq_queue")
MODEL = "llama-3.1-8b-instant"
HANG_S = 300


def pip(*words):
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=HANG_S)
    assert 0 == done.returncode, done.stdout[-2_000:] + done.stderr[-4_000:]


def can_build():
    """Whether the setuptools that stands here makes wheels without the package of that name."""
    try:
        return tuple(int(part) for part in version("setuptools").split(".")[:2]) >= (70, 1)
    except ImportError:  # there is none
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves its own files beside the sources."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "copy"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    pip("wheel", "-q", "--no-deps", *(["--no-build-isolation"] if can_build() else []), "-w", str(place), str(copy))
    (built,) = place.glob("*.whl")
    return built


class Installed:
    """An environment with the wheel in it, seen from an empty directory."""

    def __init__(self, wheel, place):
        self.place = place / "empty"
        self.place.mkdir()
        venv.create(place / "venv", with_pip=False, symlinks=os.name != "nt")
        (self.site,) = (place / "venv").glob("lib/python*/site-packages")
        self.bin = place / "venv" / "bin"
        pip("--python", str(self.bin / "python"), "install", "-q", "--no-deps", "--no-index", str(wheel))
        found = importlib.util.find_spec("requests")
        assert found is not None
        (self.site / "dependencies.pth").write_text(f"{Path(found.origin).parent.parent}\n")

    def run(self, *words, **environment):
        """Run a program of the environment and return what it did."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("GROQ_", "PYTHON"))}
        return subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            cwd=self.place,
            env=clean | environment,
        )


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def questions(installed):
    lines = [json.dumps({"custom_id": f"row-{n}", "prompt": f"Why {n}?", "model": MODEL}) for n in range(5)]
    (installed.place / "questions.jsonl").write_text("\n".join(lines) + "\n")


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    """
    Every file of ours, the scripts for Redis, the marker for type checkers and the licence; no tests, no benchmarks.
    """
    names = set(zipfile.ZipFile(wheel).namelist())

    package = ROOT / "groq_queue"
    sources = {str(path.relative_to(ROOT)) for suffix in ("py", "lua") for path in package.rglob(f"*.{suffix}")}
    assert {"groq_queue/limiters/lua/store.lua", "groq_queue/distributed/lua/shared.lua"} <= sources
    assert sources <= names
    assert "groq_queue/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert {"groq_queue"} == {name.split("/")[0] for name in names if ".dist-info/" not in name}


def test_the_package_that_runs_is_the_installed_one(installed):
    ran = installed.run("python", "-c", "import groq_queue; print(groq_queue.__file__)")

    assert Path(ran.stdout.strip()).is_relative_to(installed.site)


def test_run_answers_every_line_and_estimate_counts_them_beforehand(installed, questions):
    told = installed.run("groq-queue", "estimate", "questions.jsonl", "--rpm", "30", "--tpm", "6000")
    with GroqSimulator() as groq:
        ran = installed.run(
            "groq-queue", "run", "questions.jsonl", "-o", "answers.jsonl", "--base-url", groq.base_url
        )  # no key: it is this machine
        assert 5 == groq.stats().admitted

    assert (0, "") == (told.returncode, told.stderr)
    assert "requests            5\n" in told.stdout
    assert (0, "") == (ran.returncode, ran.stdout)
    assert "5 done, 0 failed" in ran.stderr
    answers = [json.loads(line) for line in (installed.place / "answers.jsonl").read_text().splitlines()]
    assert {f"row-{n}" for n in range(5)} == {answer["custom_id"] for answer in answers}
    assert all(answer["response"]["status_code"] == 200 for answer in answers)


def test_doctor_finds_nothing_wrong_with_a_good_key_and_names_a_missing_one(installed):
    with GroqSimulator(api_keys=["gsk_right"]) as groq:
        well = installed.run("groq-queue", "doctor", GROQ_API_KEY="gsk_right", GROQ_BASE_URL=groq.base_url)
        ill = installed.run("groq-queue", "doctor", GROQ_API_KEY="gsk_wrong", GROQ_BASE_URL=groq.base_url)

    assert 0 == well.returncode, well.stdout + well.stderr
    assert 3 == ill.returncode
    assert "GROQ_API_KEY" in ill.stdout + ill.stderr
    for ran in (well, ill):
        assert "gsk_" not in ran.stdout + ran.stderr


def test_completion_is_a_script_that_bash_accepts(installed):
    ran = installed.run("groq-queue", "completion", "bash")

    assert (0, "") == (ran.returncode, ran.stderr)
    assert "complete" in ran.stdout
    subprocess.run([needs_program("bash"), "-n"], input=ran.stdout, text=True, check=True, timeout=HANG_S)


@pytest.mark.slow
def test_demo_compares_both_and_names_the_next_command(installed):
    ran = installed.run("groq-queue", "demo")

    assert 0 == ran.returncode, ran.stderr
    assert "groq-queue run" in ran.stdout


def test_a_type_checker_of_the_user_sees_our_types(installed):
    """
    Without py.typed everything would be Any.
    """
    needs("mypy")
    (installed.place / "program.py").write_text(
        "from groq_queue import GroqQueue\n"
        "with GroqQueue.simulated() as queue:\n"
        "    reveal_type(queue.submit('Why?').result().text)\n"
        "    queue.stats().pendin\n"
    )

    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(installed.bin / "python"), "program.py"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        cwd=installed.place,
    )

    assert 'Revealed type is "str"' in ran.stdout.replace("builtins.", "")
    assert '"Stats" has no attribute "pendin"' in ran.stdout
    assert 1 == ran.stdout.count("error:"), ran.stdout

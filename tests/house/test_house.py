"""The house keeps its promises: imports point one way, extras stay out, the README's code runs."""

from __future__ import annotations

import ast
import configparser
import doctest
import functools
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import groq_queue
from tests.extras import needs

PACKAGE = Path(groq_queue.__file__).parent
ROOT = PACKAGE.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

MAY_IMPORT = {
    "errors": set(),
    "clock": set(),
    "display": set(),
    "logger": set(),
    "lifecycle": {"display"},
    "sqlite_file": set(),
    "core": {"errors", "clock"},  # of the clock, how many nanoseconds a second has; see below
    "engine": {"display", "logger", "core", "errors", "clock", "lifecycle"},
    "transport": {"logger", "errors"},
    "limiters": {"logger", "core", "errors", "clock", "lifecycle", "sqlite_file"},
    "simulator": set(),
    "journal": {"core", "errors", "clock", "sqlite_file"},
    "distributed": {"logger", "core", "engine", "errors", "clock"},
    "wiring": {"logger", "core", "engine", "transport", "journal", "limiters", "distributed", "errors", "clock"},
    "reporting": {"display", "logger", "core", "engine", "limiters", "errors", "clock"},
    "api": {"wiring", "core", "display", "engine", "logger", "reporting", "simulator", "errors", "clock", "lifecycle"},
    "__init__": {"core", "engine", "api", "simulator", "reporting", "errors"},
    "integrations": {"logger", "clock", "core", "engine", "errors", "api", "__init__"},
    "testing": {"clock", "simulator"},
    "cli": {
        *("core", "engine", "transport", "journal", "limiters", "simulator", "reporting"),
        *("api", "errors", "clock", "__init__"),
        *("wiring", "display", "distributed"),
    },
    "__main__": {"cli"},
}


def rooms_imported_by(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name == "groq_queue":
                rooms.add("__init__")
            elif name.startswith("groq_queue."):
                rooms.add(name.split(".")[1])
    return rooms


def files() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 30
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    assert rooms_imported_by(path) - {room} <= MAY_IMPORT[room]


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Return what a file imports, as dotted names: the module, and each name that is taken from it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def calls_in(path: Path) -> set[str]:
    """Return the dotted names of everything that a file calls or hands on by a dotted name."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


def test_core_touches_no_thread_no_socket_and_no_clock():
    core = sorted((PACKAGE / "core").glob("*.py"))

    assert len(core) > 10
    for path in core:
        roots = {name.split(".")[0] for name in imports_of(path)}
        assert roots <= sys.stdlib_module_names | {"groq_queue"}, path.name
        assert not roots & {"threading", "socket", "time", "sqlite3", "logging", "queue"}, path.name
        of_clock = {name for name in imports_of(path) if name.startswith("groq_queue.clock")}
        assert of_clock <= {"groq_queue.clock", "groq_queue.clock.NS_PER_S"}, path.name


def test_only_the_engine_and_the_clock_start_or_know_threads():
    allowed = {"engine", "simulator", "distributed"}
    signals = PACKAGE / "cli" / "__init__.py"  # one that wakes a command's main thread after a signal
    for path in files():
        if path.relative_to(PACKAGE).parts[0] not in allowed and path != signals:
            starters = {"threading.Thread", "threading.Timer"}
            assert not starters & (imports_of(path) | calls_in(path)), path.name


def test_nobody_sleeps():
    """
    But for the other side of the demo's comparison, the program that people write without a queue.
    """
    for path in files():
        if path.name != "demo.py":
            assert "time.sleep" not in imports_of(path) | calls_in(path), path.name


def test_a_clean_import_loads_no_extra():
    """
    Neither an optional package, nor the simulator's asyncio, nor requests, which only a user's session needs,
    nor the tables of a report.
    """
    script = (
        "import sys, groq_queue\ngroq_queue.GroqQueue, groq_queue.ConfigurationError\n"
        "extras = 'redis celery pandas polars httpx httpx2 groq openai prometheus_client opentelemetry matplotlib "
        "tqdm IPython asyncio requests groq_queue.simulator groq_queue.reporting sqlite3'.split()\n"
        "print([name for name in extras if name in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert "[]\n" == printed


def test_every_name_of_the_front_door_is_there():
    for name in groq_queue.__all__:
        assert getattr(groq_queue, name) is not None
    assert sorted(groq_queue.__all__) == groq_queue.__all__


@pytest.mark.parametrize(
    "name",
    [found.name for found in pkgutil.walk_packages(groq_queue.__path__, "groq_queue.") if "__main__" not in found.name],
)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(name)

    assert 0 == doctest.testmod(module).failed


def test_the_docstrings_hold_examples():
    finder = doctest.DocTestFinder()
    names = [found.name for found in pkgutil.walk_packages(groq_queue.__path__, "groq_queue.")]
    modules = [importlib.import_module(name) for name in names if "__main__" not in name]

    assert 10 < sum(len(test.examples) for module in modules for test in finder.find(module))


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


PROGRAMS = [
    pytest.param(page, code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks("python", page))
]


@pytest.fixture(scope="module")
def programs(request, tmp_path_factory):
    """What came of the pages' programs that are asked for: each ran in a folder of its own, three at a time."""
    asked = [
        item.callspec.params
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    with ThreadPoolExecutor(3) as pool:
        started = {}
        for params in asked:
            if "code" in params:
                started[params["code"]] = pool.submit(run_block, params["code"], tmp_path_factory.mktemp("block"))
            elif "line" in params:
                started[params["line"]] = pool.submit(run_line, params["line"], tmp_path_factory.mktemp("line"))
    return {name: running.result() for name, running in started.items()}


def run_block(code, folder):
    """Run a program; one that holds tests is run by pytest, with the fixtures of this package."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    if "\ndef test_" in code:
        (folder / "test_block.py").write_text(code)
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "groq_queue.testing.plugin", "test_block.py"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, env=environment)


@pytest.mark.parametrize(("page", "code"), PROGRAMS)
def test_every_python_block_runs(page, code, programs):
    """
    A block followed by a text block prints exactly that.
    """
    for package in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        needs(package)
    text = page.read_text(encoding="utf-8")
    expected = re.search(re.escape(f"```python\n{code}```") + r"\n+```text\n(.*?)```", text, re.DOTALL)

    done = programs[code]

    assert 0 == done.returncode, done.stderr
    if expected:
        assert expected.group(1) == done.stdout


def shell_lines() -> list[str]:
    lines = [
        line.partition("  #")[0].strip()
        for page in PAGES
        for block in blocks("sh", page)
        for line in block.splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line))


def test_the_pages_have_blocks_to_run():
    assert len(blocks("python", ROOT / "README.md")) >= 2
    assert len(PROGRAMS) >= 15
    assert {"python3", "groq-queue"} == {line.split()[0] for line in shell_lines()}


def test_every_link_of_a_page_leads_somewhere():
    """
    To a file of the checkout, and to a heading of it if one is named.
    """
    for page in PAGES:
        links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        for path, _, heading in (link.partition("#") for link in links if "://" not in link):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {path}"
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
            names = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert not heading or heading in names, f"{page.name}: {path}#{heading}"


def test_every_proof_that_the_guarantees_name_is_there():
    proofs = re.findall(r"`((?:tests|benchmarks)/[^`:]+)(?:::(\w+))?`", (ROOT / "docs" / "guarantees.md").read_text())

    assert len(proofs) > 15
    for path, name in proofs:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(), name


def test_the_page_of_the_architecture_has_every_room_in_the_order_of_imports_and_names_files_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    order = [name for name in re.findall(r"^\| `(\w+)", text, re.MULTILINE) if name in MAY_IMPORT]

    assert [] == sorted(name for name in rooms if not name.startswith("__") and f"`{name}`" not in text)
    assert [] == [path for path in re.findall(r"`(\w+/\w+\.py)`", text) if not (PACKAGE / path).exists()]
    assert len(order) > 12
    assert [] == [room for place, room in enumerate(order) if MAY_IMPORT[room] & set(order[:place])]


def test_the_readme_is_short_and_names_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 180
    assert [] == [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text]


def test_the_configuration_page_has_every_argument_and_every_option():
    """
    In the first column of a table, or in the sentence about one request.
    """
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    made, submitted = (
        set(inspect.signature(call).parameters) for call in (groq_queue.GroqQueue, groq_queue.GroqQueue.submit)
    )

    assert [] == sorted(name for name in made | submitted - {"self", "prompt", "params"} if f"`{name}" not in text)


def test_the_page_of_errors_has_every_error():
    text = (ROOT / "docs" / "answers-and-errors.md").read_text(encoding="utf-8")
    errors = [name for name in groq_queue.__all__ if name.endswith(("Error", "Argument", "Reached", "Full", "Busy"))]

    assert len(errors) > 20
    assert [] == [name for name in errors if f"`{name}`" not in text]


def run_line(line, folder):
    """Run a command of a page as typed, but for the port; a simulator stands where the API would be."""
    question = '{"prompt": "Why?", "model": "llama-3.1-8b-instant"}\n'
    (folder / "questions.jsonl").write_text(question * 2)
    (folder / "prompts.txt").write_text("Why?\nWhy not?\n")
    with groq_queue.GroqSimulator() as groq:
        words = line.replace("http://127.0.0.1:PORT/openai/v1", groq.base_url).split()
        environment = {
            **os.environ,
            "GROQ_API_KEY": "gsk_test",
            "GROQ_BASE_URL": groq.base_url,
            "PYTHONPATH": str(PACKAGE.parent),
        }
        if "--journal" in words and words[1] != "run":
            run = ["run", "questions.jsonl", "-o", "answers.jsonl", "--journal", "run.db"]
            subprocess.run(
                [sys.executable, "-m", "groq_queue", *run], cwd=folder, env=environment, check=True, capture_output=True
            )
        process = subprocess.Popen(
            [sys.executable, "-m", "groq_queue", *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment,
        )
        try:
            if words[1] == "simulate":
                assert process.stdout.readline().startswith("http://127.0.0.1:")
                process.terminate()
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
    answers = folder / "answers.jsonl"
    return process.returncode, err, len(answers.read_text().splitlines()) if answers.exists() else 0


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("groq-queue")])
def test_every_command_of_a_page_runs(line, programs):
    """
    A journal that is looked at comes from a run.
    """
    code, err, answered = programs[line]

    assert 0 == code, err
    if line.startswith("groq-queue run") and " -o " in line:
        assert 2 == answered


def test_the_gate_finds_the_two_set_up_commands_in_the_readme():
    """
    It runs what stands in the first block of shell commands, in fresh environments; see .ci/run.
    """
    first = blocks("sh", ROOT / "README.md")[0].splitlines()
    gate = (PACKAGE.parent / ".ci" / "run").read_text()
    (found,) = re.findall(r"< <(\(awk .*? README\.md\))$", gate, re.MULTILINE)

    read = subprocess.run(["bash", "-c", found[1:-1]], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)

    assert first == read.stdout.splitlines()
    assert 2 == len(first)
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install -q ") for line in first)
    assert first[0].endswith(" && .venv/bin/groq-queue demo")
    assert first[1].endswith(" && .venv/bin/python -m pytest -q")


def required(extra: str | None) -> set[str]:
    """Return the names of the packages that setup.cfg requires, for *extra* or to run at all."""
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    listed = setup["options.extras_require"][extra] if extra else setup["options"]["install_requires"]
    return {re.split(r"[^\w-]", line)[0] for line in listed.split("\n") if line and "%(" not in line}


def test_what_the_package_needs_to_run_is_what_setup_cfg_requires():
    """
    An import of another package, or a requirement that is gone, would only be seen on a machine that lacks it.
    """
    of_extras = {
        *("celery", "kombu", "redis", "tomli", "matplotlib", "prometheus_client", "opentelemetry"),
        *("pandas", "polars", "IPython", "numpy", "httpx", "httpx2", "groq", "openai", "pytest"),
    }
    imported: dict[str, set[str]] = {}
    for path in files():
        tree = ast.parse(path.read_text())
        blocks = [
            each for each in ast.walk(tree) if isinstance(each, ast.If) and "TYPE_CHECKING" == ast.unparse(each.test)
        ]
        for_checkers = {node for block in blocks for each in block.body for node in ast.walk(each)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                root = name.partition(".")[0]
                if root == "typing_extensions" and node in for_checkers:
                    continue  # every type checker brings it, so a program does not need it
                if root not in sys.stdlib_module_names | {"groq_queue"}:
                    imported.setdefault(root, set()).add(path.name)

    assert {"requests", "urllib3"} == required(None)
    assert {"pytest", "freezegun"} == required("test")
    newer = {"tomllib"}  # of the stdlib, from Python 3.11 on
    assert required(None) | {"certifi"} == set(imported) - of_extras - newer, imported  # requests requires certifi


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "tests/README.md"])
def test_the_pytest_commands_of_a_page_name_what_is_there(page):
    text = (PACKAGE.parent / page).read_text()
    commands = re.findall(r"`(?:\.venv/bin/)?python -m pytest ([^`]+)`", text)
    named = {word for command in commands for word in command.split() if word.startswith("tests/")}

    assert len(commands) >= 4
    assert named
    assert [] == [name for name in sorted(named) if not (PACKAGE.parent / name).exists()]
    assert {"slow", "gate"} >= {marker for command in commands for marker in re.findall(r'-m "?(\w+)', command)} - {
        "not"
    }


def test_nothing_in_the_repository_names_a_machine():
    """
    Nor in a copy of it that is not under git, where every file counts but those of environments and caches.
    """
    root = PACKAGE.parent
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True).stdout.splitlines()
    names = listed or [str(path.relative_to(root)) for path in root.rglob("*")]
    texts = [
        root / name
        for name in names
        if Path(name).suffix in {".py", ".md", ".cfg", ".toml", ".yml", ""}
        and not re.search(r"(^|/)(\.venv|\.git|\.[a-z]+_cache|build|results)/", name)
        and (root / name).is_file()
    ]

    assert {"README.md", "groq_queue/__init__.py", ".ci/run"} <= {str(path.relative_to(root)) for path in texts}
    for path in texts:
        assert not re.search(r"(^|[^A-Za-z0-9.])/(work|root|farm)/", path.read_text(errors="replace")), path.name

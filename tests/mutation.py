"""Mutation testing: put single faults into a room of the package and see whether its tests notice.

    python -m tests.mutation core --sample 300

First the room's tests run once under ``coverage`` to learn which test executes which line. Then each fault of a random
sample is written into a copy of the checkout, and the tests that execute its line run until one fails. A fault that no
test notices is a survivor: either a test is missing, or the fault changes nothing that anybody could see. The latter
stand in ``equivalents/ROOM.txt``, one a line as ``NAME # reason``, and are left out of the figure.

Why not a published tool: mutmut 3 leaves out what stands outside functions and runs the tests in forks of one process,
although many of ours fork and start processes themselves; cosmic-ray changes the checkout in place and runs the same
command for every fault.

A fault is named by its file, the function it stands in, and the text before and after, never by a line number, so
that the names survive edits elsewhere.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENTS = Path(__file__).with_name("equivalents")
TESTS = {
    "core": ["tests/core", "tests/limiters/test_in_process_meter.py"],
    "engine": ["tests/engine", "tests/api", "tests/test_queue_on_the_wire.py", "tests/test_log_records.py"],
    "limiters": ["tests/limiters"],
    "journal": ["tests/journal", "tests/test_journal_queue.py"],
    "sqlite_file": ["tests/test_sqlite_file.py", "tests/journal", "tests/limiters/test_sqlite_store.py"],
    "transport": ["tests/transport"],
}
_CONTEXTS = "GROQ_QUEUE_MUTATION_CONTEXTS"  # where the run under coverage leaves what it learnt

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


@dataclass(frozen=True)
class Mutant:
    """One fault: the text between two offsets of a file, and what stands there instead."""

    file: str  # below groq_queue/
    function: str
    line: int
    start: int  # offsets into the file's bytes
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        return f"{self.file} | {self.function} | {self.before} -> {self.after}"

    def applied_to(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]


class _Finder(ast.NodeVisitor):
    """Collects the faults that one file may have."""

    def __init__(self, file: str, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._file = file
        self._source = source
        self._scope: list[str] = []
        self._line_starts = [0]
        for line in source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))
        self.visit(ast.parse(source))

    def _add(self, node: ast.expr | ast.stmt, after: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._line_starts[node.lineno - 1] + node.col_offset
        end = self._line_starts[node.end_lineno - 1] + node.end_col_offset
        before = " ".join(self._source[start:end].decode().split())
        function = ".".join(self._scope) or "module"
        self.found.append(Mutant(self._file, function, node.lineno, start, end, before, after))

    def _add_expression(self, node: ast.expr, changed: ast.expr) -> None:
        self._add(node, f"({ast.unparse(changed)})")

    def _visit_scope(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        is_protocol = isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
        is_overload = isinstance(node, ast.FunctionDef) and "overload" in map(ast.unparse, node.decorator_list)
        if is_protocol or is_overload:
            return
        self._scope.append(node.name)
        if isinstance(node, ast.FunctionDef):
            for default in [*node.args.defaults, *(value for value in node.args.kw_defaults if value is not None)]:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self._scope.pop()

    visit_FunctionDef = visit_ClassDef = _visit_scope

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave texts alone; before Python 3.12 what is inside has no positions either."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self._add_expression(node.test, ast.UnaryOp(ast.Not(), node.test))
            self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._add_expression(node.test, ast.UnaryOp(ast.Not(), node.test))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._add_expression(node.test, ast.UnaryOp(ast.Not(), node.test))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for index, operator in enumerate(node.ops):
            ops = [*node.ops]
            ops[index] = _COMPARE[type(operator)]()
            self._add_expression(node, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        is_text = any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in (node.left, node.right))
        if type(node.op) in _ARITHMETIC and not is_text:
            self._add_expression(node, ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._add_expression(node, ast.BoolOp(other, node.values))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self._add_expression(node, node.operand)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add_expression(node, ast.Constant(not node.value))
        elif isinstance(node.value, (int, float)):
            self._add_expression(node, ast.Constant(node.value + 1))

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
            other = "max" if node.func.id == "min" else "min"
            self._add_expression(node, ast.Call(ast.Name(other), node.args, node.keywords))
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._add(node, "return None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self._add(node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._add(node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self._add(node, "pass")
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._add(node, "pass")

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(node, "pass")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._add(node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(node, "break")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def mutants_of(room: str) -> list[Mutant]:
    """Return every fault that can be put into *room*, a folder or a file, in the order of the text."""
    package = ROOT / "groq_queue"
    found: list[Mutant] = []
    for path in sorted((package / room).rglob("*.py")) or [package / f"{room}.py"]:
        found += _Finder(str(path.relative_to(package)), path.read_bytes()).found
    assert found, f"there is no room {room}"
    return found


def equivalents_of(room: str) -> dict[str, str]:
    """Return the faults that nobody could see, with the reason of each."""
    found: dict[str, str] = {}
    path = EQUIVALENTS / f"{room}.txt"
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(" # ")
            assert reason.strip(), f"no reason: {line}"
            found[name.strip()] = reason.strip()
    return found


class Tests:
    """Which test executes which line, and how long each takes."""

    def __init__(self, learnt: dict[str, Any]) -> None:
        self._lines: dict[str, dict[str, list[int]]] = learnt["lines"]  # file -> line -> numbers of tests
        self._names: list[str] = learnt["tests"]
        self._seconds: list[float] = learnt["seconds"]

    def of(self, mutant: Mutant) -> tuple[list[str], float]:
        """Return the tests that execute the mutant's line, the fastest first, and their seconds.

        A line that runs when the file is imported is everybody's who uses the file.
        """
        lines = self._lines.get(mutant.file, {})
        numbers = lines.get(str(mutant.line)) or sorted({number for tests in lines.values() for number in tests})
        numbers = sorted(numbers or range(len(self._names)), key=self._seconds.__getitem__)
        return [self._names[number] for number in numbers], sum(self._seconds[number] for number in numbers)


def pytest_configure(config: Any) -> None:
    """Learn what each test executes, if this module was loaded as a plugin by ``_learn``."""
    target = os.environ.get(_CONTEXTS)
    if target is not None:
        config.pluginmanager.register(_Learner(Path(target)))


class _Learner:
    """The plugin of the run under coverage."""

    def __init__(self, target: Path) -> None:
        import coverage

        self._target = target
        self._seconds: dict[str, float] = {}
        self._coverage = coverage.Coverage(data_file=None, source=["groq_queue"], messages=False)
        self._coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_unconfigure(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        names = list(self._seconds)
        number_of = {name: number for number, name in enumerate(names)}
        lines: dict[str, dict[int, list[int]]] = {}
        for path in data.measured_files():
            file = path.rpartition("groq_queue/")[2]
            lines[file] = {
                line: [number_of[name] for name in contexts if name in number_of]
                for line, contexts in data.contexts_by_lineno(path).items()
            }
        learnt = {"tests": names, "seconds": list(self._seconds.values()), "lines": lines}
        self._target.write_text(json.dumps(learnt))


def _learn(checkout: Path, tests: list[str]) -> Tests:
    target = checkout / "learnt.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutation", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=checkout, env=_environment(checkout) | {_CONTEXTS: str(target)}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"the tests fail without any fault:\n{done.stdout[-4_000:]}{done.stderr[-2_000:]}")
    return Tests(json.loads(target.read_text()))


def _environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}


def _copies(count: int, folder: Path) -> Iterator[Path]:
    """Yield copies of what git knows of the checkout, changed and new files included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for number in range(count):
        copy = folder / f"copy{number}"
        for name in listed.splitlines():
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        yield copy


def is_noticed(mutant: Mutant, checkout: Path, tests: Tests) -> bool:
    """Return whether a test fails, or no longer ends, when the fault is in *checkout*."""
    names, seconds = tests.of(mutant)
    path = checkout / "groq_queue" / mutant.file
    sound = path.read_bytes()
    listed = checkout / "tests.txt"
    listed.write_text("\n".join(names))
    path.write_bytes(mutant.applied_to(sound))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"@{listed}"]
    run = subprocess.Popen(
        command,
        cwd=checkout,
        env=_environment(checkout),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return run.wait(30 + 4 * seconds) != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        path.write_bytes(sound)


def main(arguments: list[str] | None = None) -> int:
    """Draw a sample of faults, try each, and print the figure and the survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.split("\n\n")[0])
    parser.add_argument("room", choices=sorted(TESTS))
    parser.add_argument("--sample", type=int, default=150, help="how many faults (150)")
    parser.add_argument("--seed", type=int, default=1, help="which sample (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time (one a core)")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 below this share of noticed faults")
    parser.add_argument("--only", metavar="FILE", help="only the faults whose names stand in this file, one a line")
    parser.add_argument("--survivors", metavar="FILE", help="write the names of the survivors there, for --only")
    options = parser.parse_args(arguments)

    known = equivalents_of(options.room)
    faults = mutants_of(options.room)
    if options.only:
        wanted = set(Path(options.only).read_text().splitlines())
        sample = [mutant for mutant in faults if mutant.name in wanted]
    else:
        sample = random.Random(options.seed).sample(faults, min(options.sample, len(faults)))
    left_out = [mutant for mutant in sample if mutant.name in known]
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for mutant in sample:
        if mutant.name not in known:
            waiting.put(mutant)
    to_try = waiting.qsize()
    survivors: list[Mutant] = []

    def work(checkout: Path) -> None:
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            if not is_noticed(mutant, checkout, tests):
                survivors.append(mutant)
                print(f"survived: {mutant.name} (line {mutant.line})", flush=True)

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copies = list(_copies(options.jobs, Path(folder)))
        tests = _learn(copies[0], TESTS[options.room])
        workers = [threading.Thread(target=work, args=(copy,)) for copy in copies]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    if options.survivors:
        Path(options.survivors).write_text("".join(f"{mutant.name}\n" for mutant in survivors))
    for mutant in left_out:
        print(f"equivalent: {mutant.name}: {known[mutant.name]}")
    share = 1 - len(survivors) / to_try if to_try else 1.0
    print(
        f"{options.room}: {to_try - len(survivors)} of {to_try} faults noticed ({share:.1%}), "
        f"{len(left_out)} more are equivalent, of {len(faults)} possible; {time.monotonic() - started:.0f} s"
    )
    return int(share < options.at_least)


if __name__ == "__main__":
    raise SystemExit(main())

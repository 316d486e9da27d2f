"""The engine's lock has one owner: no other file of ``engine`` is given it, takes it, or keeps it."""

from __future__ import annotations

import ast
import gc
import threading
from pathlib import Path

import pytest

from groq_queue.clock import FakeClock
from groq_queue.engine.background import Timers
from groq_queue.engine.thread_engine import ThreadEngine
from groq_queue.limiters.in_process import ProcessLimiter

ENGINE = Path(__file__).resolve().parent.parent.parent / "groq_queue" / "engine"
OWNER = "thread_engine.py"
# Made with the owner's lock. The pool's Conditions share it: who waits for a job must let go of the lock under which
# the job will be found, or a wake-up between the look and the wait would be lost. A lane is a PriorityQueue, and the
# lock is its mutex: it takes it nowhere. The tests of both construct them with a lock.
PARTNERS = {"worker_pool.py", "lane.py"}

_MAKERS = {"threading.Lock", "threading.RLock", "threading.Condition", "Lock", "RLock", "Condition"}


def _makes_a_lock(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in _MAKERS


def _own_locks(tree: ast.AST) -> set[str]:
    """Return the names of what the file itself makes and takes as a lock."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and _makes_a_lock(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target).rpartition(".")[2] for target in targets}
    return found


def _is_a_locks_name(name: str) -> bool:
    return "lock" in name.split("_") or name == "critical_section"


def borrowed_locks(source: str) -> list[str]:
    """Return each place of a file where it receives a lock, or takes one that it has not made."""
    tree = ast.parse(source)
    own = _own_locks(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            arguments = node.args
            for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                kind = "" if each.annotation is None else ast.unparse(each.annotation)
                if any(maker in kind for maker in _MAKERS if "." in maker) or _is_a_locks_name(each.arg):
                    found.append(f"{node.lineno}: receives {each.arg}")
        elif isinstance(node, ast.With):
            for part in node.items:
                taken = part.context_expr
                if isinstance(taken, ast.Call):
                    taken = taken.func
                name = ast.unparse(taken).rpartition(".")[2]
                is_state = ast.unparse(taken).startswith("self.") and not isinstance(part.context_expr, ast.Call)
                if name not in own and (is_state or _is_a_locks_name(name)):
                    found.append(f"{node.lineno}: takes {ast.unparse(taken)}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "acquire":
            name = ast.unparse(node.func.value).rpartition(".")[2]
            if name not in own:
                found.append(f"{node.lineno}: takes {ast.unparse(node.func.value)}")
    return found


@pytest.mark.parametrize("path", sorted(ENGINE.glob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_engine_takes_no_lock_but_its_own(path):
    if path.name in PARTNERS:
        assert borrowed_locks(path.read_text()), "it is an exception no longer"
    else:
        assert [] == borrowed_locks(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def __init__(self, lock: threading.RLock): pass",
        "class A:\n    def __init__(self, guard: threading.Condition): pass",
        "class A:\n    def go(self):\n        with self._lock: pass",
        "class A:\n    def go(self):\n        with self._guard: pass",
        "class A:\n    def go(self):\n        with self._engine._lock: pass",
        "class A:\n    def go(self):\n        with self._engine.critical_section(): pass",
        "class A:\n    def go(self):\n        self._engine._lock.acquire()",
        "enter = lambda lock: lock",
    ],
)
def test_a_borrowed_lock_is_found(source):
    assert 1 == len(borrowed_locks(source))


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def __init__(self):\n        self._guard = threading.RLock()\n"
        "    def go(self):\n        with self._guard: pass",
        "class A:\n    def __init__(self):\n        self._lock: Any = threading.Lock()\n        self._lock.acquire()",
        "def go(aside: AbstractContextManager[None]):\n    with aside, self._waiting(): pass",
    ],
)
def test_a_lock_of_ones_own_is_not(source):
    assert [] == borrowed_locks(source)


def test_only_the_engine_its_pool_and_its_lanes_keep_the_engines_lock():
    """
    Whatever it is called, in whatever it is hidden: every object that can be reached from an engine is looked into.
    """
    clock = FakeClock()
    engine = ThreadEngine(
        attempts=None,  # type: ignore[arg-type]
        meter_of=ProcessLimiter(None).meter,
        clock=clock,
        timers=Timers(clock, "lock"),
        max_workers=1,
    )
    engine._table.lane(type("Request", (), {"lane": "m", "model": "m"})())  # type: ignore[arg-type]

    assert {"ThreadEngine", "WorkerPool", "Lane"} == keepers(engine, engine._lock)


def keepers(start: object, lock: object) -> set[str]:
    """Return the classes of the package whose instances keep *lock*, or a condition made of it."""
    found: set[str] = set()
    seen, todo = {id(start)}, [(start, "")]
    while todo:
        each, owner = todo.pop()
        kind = type(each)
        if kind.__module__.startswith("groq_queue."):
            owner = kind.__qualname__
        elif isinstance(each, type) or kind.__name__ == "module":
            continue
        for inner in gc.get_referents(each):
            if inner is lock:
                found.add(owner)
            elif id(inner) not in seen and not (kind.__name__ == "function" and inner is each.__globals__):  # type: ignore[attr-defined]
                seen.add(id(inner))
                todo.append((inner, owner))
    return found


class _Keeper:
    """Keeps a lock in one of the ways in which one can."""

    def __init__(self, kept: object) -> None:
        self.kept = kept


@pytest.mark.parametrize(
    "hide", [lambda lock: lock, threading.Condition, lambda lock: [{"x": lock}], lambda lock: lambda: lock]
)
def test_a_lock_is_found_wherever_it_is_kept(hide, monkeypatch):
    monkeypatch.setattr(_Keeper, "__module__", "groq_queue.engine.made_up")
    lock = threading.RLock()

    assert {"_Keeper"} == keepers(_Keeper(hide(lock)), lock)
    assert set() == keepers(_Keeper(hide(threading.RLock())), lock)

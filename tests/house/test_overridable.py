"""What a protocol calls a method can be overridden in a subclass: no instance attribute hides it."""

from __future__ import annotations

import ast
import threading
from pathlib import Path

from groq_queue.clock import NS_PER_S, SystemClock

NO_METHOD = {"engine/lane.py: Lane.meter"}  # a lane has a meter and levels like a limiter, and is none
PACKAGE = Path(__file__).resolve().parent.parent.parent / "groq_queue"


def _is_property(method: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in method.decorator_list)


def _methods(node: ast.ClassDef) -> set[str]:
    return {part.name for part in node.body if isinstance(part, ast.FunctionDef) and not _is_property(part)}


def _set_on_instances(node: ast.ClassDef) -> set[str]:
    return {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and "self" == part.value.id
    }


def hidden_methods(sources: dict[str, str]) -> list[str]:
    """Return each place where an instance attribute takes the place of a method that its class promises.

    A class promises what it and its bases define, and the methods of every protocol that it satisfies by its methods
    and attributes together, if at least one of them is a method.
    """
    classes = {
        (file, node.name): node
        for file, source in sources.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    }
    protocols = [node for node in classes.values() if any("Protocol" in ast.unparse(base) for base in node.bases)]
    by_name: dict[str, list[ast.ClassDef]] = {}
    for node in classes.values():
        by_name.setdefault(node.name, []).append(node)

    def inherited(node: ast.ClassDef, seen: frozenset[str] = frozenset()) -> set[str]:
        names = _methods(node)
        for base in node.bases:
            name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
            for parent in by_name.get(name, []) if name not in seen else []:
                names |= inherited(parent, seen | {name})
        return names

    found = []
    for (file, name), node in classes.items():
        own, stored = inherited(node), _set_on_instances(node)
        promised = set(own)
        for protocol in protocols:
            wanted = {part.name for part in protocol.body if isinstance(part, ast.FunctionDef)}
            if wanted & own and wanted <= own | stored:
                promised |= _methods(protocol)
        found += [f"{file}: {name}.{attribute}" for attribute in sorted(promised & stored)]
    return found


def test_no_instance_attribute_takes_the_place_of_a_method():
    sources = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}

    assert 100 < len(sources)
    assert NO_METHOD == set(hidden_methods(sources))


def test_a_reader_stored_in_place_of_a_clocks_method_is_found():
    protocol = "class Clock(Protocol):\n    def now_ns(self): ...\n    def wall_s(self): ...\n"
    clock = "class Fast:\n    def __init__(self):\n        self.now_ns = read\n    def wall_s(self): return 0.0\n"
    child = "class Child(Base):\n    def __init__(self): self.go = 1\n"
    base = "class Base:\n    def go(self): return 2\n"

    assert ["clock: Fast.now_ns"] == hidden_methods({"protocol": protocol, "clock": clock})
    assert ["child: Child.go"] == hidden_methods({"child": child, "base": base})


def test_a_subclass_of_the_machines_clock_decides_what_time_it_is():
    """
    Also for the waits that the class itself computes.
    """

    class Late(SystemClock):
        def now_ns(self) -> int:
            return super().now_ns() + 3_600 * NS_PER_S

    machine, late, condition = SystemClock(), Late(), threading.Condition()

    ahead_ns = late.now_ns() - machine.now_ns()
    with condition:
        late.wait(condition, machine.now_ns() + 60 * NS_PER_S)  # long past, by this clock

    assert 3_599 < ahead_ns / NS_PER_S < 3_601

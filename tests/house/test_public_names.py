"""What users may write stays as it is: every public name, with its parameters, their kinds and their defaults.

``public_names.txt`` holds it, a name a line. A change on purpose is made there too, so that nobody changes it unseen:
``python -m tests.house.test_public_names`` writes the file anew.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import groq_queue

FROZEN = Path(__file__).with_name("public_names.txt")
MODULES = {
    "groq_queue": groq_queue.__all__,
    "groq_queue.integrations": ["requests_adapter", "sdk_http_client"],
    "groq_queue.integrations.otel": ["observer"],
    "groq_queue.integrations.prometheus": ["collector", "register"],
    "groq_queue.simulator": ["Fault", "GroqSimulator", "Record", "SimulatorStats", "go_duration"],
    "groq_queue.testing": ["FakeClock", "Fault", "GroqSimulator"],
}


# What the engine calls on its Futures; a program calls what every Future has, and reads their ids.
INTERNAL = {
    "groq_queue.RequestFuture": {
        *("call", "call_at_end", "end", "end_cancelled", "leave_to_parent", "run_callbacks", "take_callbacks"),
    }
}


def _parameters(call: Any) -> str:
    """Return a signature without annotations, which may become more exact at any time."""
    signature = inspect.signature(call)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _members(name: str, kind: type) -> Iterator[str]:
    """Yield a line for each public member that the package itself defines."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("groq_queue")]
    names = sorted({member for base in own for member in vars(base) if not member.startswith("_")})
    for member in names:
        if member in INTERNAL.get(name, ()) or not hasattr(kind, member):  # it may say where the name really is
            continue
        found = inspect.getattr_static(kind, member)
        if isinstance(found, (staticmethod, classmethod)):
            yield f"{name}.{member}{_parameters(getattr(kind, member))}"
        elif inspect.isfunction(found):
            yield f"{name}.{member}{_parameters(found)}"
        else:
            yield f"{name}.{member}"


def public_names() -> list[str]:
    """Return every public name, a line each."""
    lines = []
    for module_name, names in MODULES.items():
        module = importlib.import_module(module_name)
        for name in names:
            found = getattr(module, name)
            path = f"{module_name}.{name}"
            if not inspect.isclass(found):
                lines.append(f"{path}{_parameters(found)}" if callable(found) else path)
                continue
            is_made_by_users = dataclasses.is_dataclass(found) or "__init__" in vars(found)
            lines.append(
                f"{path}{_parameters(found)}" if is_made_by_users and not issubclass(found, enum.Enum) else path
            )
            lines.extend(_members(path, found))
    return sorted(set(lines))


def test_every_public_name_takes_what_it_took():
    assert FROZEN.read_text(encoding="utf-8").splitlines() == public_names()


def test_the_front_door_is_among_the_names():
    """
    A list that had lost it would agree with anything.
    """
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()

    assert set(groq_queue.__all__) <= {line.split("(")[0].removeprefix("groq_queue.") for line in frozen}
    assert [
        line for line in frozen if line.startswith("groq_queue.GroqQueue.submit(self, prompt=None, /, *, messages=")
    ]
    assert [line for line in frozen if line.startswith("groq_queue.GroqSimulator(")]


if __name__ == "__main__":
    FROZEN.write_text("".join(f"{line}\n" for line in public_names()), encoding="utf-8")

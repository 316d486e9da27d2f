"""Everything below "Every command" of ``docs/cli.md`` is what the parser of the command line says.

``python -m tests.house.test_cli_page`` writes it anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import groq_queue
from groq_queue.cli import build_parser

PAGE = Path(groq_queue.__file__).parent.parent / "docs" / "cli.md"
HEADING = "## Every command\n"


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def typed(action: argparse.Action) -> str:
    """Return how an argument is typed."""
    value = ""
    if action.nargs != 0:
        names = action.choices if action.choices and not action.metavar else [action.metavar or action.dest.upper()]
        value = "|".join(str(name) for name in names)
    words = [", ".join(action.option_strings), value]
    return f"`{' '.join(word for word in words if word)}`".replace("|", "\\|")


def rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines of a table; a group with a title of its own has a line before its options."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        shown = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
        ]
        if shown and group.title not in ("options", "positional arguments"):
            yield f"| **{one_line(group.title or '')}** | |"
        for action in shown:
            yield f"| {typed(action)} | {one_line(formatter._expand_help(action))} |"


def block(text: str | None) -> str:
    return f"```text\n{text.strip(chr(10)).rstrip()}\n```" if text else ""


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    found = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    yield from found.choices.items()


def written() -> str:
    """Return the part that is written, below the heading."""
    parts = [
        "Each also takes `--help`, which prints what stands here. An option is never abbreviated. None takes the API\n"
        "key, which is read from `GROQ_API_KEY`."
    ]
    for name, parser in commands():
        table = list(rows(parser))
        parts += [
            f"### groq-queue {name}",
            block(parser.description),
            "\n".join(["| argument | meaning |", "|---|---|", *table]) if table else "",
            block(parser.epilog),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def test_the_page_tells_every_command_as_the_parser_does():
    assert PAGE.read_text(encoding="utf-8").partition(HEADING)[2] == "\n" + written(), (
        "python -m tests.house.test_cli_page writes it"
    )


def test_every_option_of_every_command_has_a_meaning():
    without = [
        (name, action.dest)
        for name, parser in commands()
        for action in parser._actions
        if not (action.help or "").strip()
    ]

    assert [] == without


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8").partition(HEADING)[0].rstrip()
    PAGE.write_text(f"{text}\n\n{HEADING}\n{written()}", encoding="utf-8")

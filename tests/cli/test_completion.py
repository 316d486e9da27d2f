"""Completion knows every command and option, because it is written from the parser."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest
from extras import needs_program

from groq_queue.cli import build_parser
from groq_queue.cli.completion import _bash, _fish, _zsh, commands_of

from .conftest import Command

COMMANDS = [command for command in commands_of(build_parser()) if command.name]


def bash_offers(script: str, tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last of *words*, split as readline splits them."""
    (tmp_path / "script").write_text(script)
    typed = " ".join(f"'{word}'" for word in ("groq-queue", *words))
    done = subprocess.run(
        [
            needs_program("bash"), "--norc", "-c",
            f"source '{tmp_path}/script'; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _groq_queue; "
            'for each in "${COMPREPLY[@]}"; do echo "$each"; done',
        ],
        capture_output=True, text=True, timeout=20, cwd=tmp_path,
    )  # fmt: skip
    assert "" == done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def script(command: Command) -> str:
    ran = command("completion", "bash")
    assert (0, "") == (ran.code, ran.err)
    return ran.out


def test_every_command_of_the_parser_is_offered(script, tmp_path):
    names = {command.name for command in COMMANDS}

    assert names == set(bash_offers(script, tmp_path, ""))
    assert {"demo", "run", "simulate", "doctor", "completion"} <= names
    assert ["simulate"] == bash_offers(script, tmp_path, "si")


@pytest.mark.parametrize("known", COMMANDS, ids=lambda known: known.name)
def test_every_option_of_every_command_is_offered(script, tmp_path, known):
    expected = {name for option in known.options for name in option.names}

    assert expected == set(bash_offers(script, tmp_path, known.name, "-"))
    assert "--help" in expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("simulate", "--settlement", "k"), ["kept"]),
        (("simulate", "--settlement", "="), ["corrected", "kept", "deferred"]),
        (("simulate", "--settlement", "=", "d"), ["deferred"]),
        (("run", "--js"), ["--json"]),
        (("run", "--rpm", ""), []),
        (("run", "two wo"), ["two words.jsonl"]),
        (("run", "-o", "in"), ["in.jsonl"]),
        (("doctor", "--journal", "in"), ["in.jsonl"]),
        (("demo", ""), []),
        (("--v",), ["--version"]),
    ],
)
def test_what_may_stand_there_is_offered(script, tmp_path, words, expected):
    (tmp_path / "in.jsonl").touch()
    (tmp_path / "two words.jsonl").touch()

    assert expected == bash_offers(script, tmp_path, *words)


def a_parser_of_tomorrow() -> argparse.ArgumentParser:
    """One with a new command, whose texts hold every character that a shell dislikes."""
    parser = argparse.ArgumentParser(prog="groq-queue")
    new = parser.add_subparsers().add_parser("brew", help='it\'s: [50%%] "hot" $HOME `x` \\ ok')
    new.add_argument("--kind", choices=("tea", "mate"), help="it's [the] kind: 100%% $HOME `x` \\")
    new.add_argument("--pot", metavar="FILE")
    new.add_argument("--hidden", help=argparse.SUPPRESS)
    new.add_argument("cup", nargs="?", choices=("big", "small"))
    return parser


def test_a_command_of_tomorrow_is_completed_without_a_line_here(tmp_path):
    script = _bash("groq-queue", list(commands_of(a_parser_of_tomorrow())))

    assert ["brew"] == bash_offers(script, tmp_path, "")
    assert ["-h", "--help", "--kind", "--pot"] == bash_offers(script, tmp_path, "brew", "-")
    assert ["tea", "mate"] == bash_offers(script, tmp_path, "brew", "--kind", "")
    assert ["big", "small"] == bash_offers(script, tmp_path, "brew", "")


@pytest.mark.parametrize("parser", [build_parser, a_parser_of_tomorrow])
def test_zsh_takes_the_script(tmp_path, parser):
    (tmp_path / "_groq-queue").write_text(_zsh("groq-queue", list(commands_of(parser()))))

    done = subprocess.run(
        [needs_program("zsh"), "-f", "-c",
         f"autoload -U compinit && compinit -D -u && source '{tmp_path}/_groq-queue' && "
         "print -r -- $_comps[groq-queue]"],
        capture_output=True, text=True, timeout=30, cwd=tmp_path,
    )  # fmt: skip

    assert ("_groq_queue\n", "") == (done.stdout, done.stderr)


def fish_offers(script: str, tmp_path: Path, line: str) -> list[str]:
    (tmp_path / "script.fish").write_text(script)
    done = subprocess.run(
        [needs_program("fish"), "--no-config", "-c", f"source '{tmp_path}/script.fish'; complete -C '{line}'"],
        capture_output=True, text=True, timeout=30, cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "" == done.stderr
    return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]


def test_fish_offers_commands_options_choices_and_files(tmp_path, command: Command):
    (tmp_path / "in.jsonl").touch()
    script = command("completion", "fish").out

    assert {command.name for command in COMMANDS} == set(fish_offers(script, tmp_path, "groq-queue "))
    assert ["--settlement"] == fish_offers(script, tmp_path, "groq-queue simulate --sett")
    assert ["kept"] == fish_offers(script, tmp_path, "groq-queue simulate --settlement k")
    assert "in.jsonl" in fish_offers(script, tmp_path, "groq-queue run in")
    assert "in.jsonl" in fish_offers(script, tmp_path, "groq-queue run -o in")


def test_fish_takes_texts_of_every_kind(tmp_path):
    script = _fish("groq-queue", list(commands_of(a_parser_of_tomorrow())))

    assert ["mate", "tea"] == sorted(fish_offers(script, tmp_path, "groq-queue brew --kind "))


def test_another_shell_is_refused_with_the_three_that_are_known(command: Command):
    ran = command("completion", "tcsh")

    assert 2 == ran.code
    assert "bash" in ran.err

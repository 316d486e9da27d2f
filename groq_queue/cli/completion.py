"""``groq-queue completion``: scripts with which a shell completes commands, options, their choices and files.

Written from the parser itself, so a new command or option is completed without a
line here. An argument's value is completed as a file if its metavar is one of
``_FILES``, as one of its choices if it has any, else not at all.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from groq_queue.cli import Exit, build_parser
from groq_queue.cli.arguments import add_command

if TYPE_CHECKING:
    from groq_queue.cli.arguments import Commands

_DESCRIPTION = """\
Print a completion script. To use it in every new shell:
  bash   groq-queue completion bash > ~/.local/share/bash-completion/completions/groq-queue
  zsh    groq-queue completion zsh > ~/.zsh/_groq-queue     (a directory in $fpath)
  fish   groq-queue completion fish > ~/.config/fish/completions/groq-queue.fish
"""

_FILES = {"IN", "OUT", "FILE", "PATH", "DIR"}


def add_to(commands: Commands) -> None:
    """Register the ``completion`` subcommand."""
    parser = add_command(
        commands, "completion", "print a completion script for bash, zsh or fish", completion, _DESCRIPTION
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell")


class Word(NamedTuple):
    """One option or positional argument of a command.

    Attributes:
        names: ``("-o", "--output")``, or none for a positional.
        takes: ``"nothing"``, ``"text"``, ``"file"`` or ``"choice"``.
        choices: The values that are allowed, for ``"choice"``.
        help: One line.
    """

    names: tuple[str, ...]
    takes: str
    choices: tuple[str, ...]
    help: str


class Command(NamedTuple):
    """One command, ``""`` for the program itself."""

    name: str
    help: str
    words: tuple[Word, ...]

    @property
    def options(self) -> tuple[Word, ...]:
        return tuple(word for word in self.words if word.names)

    @property
    def positionals(self) -> tuple[Word, ...]:
        return tuple(word for word in self.words if not word.names)


def completion(args: argparse.Namespace) -> int:
    """Print the script for *args.shell*."""
    parser = build_parser()
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](parser.prog, list(commands_of(parser))))
    return Exit.DONE


def commands_of(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """Yield the program and each of its commands as they may be typed."""
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield Command("", "", tuple(_words(parser)))
    for action in subparsers:
        help_of = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, each in action.choices.items():
            yield Command(name, _line(help_of.get(name, "")), tuple(_words(each)))


def _words(parser: argparse.ArgumentParser) -> Iterator[Word]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        text = _line(formatter._expand_help(action)) if action.help else ""
        choices = tuple(str(choice) for choice in action.choices or ())
        yield Word(tuple(action.option_strings), _takes(action), choices, text)


def _takes(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "nothing"
    if action.choices:
        return "choice"
    return "file" if action.metavar in _FILES else "text"


def _line(text: str) -> str:
    return " ".join(text.split())


def _function(prog: str) -> str:
    return "_" + re.sub(r"\W", "_", prog)


# bash: one function for every version from 3.2 (macOS), without the helpers of the bash-completion package.


def _bash(prog: str, commands: list[Command]) -> str:
    names = " ".join(command.name for command in commands if command.name)
    cases = "\n".join(_bash_case(command, names) for command in commands)
    return f"""\
# bash completion for {prog}
{_function(prog)}() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" command="" word kind="" words=""
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case " {names} " in *" $word "*) command="$word"; break ;; esac
    done
    # --option=value comes as three words
    if [[ $cur == "=" ]]; then cur=""
    elif [[ $prev == "=" ]]; then prev="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    COMPREPLY=()
    case "$command" in
{cases}
    esac
    case "$kind" in
        file) local IFS=$'\\n'; compopt -o filenames 2>/dev/null; COMPREPLY=( $(compgen -f -- "$cur") ) ;;
        text) ;;
        *) COMPREPLY=( $(compgen -W "$words" -- "$cur") ) ;;
    esac
}}
complete -F {_function(prog)} {prog}"""


def _bash_case(command: Command, names: str) -> str:
    """Return the branch of one command: what follows an option, then everything else that may come."""
    options = " ".join(name for option in command.options for name in option.names)
    lines = [f'        "{command.name}")', '            case "$prev" in']
    for option in command.options:
        if option.takes != "nothing":
            reply = f'words="{" ".join(option.choices)}"; kind=choice' if option.choices else f"kind={option.takes}"
            lines.append(f"                {'|'.join(option.names)}) {reply} ;;")
    lines += ["            esac", "            if [[ -z $kind ]]; then"]
    lines.append(f'                if [[ $cur == -* ]]; then words="{options}"')
    lines.append(f"                else {_bash_positional(command, names)}")
    lines += ["                fi", "            fi ;;"]
    return "\n".join(lines)


def _bash_positional(command: Command, names: str) -> str:
    if not command.name:
        return f'words="{names}"'
    for word in command.positionals:
        return f'words="{" ".join(word.choices)}"' if word.choices else f"kind={word.takes}"
    return 'words=""'


# zsh: _arguments does the work.


def _zsh(prog: str, commands: list[Command]) -> str:
    named = [command for command in commands if command.name]
    listed = "\n".join(f"                {_zsh_quoted(f'{_colons(c.name)}:{_colons(c.help)}')}" for c in named)
    cases = "\n".join(
        f"                {command.name})\n                    _arguments -s \\\n"
        + " \\\n".join(f"                        {spec}" for word in command.words for spec in _zsh_specs(word))
        + " ;;"
        for command in named
    )
    top = " \\\n".join(f"        {spec}" for word in commands[0].words for spec in _zsh_specs(word))
    return f"""\
#compdef {prog}
{_function(prog)}() {{
    local curcontext="$curcontext" state line
    typeset -A opt_args
    _arguments -C \\
{top} \\
        '1: :->command' \\
        '*::argument:->argument'
    case $state in
        command)
            local -a commands
            commands=(
{listed}
            )
            _describe command commands ;;
        argument)
            case $line[1] in
{cases}
            esac ;;
    esac
}}
if [ "$funcstack[1]" = "{_function(prog)}" ]; then {_function(prog)} "$@"; else compdef {_function(prog)} {prog}; fi"""


def _zsh_specs(word: Word) -> Iterator[str]:
    does = {"nothing": "", "text": ":value: ", "file": ":file:_files", "choice": f":value:({' '.join(word.choices)})"}
    text = re.sub(r"([\[\]\\:])", r"\\\1", word.help)
    if not word.names:
        yield _zsh_quoted(f":{text or 'argument'}{does[word.takes].replace(':value', '', 1).replace(':file', '', 1)}")
    for name in word.names:
        yield _zsh_quoted(f"{name}[{text}]{does[word.takes]}")


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _colons(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


# fish: one line for each word.


def _fish(prog: str, commands: list[Command]) -> str:
    lines = [f"# fish completion for {prog}", f"complete -c {prog} -f"]
    for command in commands:
        if command.name:
            lines.append(
                f"complete -c {prog} -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.help)}"
            )
        where = f"'__fish_seen_subcommand_from {command.name}'" if command.name else "__fish_use_subcommand"
        lines += [f"complete -c {prog} -n {where}{rest}" for word in command.words if (rest := _fish_word(word))]
    return "\n".join(lines)


def _fish_word(word: Word) -> str:
    names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in word.names)
    text = f" -d {_fish_quoted(word.help)}" if word.help else ""
    if word.choices:
        return f"{names}{' -x' if names else ''} -a {_fish_quoted(' '.join(word.choices))}{text}"
    if word.takes == "file":
        return f"{names} {'-r -F' if names else '-F'}{text}"
    if not names:
        return ""
    return names + (" -x" if word.takes == "text" else "") + text


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

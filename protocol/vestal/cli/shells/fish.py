"""Completion for fish, which asks every line of the script whether it applies."""

from __future__ import annotations

from collections.abc import Sequence

from vestal.cli.places import Command, Kinds, Option, asked

__all__ = ["script"]

_SCRIPT = """\
# fish completion for vestal; made by `vestal completion fish`
function __vestal_at --description 'Whether these are the command before the cursor'
    set -l at
    set -l value 0
    for word in (commandline -opc)[2..-1]
        if test $value = 1
            set value 0
        else if test "$word" = --runtime-dir
            set value 1
        else if not string match -q -- '-*' "$word"
            if contains -- "$at $word" @COMMANDS@
                set at (string trim "$at $word")
            end
        end
    end
    test "$at" = "$argv"
end
function __vestal_names --description 'What there is of these kinds'
    set -l words (commandline -opc)
    set -l place
    for index in (seq 2 (count $words))
        if test "$words[$index]" = --runtime-dir; and test $index -lt (count $words)
            set place --runtime-dir (string replace -r '^~' ~ -- $words[(math $index + 1)])
        else if string match -q -- '--runtime-dir=*' "$words[$index]"
            set place --runtime-dir (string replace -r '^--runtime-dir=' '' -- $words[$index])
        end
    end
    set -l vestal (string replace -r '^~' ~ -- $words[1])
    $vestal completion names $argv $place 2>/dev/null </dev/null
end
complete -c vestal -f
complete -c vestal -l runtime-dir -x -a '(__fish_complete_directories)' -d 'where the sockets are'
complete -c vestal -n __vestal_at -l version -d 'say which version this is'
complete -c vestal -n __vestal_at -s h -l help -d 'show this help message and exit'
@LINES@
"""
_VALUES = {"file": "-r -F", "directory": "-x -a '(__fish_complete_directories)'", "text": "-x"}
_WORDS = {"file": "-F", "directory": "-a '(__fish_complete_directories)'"}


def script(commands: Sequence[Command]) -> str:
    """The script for these commands."""
    lines = [line for command in commands for line in _lines(command)]
    text = _SCRIPT.replace("@COMMANDS@", " ".join(_quote(command.as_met) for command in commands))
    return text.replace("@LINES@", "\n".join(lines))


def _lines(command: Command) -> list[str]:
    first, _, second = command.name.partition(" ")
    before, last = (f"__vestal_at {first}", second) if second else ("__vestal_at", first)
    lines = [f"complete -c vestal -n {_quote(before)} -a {last} -d {_quote(command.purpose)}"]
    here = f"complete -c vestal -n {_quote(f'__vestal_at {command.name}')}"
    lines += [f"{here} {offered}" for offered in _offered(command.kinds, _WORDS)]
    return lines + [_option(here, option) for option in command.options if "--runtime-dir" not in option.names]


def _option(here: str, option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = "".join(f" {offered}" for offered in _offered(option.kinds, _VALUES))
    if option.choices:
        value = f" -x -a {_quote(' '.join(option.choices))}"
    return f"{here} {names}{value} -d {_quote(option.help)}"


def _offered(kinds: Kinds, ways: dict[str, str]) -> list[str]:
    names = [f"-x -a '(__vestal_names {asked(kinds)})'"] if asked(kinds) else []
    return names + [way for kind, way in ways.items() if kind in kinds]


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

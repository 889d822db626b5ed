"""`vestal completion SHELL`: a script that lets the shell complete commands and options.

It is written from the same tables and parsers that the commands themselves use, and it is static: pressing Tab
starts no Python, but where a backend is to be named. Those that run are asked of the daemon, by `vestal ps`, and those
that could be added are those of the configuration, by `vestal config`, that do not run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from shlex import quote

from msgspec import Struct

from vestal.cli.failures import OK, UsageError
from vestal.cli.parser import Parser, nearest

__all__ = ["execute", "parser", "script"]

_MORE = """\
examples
  vestal completion bash > ~/.local/share/bash-completion/completions/vestal
  vestal completion zsh > ~/.zfunc/_vestal           # with ~/.zfunc in $fpath
  vestal completion fish > ~/.config/fish/completions/vestal.fish"""

_BACKENDS = "vestal ps 2>/dev/null | awk 'NR > 2 { print $2 }'"
_DECLARED = (
    r"vestal config explain 2>/dev/null | sed -n 's/^backend\.\(.*\)\.required .*/\1/p'"
    f' | grep -vxF "$({_BACKENDS})"'
)
_NAMES = {
    "backend add": _DECLARED,
    **{f"backend {deed}": _BACKENDS for deed in ("remove", "drain", "undrain", "restart")},
}
"""What lists the names that a command takes."""


class _Option(Struct, frozen=True):
    """One option: how it is written, what it is for, and what its value is."""

    names: list[str]
    help: str
    takes: str  # "", "file", "directory", "text", or the choices, one blank apart
    choices: bool = False


class _Command(Struct, frozen=True):
    """One command by its one or two words."""

    name: str
    purpose: str
    options: list[_Option]
    words: list[str]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `completion`."""
    return Parser(command, purpose, words="bash|zsh|fish", least=1, most=1, more=_MORE)


def execute(args: argparse.Namespace) -> int:
    """Print the script."""
    sys.stdout.write(script(args.words[0]))
    return OK


def script(shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`. Raises `UsageError` for another."""
    if shell not in _SCRIPTS:
        raise UsageError(f"there is no completion for {shell!r}{nearest(shell, _SCRIPTS)} ({', '.join(_SCRIPTS)})")
    return _SCRIPTS[shell](list(_commands()))


def _commands() -> Iterator[_Command]:
    from vestal.cli.main import BRANCHES, COMMANDS

    for name, (module, purpose) in COMMANDS.items():
        yield _command(name, module, purpose, list(BRANCHES.get(name, ())))
        for second, (its, what) in BRANCHES.get(name, {}).items():
            yield _command(f"{name} {second}", its, what, [])


def _command(name: str, module: str, purpose: str, words: list[str]) -> _Command:
    made: argparse.ArgumentParser = import_module(f"vestal.cli.{module}").parser(name, purpose)
    if name == "completion":
        words = list(_SCRIPTS)
    return _Command(name, purpose, [_option(action) for action in made._actions if action.option_strings], words)


def _option(action: argparse.Action) -> _Option:
    names, help = list(action.option_strings), "" if action.help == argparse.SUPPRESS else action.help or ""
    if action.nargs == 0 or action.nargs == "?":
        return _Option(names, help, "")
    if action.choices is not None:
        return _Option(names, help, " ".join(map(str, action.choices)), choices=True)
    metavar = str(action.metavar or "").upper()
    kind = "directory" if metavar == "DIR" else "file" if metavar in ("FILE", "PATH") else "text"
    return _Option(names, help, kind)


# --- bash -------------------------------------------------------------------------------------------------------

_BASH = """\
# bash completion for vestal; made by `vestal completion bash`
_vestal() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at="" word i words=""
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    case "$word" in
      --runtime-dir) ((i++)); continue ;;
      -*) continue ;;
    esac
    case "$at $word" in
      @NAMES@) at="${at:+$at }$word" ;;
    esac
  done
  case "$at $prev" in
@VALUES@
  esac
  case "$at" in
    "") words="@TOP@ --runtime-dir --version --help" ;;
@OPTIONS@
  esac
  COMPREPLY=()
  if [[ $cur == -* || $words != -* ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi
}
complete -o default -F _vestal vestal
"""


def _bash(commands: list[_Command]) -> str:
    names = "|".join(f'"{_parents(command.name)}"' for command in commands)
    values = ['    *" --runtime-dir") COMPREPLY=($(compgen -d -- "$cur")); return ;;']
    for command in commands:
        values += [f"    {_bash_value(command.name, option)}" for option in command.options if option.takes]
    values += [f"    {_bash_names(command, names)}" for command, names in _NAMES.items()]
    offered = {command.name: " ".join([*command.words, *_names(command)]) for command in commands}
    options = [f'    "{name}") words="{words}" ;;' for name, words in offered.items()]
    text = _BASH.replace("@NAMES@", names).replace("@VALUES@", "\n".join(values))
    return text.replace("@TOP@", " ".join(_firsts(commands))).replace("@OPTIONS@", "\n".join(options))


def _bash_value(command: str, option: _Option) -> str:
    when = "|".join(f'"{command} {name}"' for name in option.names)
    if option.choices:
        return f'{when}) COMPREPLY=($(compgen -W "{option.takes}" -- "$cur")); return ;;'
    if option.takes == "text":
        return f"{when}) COMPREPLY=(); return ;;"
    kind = "-f" if option.takes == "file" else "-d"
    return f'{when}) COMPREPLY=($(compgen {kind} -- "$cur")); return ;;'


def _bash_names(command: str, names: str) -> str:
    found = f'COMPREPLY=($(compgen -W "$({names})" -- "$cur")); return'
    return f'"{command} {command.split()[1]}") if [[ $cur != -* ]]; then {found}; fi ;;'


def _parents(name: str) -> str:
    """What stands before the last word, a blank, the word: as the loop of the script sees it."""
    first, _, second = name.rpartition(" ")
    return f"{first} {second}"


def _names(command: _Command) -> list[str]:
    return [name for option in command.options for name in option.names]


def _firsts(commands: list[_Command]) -> list[str]:
    return [command.name for command in commands if " " not in command.name]


# --- zsh --------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef vestal
# zsh completion for vestal; made by `vestal completion zsh`
_vestal() {
  local at="" word i
  local -a choices
  for ((i = 2; i < CURRENT; i++)); do
    word=${words[i]}
    case "$word" in
      --runtime-dir) ((i++)); continue ;;
      -*) continue ;;
    esac
    case "$at $word" in
      @NAMES@) at="${at:+$at }$word" ;;
    esac
  done
  case "$at ${words[CURRENT-1]}" in
@VALUES@
  esac
  case "$at" in
    "") choices=(@TOP@) ;;
@OPTIONS@
  esac
  if [[ $PREFIX == -* || -z $at || -n ${(M)choices:#[^-]*} ]]; then _describe vestal choices; else _files; fi
}
if [[ $funcstack[1] == _vestal ]]; then _vestal "$@"; else compdef _vestal vestal; fi
"""


def _zsh(commands: list[_Command]) -> str:
    names = "|".join(f'"{_parents(command.name)}"' for command in commands)
    values = ['    *" --runtime-dir") _files -/; return ;;']
    for command in commands:
        values += [f"    {_zsh_value(command.name, option)}" for option in command.options if option.takes]
    values += [
        f'    "{command} {command.split()[1]}") if [[ $PREFIX != -* ]]; then compadd -- $({names}); return; fi ;;'
        for command, names in _NAMES.items()
    ]
    top = " ".join(_described(command.name, command.purpose) for command in commands if " " not in command.name)
    options = [f'    "{command.name}") choices=({_zsh_choices(command)}) ;;' for command in commands]
    text = _ZSH.replace("@NAMES@", names).replace("@VALUES@", "\n".join(values))
    return text.replace("@TOP@", top).replace("@OPTIONS@", "\n".join(options))


def _zsh_choices(command: _Command) -> str:
    words = [quote(word) for word in command.words]
    return " ".join([*words, *(_described(name, option.help) for option in command.options for name in option.names)])


def _zsh_value(command: str, option: _Option) -> str:
    when = "|".join(f'"{command} {name}"' for name in option.names)
    if option.choices:
        return f"{when}) compadd -- {option.takes}; return ;;"
    return f"{when}) {({'file': '_files', 'directory': '_files -/'}).get(option.takes, '_message value')}; return ;;"


def _described(name: str, help: str) -> str:
    return quote(f"{name}:{' '.join(help.split())}")


# --- fish -------------------------------------------------------------------------------------------------------


def _fish(commands: list[_Command]) -> str:
    lines = ["# fish completion for vestal; made by `vestal completion fish`", "complete -c vestal -f"]
    lines.append("complete -c vestal -l runtime-dir -x -a '(__fish_complete_directories)'")
    for command in commands:
        first, _, second = command.name.partition(" ")
        if not second:
            when = "__fish_use_subcommand"
            lines.append(f"complete -c vestal -n {when} -a {first} -d {_fish_quote(command.purpose)}")
        else:
            when = f"__fish_seen_subcommand_from {first}"
            lines.append(f"complete -c vestal -n '{when}' -a {second} -d {_fish_quote(command.purpose)}")
        lines += [_fish_option(command, option) for option in command.options]
    lines += [
        f"complete -c vestal -n '{_fish_seen(name)}' -a {_fish_quote(f'({backends})')}"
        for name, backends in _NAMES.items()
    ]
    return "\n".join(lines) + "\n"


def _fish_option(command: _Command, option: _Option) -> str:
    when = _fish_seen(command.name)
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = {"": "", "file": " -r -F", "directory": " -x -a '(__fish_complete_directories)'", "text": " -x"}.get(
        option.takes, f" -x -a {_fish_quote(option.takes)}"
    )
    return f"complete -c vestal -n '{when}' {names}{value} -d {_fish_quote(' '.join(option.help.split()))}"


def _fish_seen(command: str) -> str:
    return "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.split())


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}

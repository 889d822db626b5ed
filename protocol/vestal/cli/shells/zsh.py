"""Completion for zsh: as a file `_vestal` in $fpath, or sourced once `compinit` has run."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from vestal.cli.places import Command, Kinds, Option, asked

__all__ = ["script"]

_SCRIPT = """\
#compdef vestal
# zsh completion for vestal; made by `vestal completion zsh`
_vestal_names() {
  compadd -- ${(f)"$("$vestal" completion names "$@" $place 2>/dev/null </dev/null)"}
}
_vestal() {
  local at="" word before=${words[CURRENT-1]} vestal=${~${(Q)words[1]}} i
  local -a choices flags place
  for ((i = 2; i < CURRENT; i++)); do
    word=${words[i]}
    case "$word" in
      --runtime-dir) ((++i < CURRENT)) && place=(--runtime-dir ${~${(Q)words[i]}}); continue ;;
      --runtime-dir=*) place=(--runtime-dir ${~${(Q)${word#*=}}}); continue ;;
      -*) continue ;;
    esac
    case "$at $word" in
      @COMMANDS@) at="${at:+$at }$word" ;;
    esac
  done
  if [[ $PREFIX == --*=* ]]; then before=${PREFIX%%=*}; compset -P 1 '*='; fi
  case "$at $before" in
@VALUES@
  esac
  case "$at" in
@PLACES@
  esac
  if [[ $PREFIX == -* || ${#choices} -eq 0 ]]; then choices=($flags); fi
  _describe vestal choices
}
if [[ $funcstack[1] == _vestal ]]; then _vestal "$@"; else compdef _vestal vestal; fi
"""
_TOP = (
    "--runtime-dir:where the sockets are",
    "--version:say which version this is",
    "--help:show this help message and exit",
)


def script(commands: Sequence[Command]) -> str:
    """The script for these commands."""
    values = ['    *" --runtime-dir") _files -/; return ;;']
    values += [f"    {_value(command.name, option)}" for command in commands for option in command.options]
    firsts = " ".join(_described(command.name, command.purpose) for command in commands if " " not in command.name)
    purposes = {command.name: command.purpose for command in commands}
    places = [f'    "") flags=({" ".join(map(quote, _TOP))}); choices=({firsts}) ;;']
    places += [_place(command, purposes) for command in commands]
    text = _SCRIPT.replace("@COMMANDS@", "|".join(f'"{command.as_met}"' for command in commands))
    return text.replace("@VALUES@", "\n".join(filter(str.strip, values))).replace("@PLACES@", "\n".join(places))


def _value(command: str, option: Option) -> str:
    when = "|".join(f'"{command} {name}"' for name in option.names)
    if option.choices:
        return f"{when}) compadd -- {' '.join(option.choices)}; return ;;"
    return f"{when}) {_offered(option.kinds)}; return ;;" if option.kinds else ""


def _place(command: Command, purposes: dict[str, str]) -> str:
    flags = " ".join(_described(name, option.help) for option in command.options for name in option.names)
    line = f'    "{command.name}") flags=({flags})'
    if command.kinds:
        return f"{line}; if [[ $PREFIX != -* ]]; then {_offered(command.kinds)}; return; fi ;;"
    choices = " ".join(_described(word, purposes[f"{command.name} {word}"]) for word in command.second)
    return f"{line}; choices=({choices}) ;;"


def _offered(kinds: Kinds) -> str:
    calls = [f"_vestal_names {asked(kinds)}"] if asked(kinds) else []
    calls += [call for kind, call in _CALLS.items() if kind in kinds]
    return "; ".join(calls)


_CALLS = {"file": "_files", "directory": "_files -/", "text": "_message value"}


def _described(name: str, help: str) -> str:
    return quote(f"{name}:{help}" if help else name)

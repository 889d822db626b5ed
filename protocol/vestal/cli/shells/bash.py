"""Completion for bash 4.3 and newer, with or without the package bash-completion.

Readline ends words at `:` and `=`, so the script puts names with a colon together again, and drops the `=` of
`--option=value`. Names are never given to `compgen -W`, which would expand what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence

from vestal.cli.places import Command, Kinds, Option, asked

__all__ = ["script"]

_SCRIPT = """\
# bash completion for vestal; made by `vestal completion bash`
_vestal_names() {
  local name
  while IFS= read -r name; do
    if [[ $name == "$cur"* ]]; then COMPREPLY+=("$name"); fi
  done <<< "$("$vestal" completion names "$@" "${place[@]}" 2>/dev/null </dev/null)"
}
_vestal_files() { if ((${#COMPREPLY[@]} == 0)); then compopt -o default; fi; }
_vestal_directories() { compopt -o dirnames; }
_vestal() {
  local cur="" prev="" at="" word joins="" vestal=${1/#\\~/$HOME} i last
  local -a words=() place=()
  for ((i = 1; i <= COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ $word == "=" ]]; then
      if ((i < COMP_CWORD)); then continue; fi
      word=""
    fi
    if ((${#words[@]})) && [[ $word == :* || $joins ]]; then words[-1]+=$word; else words+=("$word"); fi
    if [[ $word == *: ]]; then joins=1; else joins=""; fi
  done
  last=$((${#words[@]} - 1))
  cur=${words[last]}
  if ((last > 0)); then prev=${words[last - 1]}; fi
  for ((i = 0; i < last; i++)); do
    word=${words[i]}
    case "$word" in
      --runtime-dir) ((++i < last)) && place=(--runtime-dir "${words[i]/#\\~/$HOME}"); continue ;;
      -*) continue ;;
    esac
    case "$at $word" in
      @COMMANDS@) at="${at:+$at }$word" ;;
    esac
  done
  COMPREPLY=()
  _vestal_at
  if [[ $COMP_WORDBREAKS == *:* && $cur == *:* ]]; then
    for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"${cur%"${cur##*:}"}"}; done
  fi
}
_vestal_at() {
  case "$at $prev" in
@VALUES@
  esac
  local flags="" second=""
  case "$at" in
@PLACES@
  esac
  if [[ $cur == -* || -z $second ]]; then COMPREPLY=($(compgen -W "$flags" -- "$cur")); return; fi
  COMPREPLY=($(compgen -W "$second" -- "$cur"))
}
complete -F _vestal vestal
"""


def script(commands: Sequence[Command]) -> str:
    """The script for these commands."""
    values = ['    *" --runtime-dir") _vestal_directories; return ;;']
    values += [f"    {_value(command.name, option)}" for command in commands for option in command.options]
    firsts = " ".join(command.name for command in commands if " " not in command.name)
    places = [f'    "") flags="--runtime-dir --version --help"; second="{firsts}" ;;', *map(_place, commands)]
    text = _SCRIPT.replace("@COMMANDS@", "|".join(f'"{command.as_met}"' for command in commands))
    return text.replace("@VALUES@", "\n".join(filter(str.strip, values))).replace("@PLACES@", "\n".join(places))


def _value(command: str, option: Option) -> str:
    when = "|".join(f'"{command} {name}"' for name in option.names)
    if option.choices:
        return f'{when}) COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$cur")); return ;;'
    return f"{when}) {_offered(option.kinds)}return ;;" if option.kinds else ""


def _place(command: Command) -> str:
    flags = f'flags="{" ".join(command.flags)}"'
    if command.kinds:
        return f'    "{command.name}") {flags}; if [[ $cur != -* ]]; then {_offered(command.kinds)}return; fi ;;'
    return f'    "{command.name}") {flags}; second="{" ".join(command.second)}" ;;'


def _offered(kinds: Kinds) -> str:
    """The calls that offer `kinds`: names first, and files where no name begins so."""
    calls = f"_vestal_names {asked(kinds)}; " if asked(kinds) else ""
    calls += "_vestal_files; " if "file" in kinds else ""
    return calls + ("_vestal_directories; " if "directory" in kinds else "")

"""`vestal completion SHELL`: a script that lets the shell complete commands, options, files and names.

`vestal completion names KIND…` is what those scripts ask when a name is to be completed.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from vestal.cli.failures import OK, UsageError
from vestal.cli.parser import Parser, nearest

__all__ = ["SHELLS", "execute", "parser", "script"]

SHELLS = ("bash", "zsh", "fish")

_MORE = """\
It completes commands, options, files, and the names of models, backends,
requests and keys that are there at the moment.

examples
  vestal completion bash > ~/.local/share/bash-completion/completions/vestal
  vestal completion zsh > ~/.zfunc/_vestal           # with ~/.zfunc in $fpath
  vestal completion fish > ~/.config/fish/completions/vestal.fish

`vestal completion names KIND…` is what the scripts ask: models, embedders,
running, declared, requests, stored, catalog, keys."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `completion`."""
    return Parser(command, purpose, words="bash|zsh|fish", least=1, most=None, more=_MORE)


def execute(args: argparse.Namespace) -> int:
    """Print the script, or the names."""
    what, *more = args.words
    if what == "names":
        sys.stdout.write("".join(f"{name}\n" for name in _names(more, args)))
        return OK
    if more:
        raise UsageError(f"{more[0]!r} is one word too many: one script at a time")
    sys.stdout.write(script(what))
    return OK


def script(shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`. Raises `UsageError` for another."""
    if shell not in SHELLS:
        raise UsageError(f"there is no completion for {shell!r}{nearest(shell, SHELLS)} ({', '.join(SHELLS)})")
    from vestal.cli.places import commands

    made: str = import_module(f"vestal.cli.shells.{shell}").script(list(commands()))
    return made


def _names(kinds: list[str], args: argparse.Namespace) -> list[str]:
    from vestal.cli.names import KINDS, names

    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"there are no names of the kind {kind!r}{nearest(kind, KINDS)} ({', '.join(KINDS)})")
    return names(kinds, args)

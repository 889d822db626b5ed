"""`vestal config`: hands over to `vestald config`, which knows the options.

They are the daemon's and its adapters', and this package imports neither: the process becomes the other program.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from vestal.cli.failures import UNAVAILABLE
from vestal.cli.parser import Parser
from vestal.cli.reach import at
from vestal.cli.terminal import Screen, printable
from vestal.running import running_daemon

__all__ = ["execute", "parser"]


_MORE = """\
explain [KEY] [--json] [OPTION…]
    each option, its value, and where that comes from: a
    flag, a variable, FILE:LINE or the default; with KEY
    (admission.queue_depth, sockets, backend.chat) all about
    those. FILE is the one that the running daemon read, or
    else as vestald finds it. The options are vestald's own,
    to see what they would do. Secrets are masked.
check [FILE]
    everything that is wrong with FILE by itself, a line
    each; without FILE, with what vestald would run with
schema
    a JSON Schema of the file, for editors

Ends with 78 if something is wrong with the configuration."""


class _Through(Parser):
    """Leaves what comes after the deed to the other program."""

    def parse(self, arguments: Sequence[str], known: Namespace) -> Namespace:
        if not arguments or arguments[0] in ("-h", "--help"):
            return super().parse(arguments, known)
        known.words = list(arguments)
        return known


def parser(command: str, purpose: str) -> Parser:
    """Any arguments."""
    return _Through(command, purpose, words="explain|check|schema …", least=1, most=None, more=_MORE)


def execute(args: Namespace) -> int:
    """Become `vestald config`."""
    if find_spec("vestald") is not None:
        _become("vestald", "config", *args.words, *(_at_hand(args) if args.words[0] == "explain" else []))
    Screen().note("vestal: the daemon is not installed here: pip install 'vestal[daemon]'")
    return UNAVAILABLE


def _at_hand(args: Namespace) -> list[str]:
    """The directory that this command was given, and the file that the daemon there read, where no other is named."""
    place = ["--runtime-dir", args.runtime_dir] if args.runtime_dir else []
    if any(word.partition("=")[0] == "--config" for word in args.words):
        return place
    daemon = running_daemon(**at(args))
    if daemon is None or not daemon.config:
        return place
    Screen().note(f"vestal: vestald runs with {printable(daemon.config)}; --config FILE explains another")
    return [*place, "--config", daemon.config]


def _become(module: str, *words: str) -> NoReturn:
    sys.stdout.flush()
    command = [sys.executable, "-P", "-m", module, *words]  # -P: what lies in the current directory stays there
    os.execv(sys.executable, command)  # noqa: S606  # no shell is wanted

"""`vestal models sign`: a statement about a model, with a key of the user's."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from vestal.cli.failures import OK, UsageError
from vestal.cli.keys import ask_passphrase
from vestal.cli.parser import Parser
from vestal.cli.terminal import Screen, printable
from vestal.models.keys import read_passphrase
from vestal.models.signatures import MAX_VERSION
from vestal.models.store import Store
from vestal.models.trust import Trust

__all__ = ["Reading", "execute", "parser"]

_MORE = """\
All of the model's file is read and compared with its digest first. The
version grows by itself with every new content of a name, and never falls.

example
  vestal keys new mine && vestal models sign smollm2-135m --key mine"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `models sign`."""
    made = Parser(command, purpose, words="NAME", least=1, most=1, more=_MORE)
    made.add_argument("--key", metavar="KEY", help="the name of a key that `vestal keys new` made")
    made.add_argument("--version", metavar="N", type=_version, help="the model's version (default: the next)")
    made.add_argument("--passphrase-file", metavar="FILE", help="the key's passphrase is the first line of FILE")
    return made


def execute(args: Namespace) -> int:
    """Sign, and say what was signed."""
    if args.key is None:
        raise UsageError("--key KEY is missing: `vestal keys` lists yours, `vestal keys new NAME` makes one")

    def passphrase() -> bytes:
        if args.passphrase_file is not None:
            return read_passphrase(Path(args.passphrase_file))
        return ask_passphrase(f"passphrase of the key {args.key}: ")

    name, screen = args.words[0], Screen()
    try:
        said = Trust(Store()).sign(name, args.key, passphrase, version=args.version, progress=Reading(screen, name))
    finally:
        screen.erase()
    digest = said.digest.removeprefix("sha256-")[:12]
    sys.stdout.write(printable(f"{name}: signed as version {said.version} by {args.key} (sha256 {digest})") + "\n")
    return OK


class Reading:
    """Shows on a terminal how much of a model is read, in whole percents."""

    def __init__(self, screen: Screen, name: str) -> None:
        self._screen, self._name = screen, name

    def __call__(self, done: int, total: int) -> None:
        self._screen.status(f"{self._name}: reading, {100 * done // max(total, 1)} %")


def _version(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_VERSION:
        return int(text)
    raise ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")

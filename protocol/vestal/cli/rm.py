"""`vestal rm`: forget models, damaged ones too."""

from __future__ import annotations

import sys
from argparse import Namespace

from vestal.cli.failures import OK
from vestal.cli.parser import Parser
from vestal.cli.terminal import printable
from vestal.cli.wording import megabytes
from vestal.models.store import Store

__all__ = ["execute", "parser"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `rm`."""
    return Parser(command, purpose, words="NAME…", least=1, most=None, more="`vestal models` lists their names.")


def execute(args: Namespace) -> int:
    """Remove each; the first that cannot be ends it."""
    store = Store()
    for name in args.words:
        freed = store.remove(name)
        how = f"{megabytes(freed)} freed" if freed else "its file stays: another name has it"
        sys.stdout.write(f"{printable(name)}: removed, {how}\n")
    return OK

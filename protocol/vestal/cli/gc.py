"""`vestal gc`: remove from the store what is of no use: unfinished downloads, and what killed pulls left."""

from __future__ import annotations

import sys
from argparse import Namespace

from vestal.cli.failures import OK
from vestal.cli.parser import Parser
from vestal.cli.wording import megabytes
from vestal.models.store import Store

__all__ = ["execute", "parser"]

_MORE = """\
Models stay, and so does what a running pull is at work on. An interrupted
download that is removed begins from its start when it is pulled again."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `gc`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--dry-run", action="store_true", help="say what would be removed, and leave it")
    return made


def execute(args: Namespace) -> int:
    """Remove, and say how much that was."""
    store = Store()
    found = store.sweep(remove=not args.dry_run) if store.root.is_dir() else {}
    for kind, size in found.items():
        if size:
            sys.stdout.write(f"{kind}: {megabytes(size)}\n")
    total = megabytes(sum(found.values()))
    sys.stdout.write(f"{total} can be freed\n" if args.dry_run else f"{total} freed\n")
    return OK

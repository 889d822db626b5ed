"""`vestal rm`: forget models, damaged ones too; not one that the daemon serves, unless it is said twice.

The daemon would not notice: it holds what it has loaded. But it could not start the backend again.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from vestal import ModelError
from vestal.cli.failures import OK
from vestal.cli.parser import Parser
from vestal.cli.serving import served_models
from vestal.cli.terminal import printable
from vestal.cli.wording import megabytes
from vestal.models.store import Store

__all__ = ["execute", "parser"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `rm`."""
    made = Parser(command, purpose, words="NAME…", least=1, most=None, more="`vestal models` lists their names.")
    made.add_argument("--force", action="store_true", help="also a model that the running daemon serves")
    return made


def execute(args: Namespace) -> int:
    """Remove each; the first that cannot be ends it."""
    store, served = Store(), {} if args.force else served_models(args)
    for name in args.words:
        if name in served:
            who = f"backend {', '.join(served[name])} of the running daemon"
            message = f"model {name!r} is in use by {who}, which could not start it again"
            raise ModelError(message, hint=f"stop it first with `vestal stop`, or `vestal rm --force {name}`")
        freed = store.remove(name)
        how = f"{megabytes(freed)} freed" if freed else "its file stays: another name has it"
        sys.stdout.write(f"{printable(name)}: removed, {how}\n")
    return OK

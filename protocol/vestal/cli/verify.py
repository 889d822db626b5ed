"""`vestal models verify`: whether the models are what their digests and signatures say.

A line for each model on stdout, where all is well with it; what is wrong goes to stderr, and into the exit code.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from vestal import ModelError
from vestal.cli.failures import FAILED, OK
from vestal.cli.parser import Parser
from vestal.cli.sign import Reading
from vestal.cli.terminal import Screen, printable
from vestal.models.store import Store
from vestal.models.trust import Trust

__all__ = ["execute", "parser"]

_MORE = """\
Without a name, all are verified. A model that nobody signed is no fault,
unless --signed is given."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `models verify`."""
    made = Parser(command, purpose, words="[NAME…]", most=None, more=_MORE)
    made.add_argument("--signed", action="store_true", help="a model without a signature is a fault")
    return made


def execute(args: Namespace) -> int:
    """Verify each; one fault does not hide the next."""
    store, screen, faults = Store(), Screen(), 0
    for name in args.words or store.names():
        try:
            line = _verify(store, name, screen, signed=args.signed)
        except ModelError as fault:
            faults += 1
            screen.note(f"vestal: {fault}")
        else:
            screen.erase()
            sys.stdout.write(f"{printable(line)}\n")
            sys.stdout.flush()
    if not args.words and not store.names():
        screen.note(f"vestal: no models in {store.root}: `vestal pull smollm2-135m` fetches one")
    return FAILED if faults else OK


def _verify(store: Store, name: str, screen: Screen, *, signed: bool) -> str:
    model, trust = store.verify(name, Reading(screen, name)), Trust(store)
    if not signed and trust.statement(name) is None:
        return f"{name}: sound, not signed"
    statement = trust.check(model)
    signer = next(key for key, _ in trust.known_keys() if key.id == statement.key)
    return f"{name}: sound, version {statement.version} signed by {signer.name} on {statement.signed_at[:10]}"

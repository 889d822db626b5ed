"""`vestal keys`, `keys new`, `keys list`, `keys trust`, `keys revoke`: who may vouch for models."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from vestal.cli.failures import OK, UsageError
from vestal.cli.parser import Parser
from vestal.cli.terminal import Screen, columns, printable
from vestal.cli.wording import json_line, table
from vestal.models.keys import KeyDirectory, PublicKey, parse_public_key, read_passphrase
from vestal.models.store import Store
from vestal.models.trust import Trust

__all__ = ["ask_passphrase", "execute", "parser"]

_WORDS = {"keys new": "NAME", "keys trust": "FILE|LINE", "keys revoke": "KEY"}
_MORE = {
    "keys new": """\
The private half stays in $VESTAL_HOME/keys/private, for you alone. The
public half is printed: others trust it with `vestal keys trust`.""",
    "keys trust": """\
FILE is a .pub file; LINE is what stands in one, quoted as one word. Be sure
whose it is: what the key signs is then loaded.""",
    "keys revoke": """\
KEY is an id (or 8 digits or more of one), or a name, from `vestal keys`. A
revoked key is remembered.""",
}


def parser(command: str, purpose: str) -> Parser:
    """The arguments of one of the five."""
    words = _WORDS.get(command, "")
    more = _MORE.get(command, "vestal keys new NAME | trust FILE|LINE | revoke KEY")
    made = Parser(command, purpose, words=words, least=len(words) and 1, most=len(words) and 1, more=more)
    if command == "keys new":
        made.add_argument("--passphrase", action="store_true", help="ask for a passphrase to encrypt it with")
        made.add_argument("--passphrase-file", metavar="FILE", help="the passphrase is the first line of FILE")
    elif command == "keys trust":
        made.add_argument("--despite-revocation", action="store_true", help="even if it was revoked here")
    elif command in ("keys", "keys list"):
        made.add_argument("--json", action="store_true", help="print a JSON list")
    return made


def execute(args: Namespace) -> int:
    """Do it; refusals come as exceptions."""
    trust = Trust(Store())
    deed = _DEEDS.get(args.command)
    lines = _list(trust, args) if deed is None else [printable(line) for line in deed(trust, args)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK


def ask_passphrase(prompt: str) -> bytes:
    """From the terminal, unseen."""
    from getpass import getpass

    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the passphrase: give it with --passphrase-file FILE")
    return getpass(prompt).encode()


def _new(trust: Trust, args: Namespace) -> list[str]:
    key = trust.new_key(args.words[0], _chosen_passphrase(args))
    return [key.line, f"key {key.name} ({key.id}) is made, and trusted here; the line above is its public half"]


def _chosen_passphrase(args: Namespace) -> bytes | None:
    if args.passphrase_file is not None:
        return read_passphrase(Path(args.passphrase_file))
    if not args.passphrase:
        return None
    first = ask_passphrase("passphrase for the new key: ")
    if not first or first != ask_passphrase("the same again: "):
        raise UsageError("the passphrase is empty, or the two were not the same: nothing was made")
    return first


def _trust(trust: Trust, args: Namespace) -> list[str]:
    key = _public(args.words[0])
    trust.trust(key, despite_revocation=args.despite_revocation)
    return [f"key {key.name} ({key.id}) is trusted here"]


def _public(word: str) -> PublicKey:
    return parse_public_key(word) if " " in word.strip() else KeyDirectory.read_public(Path(word))


def _revoke(trust: Trust, args: Namespace) -> list[str]:
    return [f"key {trust.revoke(args.words[0])} is revoked here; what it signed counts no more"]


def _list(trust: Trust, args: Namespace) -> list[str]:
    keys, revoked = trust.known_keys(), trust.revoked()
    known = {key.id for key, _ in keys}
    rows = [[key.id, state if state != "unknown" else "not trusted", key.name] for key, state in keys]
    rows += [[id, "revoked", "-"] for id in revoked if id not in known]
    if args.json:
        return [json_line([dict(zip(("id", "state", "name"), row, strict=True)) for row in rows])]
    if not rows:
        Screen().note("vestal: no keys: `vestal keys new NAME` makes one, `vestal keys trust FILE` takes another's")
        return []
    return table([["KEY", "STATE", "NAME"], *rows], width=columns(sys.stdout))


_DEEDS: dict[str, Callable[[Trust, Namespace], list[str]]] = {
    "keys new": _new,
    "keys trust": _trust,
    "keys revoke": _revoke,
}

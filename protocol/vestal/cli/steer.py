"""`vestal drain`, `undrain`, `cancel`: one admin command each, and a line that says what it did."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable

from vestal import AdminClient
from vestal.cli.failures import OK, UsageError
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.terminal import printable
from vestal.cli.wording import count

__all__ = ["execute", "parser"]

_WORDS = {"cancel": "REQUEST"}
_MORE = {"cancel": "REQUEST is the number that `vestal queue` shows."}


def parser(command: str, purpose: str) -> Parser:
    """The arguments of one of the three."""
    words = _WORDS.get(command, "")
    return Parser(
        command, purpose, words=words, least=len(words) and 1, most=len(words) and 1, more=_MORE.get(command, "")
    )


def execute(args: Namespace) -> int:
    """Give the command; refusals come as exceptions."""
    with admin(args) as client:
        said = _DEEDS[args.command](client, *args.words)
    sys.stdout.write(f"{printable(said)}\n")
    return OK


def _drain(client: AdminClient) -> str:
    client.drain()
    status = client.status()
    left = f"{count(status.running, 'request')} running, {status.waiting} waiting"
    return f"vestald takes no new requests ({left}); `vestal undrain` lets it again"


def _undrain(client: AdminClient) -> str:
    return f"vestald is {client.undrain().state}"


def _cancel(client: AdminClient, request: str) -> str:
    if not request.isascii() or not request.isdigit():
        raise UsageError(f"{request!r} is no request's number: `vestal queue` shows them")
    return client.cancel_request(int(request)).detail or f"request {request} is cancelled"


_DEEDS: dict[str, Callable[..., str]] = {"drain": _drain, "undrain": _undrain, "cancel": _cancel}

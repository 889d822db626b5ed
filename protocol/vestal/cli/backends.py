"""`vestal backend`, `backend list`: the backends that run, by which names requests mean them, and how they stand."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from vestal import messages as m
from vestal.cli.failures import OK
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.standing import standing
from vestal.cli.status import as_json
from vestal.cli.terminal import columns, printable
from vestal.cli.wording import folded, json_line, table

__all__ = ["backend_table", "execute", "parser"]

_HEAD = ["NAME", "STATE", "BUSY", "WAIT", "MODEL", "ALIASES"]
_MORE = """\
Without a command it lists them.

  vestal backend list            the same
  vestal backend add NAME        start one that the file declares
  vestal backend remove NAME     let it finish, and stop it
  vestal backend drain NAME      give it no new requests
  vestal backend undrain NAME    give it requests again
  vestal backend restart NAME    start it anew, as the file has it

`vestal route explain` says which of them a request would go to."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of both."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--json", action="store_true", help="print one JSON object a line")
    return made


def execute(args: Namespace) -> int:
    """Ask once, print it."""
    with admin(args) as client:
        backends = client.backends()
    if args.json:
        lines = [json_line(as_json(backend)) for backend in backends]
    else:
        lines = backend_table(backends, columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK


def backend_table(backends: Sequence[m.BackendStatus], width: int | None) -> list[str]:
    """A line each; below the table, what is to be told of those that are not simply ready."""
    lines = table([_HEAD, *map(_row, backends)], right=(2, 3), width=width)
    for backend in backends:
        if standing(backend) != "ready" and (told := _failure(backend) or backend.detail):
            lines += folded(printable(f"{backend.name}: {told}"), width, 2)
    return lines


def _row(backend: m.BackendStatus) -> list[str]:
    percent = "" if backend.percent is None else f" {backend.percent:.0f} %"
    busy = f"{backend.running}/{backend.slots}"
    names = (backend.model or "-", ", ".join(backend.aliases) or "-")
    return [printable(backend.name), standing(backend) + percent, busy, str(backend.waiting), *map(printable, names)]


def _failure(backend: m.BackendStatus) -> str:
    breaker = backend.breaker
    return "" if breaker.state == "closed" else f"its last failure was {breaker.last}"

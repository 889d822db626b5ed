"""`vestal ps`: the processes that serve, with their memory; `vestal queue` has the requests."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from operator import attrgetter

from vestal import messages as m
from vestal.cli.failures import OK
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.standing import standing
from vestal.cli.terminal import columns, printable
from vestal.cli.wording import json_line, megabytes, table

__all__ = ["execute", "parser", "process_lines"]

_MORE = """\
A backend without a PID runs inside the daemon, or elsewhere. STATE also says what
keeps requests from it: draining, cold after failures, on trial. `--json` has the
state alone; `vestal status --json` has all."""

_HEAD = ["PID", "NAME", "STATE", "MEMORY", "BUSY", "RESTARTS", "MODEL"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `ps`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--json", action="store_true", help="print one JSON object a line")
    return made


def execute(args: Namespace) -> int:
    """Ask once, print it."""
    with admin(args) as client:
        report = client.status()
    rows = _rows(report, attrgetter("state") if args.json else standing)
    if args.json:
        lines = [json_line(dict(zip(map(str.lower, _HEAD), row, strict=True))) for row in rows]
    else:
        lines = process_lines(rows, columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK


def process_lines(rows: list[list[object]], width: int | None) -> list[str]:
    """A table; what is not known is `-`."""
    shown = [[_shown(name, value) for name, value in zip(_HEAD, row, strict=True)] for row in rows]
    return table([_HEAD, *shown], right=(0, 3, 4, 5), width=width)


def _rows(report: m.StatusReport, word: Callable[[m.BackendStatus], str]) -> list[list[object]]:
    slots = sum(backend.slots for backend in report.backends)
    busy = sum(backend.running for backend in report.backends)
    daemon: list[object] = [
        report.pid, "vestald", report.state, report.memory_bytes, f"{busy}/{slots}", None, report.server,
    ]  # fmt: skip
    return [daemon, *(_row(backend, word(backend)) for backend in report.backends)]


def _row(backend: m.BackendStatus, state: str) -> list[object]:
    busy = f"{backend.running}/{backend.slots}" if backend.slots else None
    return [
        backend.pid, backend.name, state, backend.memory_bytes, busy, backend.restarts, backend.model or None,
    ]  # fmt: skip


def _shown(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name == "MEMORY" and isinstance(value, int):
        return megabytes(value)
    return printable(str(value))

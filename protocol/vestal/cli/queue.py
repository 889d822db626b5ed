"""`vestal queue`: who waits and who runs; never what they asked."""

from __future__ import annotations

import sys
from argparse import Namespace
from pwd import getpwuid

from vestal import messages as m
from vestal.cli.failures import OK
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.status import as_json
from vestal.cli.terminal import columns, printable
from vestal.cli.wording import elapsed, json_line, table

__all__ = ["execute", "parser", "queue_lines", "user"]

_HEAD = ["#", "STATE", "BACKEND", "USER", "PID", "AGE", "TOKENS", "CLIENT"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `queue`."""
    made = Parser(command, purpose, more="`vestal cancel REQUEST` ends one of them.")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def execute(args: Namespace) -> int:
    """Ask once, print it."""
    with admin(args) as client:
        report = client.queue()
    lines = [json_line(as_json(report))] if args.json else queue_lines(report, columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK


def queue_lines(report: m.QueueReport, width: int | None) -> list[str]:
    """A table, or one line where there is nothing."""
    if not report.entries:
        return [f"nobody waits, nobody runs (up to {report.limit} may wait)"]
    return table([_HEAD, *map(_row, report.entries)], right=(0, 4, 5, 6), width=width)


def _row(entry: m.QueueEntry) -> list[str]:
    place = f" ({entry.position})" if entry.position is not None else ""
    state, tokens = f"{printable(entry.state)}{place}", str(entry.output_tokens)
    backend, client = printable(entry.backend) or "-", printable(entry.client) or "-"
    age = elapsed(entry.age_ms / 1000)
    return [str(entry.request), state, backend, user(entry.uid), str(entry.pid), age, tokens, client]


def user(uid: int) -> str:
    """The name of a uid, or its number."""
    try:
        return printable(getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)

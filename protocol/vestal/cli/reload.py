"""`vestal reload`: let the daemon read its configuration again, and say what holds now and what needs a restart."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

from vestal import InvalidRequest
from vestal.cli.failures import OK
from vestal.cli.faults import told
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.terminal import Screen, printable
from vestal.cli.wording import json_line
from vestal.messages import OptionChange, Reloaded

__all__ = ["execute", "lines_of", "parser"]

_MORE = """\
All of the configuration is sound, or nothing changes. What needs a restart is
named, and kept as it was. `vestal config check` looks at a file beforehand."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `reload`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--json", action="store_true", help="print the daemon's answer as JSON")
    return made


def execute(args: Namespace) -> int:
    """Reload; where that is refused, every fault on a line of stderr."""
    try:
        with admin(args) as client:
            done = client.reload()
    except InvalidRequest as refused:
        return told(refused)
    for warning in done.warnings:
        Screen().note(f"vestal: {warning}")
    lines = [json_line(_fields(done))] if args.json else lines_of(done)
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    return OK


def lines_of(done: Reloaded) -> Iterator[str]:
    """For people: a line each, and one if nothing is different."""
    yield f"read {done.file}" if done.file else "there is no file; flags and variables were read"
    yield from _changes("now", done.applied)
    yield from _changes("restart to apply", done.restart_to_apply)
    if any(change.key.startswith("backend.") for change in done.restart_to_apply):
        yield "of backends: `vestal backend restart NAME`, or add, or remove, applies it while vestald runs"
    if not done.applied and not done.restart_to_apply:
        yield "nothing is different"


def _changes(what: str, changes: list[OptionChange]) -> Iterator[str]:
    for change in changes:
        yield f"{what}: {change.key} {change.before} -> {change.after}"


def _fields(done: Reloaded) -> dict[str, object]:
    import msgspec

    return {name: msgspec.to_builtins(getattr(done, name)) for name in done.__struct_fields__ if name != "id"}

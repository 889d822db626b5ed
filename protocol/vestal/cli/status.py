"""`vestal status`: what the daemon is doing, for people or as JSON.

It exits 0 only if the daemon takes requests, so that a script can ask; what it has to tell it tells either way.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

import msgspec

from vestal import messages as m
from vestal.cli.failures import OK, UNAVAILABLE
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.standing import COLOURS, colour_of, standing
from vestal.cli.terminal import Screen, Style, columns, printable, style_of
from vestal.cli.wording import bar, cells, count, cut, folded, json_line, megabytes, words_of_time

__all__ = ["as_json", "backend_lines", "execute", "parser", "status_lines"]

_BAR = 20
_NAME = 40  # columns of a name, at most
_INDENT = 11  # columns of what a fact is called
_LOADING = "is not ready yet: `vestal run --wait PROMPT` waits for it"
_NEXT = {
    "starting": _LOADING,
    "loading": _LOADING,
    "draining": "takes no new requests: `vestal undrain` lets it",
    "stopping": "is stopping: start it again with `vestald` once it is gone",
    "failed": "failed to start: its standard error says why",
    "stopped": "has stopped: start it again with `vestald`",
}


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `status`."""
    made = Parser(command, purpose, more="It exits 0 if the daemon takes requests, and 69 if it does not (yet).")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def execute(args: Namespace) -> int:
    """Ask once, print it."""
    with admin(args) as client:
        report = client.status()
    if args.json:
        sys.stdout.write(f"{json_line(as_json(report))}\n")
    else:
        lines = status_lines(report, columns(sys.stdout), style_of(sys.stdout), sys.stdout.encoding)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    if report.state == "ready":
        return OK
    sys.stdout.flush()
    Screen().note(f"vestal: vestald {_NEXT[report.state]}")
    return UNAVAILABLE


def as_json(message: msgspec.Struct) -> dict[str, Any]:
    """An admin answer without what only the wire needs."""
    # Any: the shape is the struct's.
    fields: dict[str, Any] = msgspec.to_builtins(message)
    return {name: value for name, value in fields.items() if name not in ("type", "id")}


def status_lines(report: m.StatusReport, width: int | None, style: Style, encoding: str | None) -> list[str]:
    """The daemon in a few lines, then each backend in two or three; what does not fit `width` is folded."""
    state = style(report.state, "bold", *filter(None, [COLOURS.get(report.state)]))
    facts = (
        ("directory", printable(report.runtime_dir)),
        ("sockets", printable(" ".join(sorted(report.sockets)))),
        ("requests", f"{report.running} running, {report.waiting} waiting (at most {report.queue_depth})"),
        ("clients", f"{count(report.connections, 'connection')}, this one included"),
    )
    up = f"up {words_of_time(report.uptime_ms / 1000)}{_memory(report.memory_bytes)}"
    lines = [f"{printable(report.server)}  {state}", cut(f"pid {report.pid}, {up}", width)]
    for name, value in facts:
        lines += folded(f"{name:<10} {value}", width, _INDENT)
    for kind, fault in sorted(report.socket_faults.items()):
        lines += folded(f"{'no socket':<10} {printable(f'{kind}: {fault}')}", width, _INDENT)
    if report.audit is not None and (report.audit.dropped or report.audit.fault):
        lost = f"{count(report.audit.dropped, 'line')} dropped"
        trouble = f"{lost}: {report.audit.fault}" if report.audit.fault else lost
        lines += folded(f"{'audit log':<10} {printable(trouble)}", width, _INDENT)
    for backend in report.backends:
        lines += ["", *backend_lines(backend, width, style, encoding)]
    return lines


def backend_lines(backend: m.BackendStatus, width: int | None, style: Style, encoding: str | None) -> list[str]:
    """`name  state`, then what it runs and how busy it is, then what it says of itself."""
    words, progress = standing(backend), _progress(backend, style, encoding)
    room = _NAME if width is None else max(min(_NAME, width - cells(f"  {words}{progress}")), _NAME // 4)
    name, state = cut(printable(backend.name), room), style(words, *filter(None, [colour_of(backend)]))
    lines = [f"{style(name, 'bold')}  {state}{progress}"]
    facts = (_what(backend), *_names(backend), printable(backend.detail), *_failures(backend), *_confinement(backend))
    for fact in filter(None, facts):
        lines += folded(f"  {fact}", width, 4)
    return lines


def _progress(backend: m.BackendStatus, style: Style, encoding: str | None) -> str:
    if backend.percent is None:
        return ""
    drawn = f"  {bar(backend.percent, _BAR, encoding)}" if style.drawn else ""
    return f"{drawn}  {backend.percent:.0f} %"


def _names(backend: m.BackendStatus) -> list[str]:
    return [f"also called {printable(', '.join(backend.aliases))}"] if backend.aliases else []


def _failures(backend: m.BackendStatus) -> list[str]:
    """Why requests are kept from it."""
    breaker = backend.breaker
    if breaker.state == "closed":
        return []
    return [f"{count(breaker.failures, 'failure')} of late, the last: {printable(breaker.last)}"]


def _confinement(backend: m.BackendStatus) -> list[str]:
    """The sandbox's layers, and a line for each that is missing: that is not to be overlooked."""
    layers = [f"sandbox: {printable(', '.join(backend.sandbox))}"] if backend.sandbox else []
    return layers + [f"not in its sandbox: {printable(missing)}" for missing in backend.unsandboxed]


def _what(backend: m.BackendStatus) -> str:
    facts = [f"{printable(backend.model or '?')} by {printable(backend.adapter)}"]
    if backend.state == "ready":
        facts.append(f"{backend.running} of {count(backend.slots, 'slot')} busy, {backend.waiting} waiting")
    if backend.pid is not None:
        facts.append(f"worker {backend.pid}{_memory(backend.memory_bytes)}")
    if backend.restarts:
        facts.append(count(backend.restarts, "restart"))
    return ", ".join(facts)


def _memory(size: int | None) -> str:
    return "" if size is None else f", {megabytes(size)}"

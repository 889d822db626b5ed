"""`vestal watch`: what happens in the daemon, as it happens, one line each.

The first line is how things stand; each event after it is a change. It ends with the daemon.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from time import localtime, strftime

from vestal import ConnectionLost, Event, Snapshot
from vestal.cli.events import is_trouble, line_of
from vestal.cli.failures import OK, UNAVAILABLE
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.standing import standing
from vestal.cli.status import as_json
from vestal.cli.terminal import Screen, Style, style_of
from vestal.cli.wording import count, json_line

__all__ = ["execute", "parser"]

_MORE = """\
Exit codes: 0 when the daemon stopped as asked, 69 when it went without a word.
With --json the first object is the status, and each after it an event."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `watch`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--json", action="store_true", help="print one JSON object a line")
    return made


def execute(args: Namespace) -> int:
    """Print until the daemon is gone."""
    style = style_of(sys.stdout)
    try:
        with admin(args) as client, client.subscribe() as events:
            for event in events:
                text = json_line(as_json(event)) if args.json else _told(event, style)
                sys.stdout.write(f"{text}\n")
                sys.stdout.flush()
    except ConnectionLost as loss:
        Screen().note(f"vestal: vestald is gone: {loss.message}")
        return UNAVAILABLE
    return OK


def _told(event: Snapshot | Event, style: Style) -> str:
    now = strftime("%H:%M:%S", localtime())
    if isinstance(event, Event):
        facts = {**event.data, **({"events_lost": event.dropped} if event.dropped else {})}
        return line_of(now, event.kind, facts, style, "error" if is_trouble(event) else "info")
    status = event.status
    facts = {"state": status.state, "pid": status.pid, "running": status.running, "waiting": status.waiting}
    backends = {backend.name: standing(backend) for backend in status.backends}
    return line_of(now, f"{status.server} with {count(len(backends), 'backend')}", {**facts, **backends}, style)

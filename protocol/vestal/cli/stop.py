"""`vestal stop`: ask the daemon to stop, watch it go, say how it went.

It is gone when its side of the connection has closed. What happens on the way is told by its own events, which a
subscription made before the stop does not miss.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from time import monotonic

from vestal import ConnectionLost, Event, Snapshot, Subscription
from vestal.cli.failures import INTERRUPTED, OK
from vestal.cli.parser import Parser, seconds
from vestal.cli.reach import admin
from vestal.cli.terminal import Screen, printable
from vestal.cli.wording import count, elapsed

__all__ = ["execute", "parser"]

_MORE = """\
What is admitted may run on until the deadline (default: the daemon's own,
drain_deadline); what still runs then is cut, and 0 cuts it at once. Ctrl-C ends
the waiting, not the stop; a second `vestal stop` cuts it short."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `stop`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--deadline", metavar="SECONDS", type=seconds, help="how long admitted requests may run on")
    return made


def execute(args: Namespace) -> int:
    """Stop it and stay until it is gone."""
    screen = Screen()
    with admin(args) as client, client.subscribe() as events:
        first = next(events)
        assert isinstance(first, Snapshot)
        began = monotonic()
        client.stop(args.deadline)
        try:
            busy = first.status.running + first.status.waiting
            screen.status(f"stopping: {count(busy, 'request')} may run on" if busy else "stopping")
            trouble = _watch(events)
        except KeyboardInterrupt:
            screen.note("vestal: not waiting any longer; vestald goes on stopping")
            return INTERRUPTED
        screen.erase()
    how = f"vestald (pid {first.status.pid}) has stopped after {elapsed(monotonic() - began)}"
    sys.stdout.write(f"{printable('; '.join([how, *trouble]))}\n")
    return OK


def _watch(events: Subscription) -> list[str]:
    """What went less than smoothly, once the daemon is gone."""
    trouble = []
    try:
        for event in events:
            if isinstance(event, Event):
                trouble += _trouble(event)
    except ConnectionLost:
        pass  # which is what was waited for
    return trouble


def _trouble(event: Event) -> list[str]:
    if event.kind == "requests_cut":
        return [f"{count(int(event.data['count']), 'request')} cut at the deadline"]
    if event.kind == "backends_abandoned":
        return [f"killed, as they would not stop: {', '.join(event.data['backends'])}"]
    return []

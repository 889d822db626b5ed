"""`vestal backend add`, `restart`, `remove`, `drain`, `undrain`: one admin command each, and then how it goes.

What a command begins is told by the daemon's events, and a subscription made before it misses none. From second to
second the backend itself is looked at as well: no event tells how many requests still run. Ctrl-C ends the waiting, not
what was begun.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from time import monotonic

from vestal import AdminClient, ConnectionLost, Event, InvalidRequest
from vestal import messages as m
from vestal.cli.failures import INTERRUPTED, OK, UNAVAILABLE
from vestal.cli.faults import told
from vestal.cli.following import Following
from vestal.cli.parser import Parser, seconds
from vestal.cli.reach import admin
from vestal.cli.terminal import Screen, printable
from vestal.cli.wording import bar, count, elapsed

__all__ = ["execute", "parser"]

_LOOK = 1.0  # seconds without an event until the backend is looked at
_BAR = 20
_MORE = {
    "backend add": """\
NAME is declared in the daemon's configuration and does not run; the daemon
reads the configuration again for it. The command waits until it is ready,
and exits 69 if it could not be started. If a socket for what it can do is
not there, as something is in its place, a warning says so.""",
    "backend restart": """\
What runs there may finish until the deadline (default: the daemon's own,
drain_deadline); what waits for it waits on. It starts as the configuration
declares it now. The command waits until it is ready, and exits 69 if it
could not be started.""",
    "backend remove": """\
New requests go elsewhere at once; what runs and waits there may finish until
the deadline (default: the daemon's own, drain_deadline). The configuration
stays as it is: `vestal backend add` brings it back.""",
    "backend drain": """\
What runs and waits there goes on: `vestal backend list` shows how much that
is. `vestal backend undrain` takes it back.""",
}


def parser(command: str, purpose: str) -> Parser:
    """The arguments of one of the five."""
    made = Parser(command, purpose, words="NAME", least=1, most=1, more=_MORE.get(command, ""))
    if command in ("backend remove", "backend restart"):
        made.add_argument("--deadline", metavar="SECONDS", type=seconds, help="how long requests may run on")
    if command in _WAITED_FOR:
        made.add_argument("--no-wait", action="store_true", help="begin it, and do not wait for its end")
    return made


def execute(args: Namespace) -> int:
    """Give the command and stay until it is done; refusals come as exceptions."""
    begin, wait = _COMMANDS[args.command], _WAITED_FOR.get(args.command)
    with admin(args) as client:
        try:
            if wait is None or args.no_wait:
                return _said(begin(client, args, args.words[0]))
            return _followed(client, args, begin, wait)
        except InvalidRequest as refused:
            return told(refused)


def _followed(client: AdminClient, args: Namespace, begin: Begin, wait: Wait) -> int:
    name, screen, began = args.words[0], Screen(), monotonic()
    try:
        with Following(client) as events:
            begin(client, args, name)
            watch = _Watch(client, name, events, screen)
            fault, done = wait(watch)
    except KeyboardInterrupt:
        screen.note(f"vestal: not waiting any longer; vestald goes on with backend {name}")
        return INTERRUPTED
    except ConnectionLost as loss:
        screen.note(f"vestal: vestald is gone: {loss.message}")
        return UNAVAILABLE
    finally:
        screen.erase()
    if fault:
        screen.note(f"vestal: backend {name} {fault}")
        return UNAVAILABLE
    cut = f"; {count(watch.cut, 'request')} cut at the deadline" if watch.cut else ""
    code = _said(f"backend {name} {done} after {elapsed(monotonic() - began)}{cut}")
    for warning in watch.warnings:
        screen.note(f"vestal: warning: {warning}")
    return code


def _said(text: str) -> int:
    sys.stdout.write(f"{printable(text)}\n")
    return OK


# --- the commands -----------------------------------------------------------------------------------------------


def _add(client: AdminClient, args: Namespace, name: str) -> str:
    client.add_backend(name)
    return f"backend {name} starts; `vestal backend list` shows how far it is"


def _restart(client: AdminClient, args: Namespace, name: str) -> str:
    client.restart_backend(name, args.deadline)
    return f"backend {name} restarts; `vestal backend list` shows how far it is"


def _remove(client: AdminClient, args: Namespace, name: str) -> str:
    client.remove_backend(name, args.deadline)
    return f"backend {name} takes no new requests, and goes when it has finished"


def _drain(client: AdminClient, args: Namespace, name: str) -> str:
    client.drain_backend(name)
    left = next((_left(backend) for backend in client.backends() if backend.name == name), "")
    return f"backend {name} takes no new requests ({left}); `vestal backend undrain {name}` lets it again"


def _undrain(client: AdminClient, args: Namespace, name: str) -> str:
    client.undrain_backend(name)
    return f"backend {name} takes requests again"


Begin = Callable[[AdminClient, Namespace, str], str]
"""Gives the command, and says what has begun."""

_COMMANDS: dict[str, Begin] = {
    "backend add": _add,
    "backend restart": _restart,
    "backend remove": _remove,
    "backend drain": _drain,
    "backend undrain": _undrain,
}


# --- waiting ----------------------------------------------------------------------------------------------------

Outcome = tuple[str, str]
"""What the backend did not come to, and why; or nothing, and what it came to."""

_FAILURES = {
    "backend_start_failed": "did not start",
    "backend_restart_failed": "was not restarted",
    "backend_remove_failed": "was not removed",
}


class _Watch:
    """What a wait has: the backend's events and looks at it, one after the other."""

    def __init__(self, client: AdminClient, name: str, events: Following, screen: Screen) -> None:
        self._client, self._name, self._events, self._screen = client, name, events, screen
        self.cut = 0  # requests that the deadline ended
        self.warnings: list[str] = []

    def next(self) -> tuple[Event | None, m.BackendStatus | None]:
        """An event of the backend's, if that is what came first, and the backend as it is now, if it is there."""
        while (event := self._events.next(_LOOK)) is not None and not self._concerns(event):
            pass
        if event is not None and event.kind == "requests_cut":
            self.cut += int(event.data.get("count", 0))
        backend = next((one for one in self._client.backends() if one.name == self._name), None)
        if backend is not None:
            self._screen.status(_shown(backend, self._screen.encoding))
        return event, backend

    def find_sockets(self) -> None:
        """Wait for the sockets of what it can do; one that cannot be opened is a warning, as nobody gets in by it."""
        while True:
            report = self._client.status()
            backend = next((one for one in report.backends if one.name == self._name), None)
            if report.state != "ready" or backend is None or backend.state != "ready" or backend.capabilities is None:
                return  # there are no sockets yet, or not for it
            can = backend.capabilities
            wanted = [kind for kind, able in (("infer", can.generate), ("embed", can.embed)) if able]
            shut = [kind for kind in wanted if kind not in report.sockets]
            if all(kind in report.socket_faults for kind in shut):
                self.warnings = [_shut(kind, report.socket_faults[kind]) for kind in shut]
                return
            self._events.next(_LOOK)

    def _concerns(self, event: Event) -> bool:
        return event.data.get("backend") == self._name or self._name in event.data.get("backends", ())


def _until_ready(watch: _Watch, *, begun: bool) -> Outcome:
    """`begun`: a backend that is ready, or has failed, is no longer the one of before."""
    while True:
        event, backend = watch.next()
        if event is not None and event.kind in _FAILURES:
            return _failed(event), ""
        if backend is None:
            return "is not there any more", ""
        state = event.data["state"] if event is not None and event.kind == "backend_state" else backend.state
        if begun and state == "ready":
            watch.find_sockets()
            return "", "is ready"
        if begun and state == "failed":
            return f"did not start: {_why(event, backend)}", ""
        begun = begun or state in ("stopping", "stopped", "starting", "loading")


def _why(event: Event | None, backend: m.BackendStatus) -> str:
    """The reason as it was told; a look a moment later may find it being tried again."""
    told = event.data.get("detail") if event is not None else None
    again = "" if backend.required else f" (it is tried again; `vestal backend remove {backend.name}` ends that)"
    return f"{told or backend.detail}{again}"


def _shut(kind: str, fault: str) -> str:
    return f"no request reaches it by {kind}.sock, which is not there: {fault}; the daemon tries again now and then"


def _until_gone(watch: _Watch) -> Outcome:
    """A look may find it gone before its last events are read: then those are waited for, for one more look."""
    missed = False
    while True:
        event, backend = watch.next()
        if event is not None and event.kind in _FAILURES:
            return _failed(event), ""
        if event is None and backend is None:
            if missed:
                return "", "is removed"
            missed = True
        if event is not None and event.kind == "backend_removed":
            return "", "is removed"


def _failed(event: Event) -> str:
    return f"{_FAILURES[event.kind]}: {event.data.get('error')}"


Wait = Callable[[_Watch], Outcome]

_WAITED_FOR: dict[str, Wait] = {
    "backend add": partial(_until_ready, begun=True),
    "backend restart": partial(_until_ready, begun=False),
    "backend remove": _until_gone,
}


def _shown(backend: m.BackendStatus, encoding: str | None) -> str:
    if backend.percent is not None:
        return f"{backend.name}: {bar(backend.percent, _BAR, encoding)}  {backend.percent:.0f} %  {backend.detail}"
    if backend.running or backend.waiting:
        return f"{backend.name}: {_left(backend)}"
    return f"{backend.name}: {backend.state}"


def _left(backend: m.BackendStatus) -> str:
    return f"{count(backend.running, 'request')} running, {backend.waiting} waiting"

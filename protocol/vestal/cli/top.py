"""`vestal top`: the daemon, drawn anew every second.

It asks three small questions a tick and subscribes to events once, for the errors; nothing is asked of a model. On
a terminal it has the screen for itself and gives it back however it ends; elsewhere it prints one picture.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread
from time import localtime, monotonic, strftime
from typing import TYPE_CHECKING, NoReturn

from vestal import AdminClient, Event, Subscription, VestalError
from vestal.cli.events import is_trouble, said
from vestal.cli.extras import require
from vestal.cli.failures import OK
from vestal.cli.parser import Parser, seconds
from vestal.cli.rates import Look, Rates
from vestal.cli.reach import admin
from vestal.cli.terminal import columns, is_live, style_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from vestal.cli.board import Mishap, Picture

__all__ = ["execute", "parser"]

_TICK = 1.0
_KEPT = 50  # errors remembered
_WIDTH_OF_A_PIPE = 120

_MORE = """\
`q` or Ctrl-C ends it. Rates are means of the last five seconds; `-` is what
nothing was observed of. Into a pipe it prints one picture, without colours."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `top`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--interval", metavar="SECONDS", type=seconds, default=_TICK, help="how often to look (1 s)")
    made.add_argument("--once", action="store_true", help="print one picture and end")
    return made


def execute(args: Namespace) -> int:
    """Look and draw until it is enough."""
    require(args.command, "rich")
    from rich.console import Console

    style = style_of(sys.stdout)
    live = is_live(sys.stdout)
    console = Console(
        force_terminal=live, no_color=not style.coloured, markup=False, highlight=False, emoji=False,
        width=None if live else columns(sys.stdout) or _WIDTH_OF_A_PIPE,
    )  # fmt: skip
    interval = max(args.interval, 0.1)
    with admin(args) as client, Watch(client) as watch:
        watch.look()
        if live and not args.once:
            _follow(watch, console, interval)
        else:
            select.select([], [], [], interval)
            sys.stdout.write(_plain(_drawing(watch.look(), console), console))
    return OK


def _follow(watch: Watch, console: Console, interval: float) -> None:
    from rich.live import Live

    with suppress(KeyboardInterrupt), ExitStack() as stack:  # Ctrl-C is one of the two ways to end it
        keys = stack.enter_context(_keys())
        stack.enter_context(_ended_by_signals())
        live = Live(_drawing(watch.picture(), console), console=console, screen=True, auto_refresh=False)
        stack.callback(live.stop)  # and not as a context: a signal amid its start would leave the screen taken
        live.start(refresh=True)
        while not _pressed_q(keys, interval):
            live.update(_drawing(watch.look(), console), refresh=True)


def _drawing(picture: Picture, console: Console) -> RenderableType:
    from vestal.cli.board import drawn

    return drawn(picture, console.width, console.encoding)


def _plain(drawing: RenderableType, console: Console) -> str:
    """The picture as text, without the blanks that fill its lines up."""
    with console.capture() as captured:
        console.print(drawing)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


class Watch:
    """What is known of the daemon: looked up at each tick, and the errors as they come."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._rates = Rates()
        self._mishaps: deque[Mishap] = deque(maxlen=_KEPT)
        self._events: Subscription | None = None
        self._reader: Thread | None = None
        self._pid = 0
        self._picture: Picture | None = None

    def picture(self) -> Picture:
        """The latest."""
        return self._picture or self.look()

    def look(self) -> Picture:
        """Ask. The first time what goes wrong is raised; later it is shown, and asked again at the next tick."""
        from vestal.cli.board import Picture

        try:
            status = self._client.status()
            queue = self._client.queue().entries
            look = Look.of(monotonic(), self._client.metrics(), queue)
            self._follow_events(status.pid)
        except VestalError as error:
            if self._picture is None:
                raise
            self._pid = 0
            self._picture = Picture(None, mishaps=tuple(self._mishaps), notice=f"{error.message} (trying on)")
            return self._picture
        self._rates.add(look)
        self._picture = Picture(status, queue, self._rates, tuple(self._mishaps))
        return self._picture

    def _follow_events(self, pid: int) -> None:
        """Subscribe, once for each daemon there is."""
        if pid == self._pid:
            return
        self._unsubscribe()
        self._rates.clear()
        self._events = self._client.subscribe()
        self._reader = Thread(target=self._read, args=(self._events,), name="events")
        self._reader.start()
        self._pid = pid

    def _read(self, events: Subscription) -> None:
        from vestal.cli.board import Mishap

        try:
            for event in events:
                if isinstance(event, Event) and is_trouble(event):
                    self._mishaps.append(Mishap(strftime("%H:%M:%S", localtime()), said(event)))
        except VestalError:
            return  # the daemon is gone; the next look says so

    def _unsubscribe(self) -> None:
        if self._events is not None and self._reader is not None:
            self._events.close()
            self._reader.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._unsubscribe()

    def __repr__(self) -> str:
        return f"<Watch pid={self._pid} {self._rates!r} mishaps={len(self._mishaps)}>"


@contextmanager
def _keys() -> Iterator[int | None]:
    """The terminal to read keys from, one by one and unseen; None where standard input is none."""
    if not sys.stdin or not sys.stdin.isatty():
        yield None
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield number
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _pressed_q(keys: int | None, timeout: float) -> bool:
    """Wait for the next tick, or for a key."""
    ends = monotonic() + timeout
    while keys is not None and (left := ends - monotonic()) > 0:
        ready, _, _ = select.select([keys], [], [], left)
        if ready:
            pressed = os.read(keys, 64)
            if not pressed or b"q" in pressed.lower():
                return True
    if keys is None:
        select.select([], [], [], timeout)
    return False


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """The default of these would end the process with the screen still taken."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)

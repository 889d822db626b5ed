"""The picture that `vestal top` shows: the daemon, its backends, recent errors, and the queue by caller.

Everything in it that strangers chose (names, clients, details) is made printable first and is never markup. Columns
that matter least go first where the terminal is narrow; the queue comes last, as it is what may be cut below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import Struct
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vestal import messages as m
from vestal.cli.queue import user
from vestal.cli.rates import Pace, Rates
from vestal.cli.standing import COLOURS, colour_of, standing
from vestal.cli.terminal import printable
from vestal.cli.wording import bar, count, elapsed, megabytes, words_of_time

__all__ = ["Mishap", "Picture", "drawn"]

_OF_BACKENDS = (
    ("BACKEND", "left"), ("STATE", "left"), ("SLOTS", "left"), ("WAIT", "right"), ("MEM", "right"), ("TOK/S", "right"),
)  # fmt: skip
_OF_CALLERS = (("CALLER", "left"), ("#", "right"), ("STATE", "left"), ("AGE", "right"), ("TOKENS", "right"))
_WIDE = 80  # columns from which the columns that matter least are shown
_ERRORS = 3  # lines of recent errors
_BAR = 8
_NONE = "-"


class Mishap(Struct, frozen=True):
    """A recent error, as one line: when on this side's clock, and what."""

    when: str
    what: str


class Picture(Struct, frozen=True):
    """All that is shown. `status` is None while no daemon answers, and `notice` says so then."""

    status: m.StatusReport | None
    queue: Sequence[m.QueueEntry] = ()
    rates: Rates | None = None
    mishaps: Sequence[Mishap] = ()
    notice: str = ""


def drawn(picture: Picture, width: int, encoding: str | None) -> RenderableType:
    """For a terminal of `width` columns; bars are of blocks where `encoding` has them."""
    parts: list[RenderableType] = []
    if picture.notice:
        parts.append(Text(printable(picture.notice), style="bold red"))
    if picture.status is not None:
        rates = picture.rates or Rates()
        parts += [*_head(picture.status, rates.pace(), width), Text()]
        parts.append(_backends(picture.status.backends, rates, width, encoding))
    if picture.mishaps:
        parts += [Text(), _mishaps(picture.mishaps)]
    if picture.status is not None:
        parts += [Text(), *_queue(picture.queue, width)]
    return Group(*parts)


def _head(status: m.StatusReport, pace: Pace, width: int) -> list[RenderableType]:
    title = Text.assemble(
        printable(status.server), "  ", (status.state, f"bold {COLOURS.get(status.state, '')}".strip()),
        f"  up {words_of_time(status.uptime_ms / 1000)}", f"  pid {status.pid}", f"  {_memory(status.memory_bytes)}",
    )  # fmt: skip
    work = f"{status.running} running, {status.waiting} waiting (at most {status.queue_depth})"
    lines = [title, _line(f"{work}, {count(status.connections, 'connection')}"), _line(_speed(pace))]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return list(lines)


def _speed(pace: Pace) -> str:
    return f"{_rate(pace.tokens)} tok/s, first token after {_time(pace.first_token)}, then one every {_time(pace.gap)}"


def _backends(backends: Iterable[m.BackendStatus], rates: Rates, width: int, encoding: str | None) -> Table:
    wide = width >= _WIDE
    more = (("TTFT", "right"), ("GAP", "right"), ("MODEL", "left")) if wide else ()
    table = _table(*_OF_BACKENDS, *more)
    for backend in backends:
        pace = rates.pace(backend.name)
        row = [
            _line(backend.name, "bold"),
            _state(backend),
            _slots(backend, encoding),
            _line(str(backend.waiting)),
            _line(_memory(backend.memory_bytes)),
            _line(_rate(pace.tokens)),
        ]
        if wide:
            row += [_line(_time(pace.first_token)), _line(_time(pace.gap)), _line(backend.model or "?")]
        table.add_row(*row)
    return table


def _state(backend: m.BackendStatus) -> Text:
    percent = f" {backend.percent:.0f} %" if backend.percent is not None else ""
    restarts = f" ({count(backend.restarts, 'restart')})" if backend.restarts else ""
    return Text.assemble((f"{standing(backend)}{percent}", colour_of(backend)), restarts)


def _slots(backend: m.BackendStatus, encoding: str | None) -> Text:
    """A bar of how busy it is, or while it loads of how far it is."""
    if backend.percent is not None:
        return Text(bar(backend.percent, _BAR, encoding), style="yellow")
    busy = 100 * backend.running / backend.slots if backend.slots else 0.0
    return Text(f"{bar(busy, _BAR, encoding)} {backend.running}/{backend.slots}")


def _mishaps(mishaps: Sequence[Mishap]) -> Table:
    table = _table(("RECENT ERRORS", "left"), ("", "left"))
    for mishap in list(mishaps)[-_ERRORS:]:
        table.add_row(_line(mishap.when, "dim"), _line(mishap.what, "red"))
    return table


def _queue(entries: Iterable[m.QueueEntry], width: int) -> list[RenderableType]:
    """A block for each caller, whoever is next first; in it what runs, then what waits by its place."""
    of_caller = sorted(entries, key=lambda entry: (entry.uid, entry.position or 0, -entry.age_ms))
    blocks = [(uid, list(theirs)) for uid, theirs in groupby(of_caller, key=lambda entry: entry.uid)]
    if not blocks:
        return [Text("nobody waits, nobody runs", style="dim")]
    wide = width >= _WIDE
    more = (("CLASS", "left"), ("BACKEND", "left")) if wide else ()
    table = _table(*_OF_CALLERS, *more, ("CLIENT", "left"))
    for uid, theirs in sorted(blocks, key=lambda block: min(entry.position or 0 for entry in block[1])):
        _add_caller(table, user(uid), theirs, wide=wide)
    return [table]


def _add_caller(table: Table, name: str, theirs: Sequence[m.QueueEntry], *, wide: bool) -> None:
    running = sum(entry.position is None for entry in theirs)
    summary = _line(f"{running} run, {len(theirs) - running} wait", "dim")
    for index, entry in enumerate(theirs):
        who = _line(name, "bold") if index == 0 else summary if index == 1 else Text()
        state = "running" if entry.state == "running" else f"place {entry.position}" if entry.position else entry.state
        colour = "green" if entry.state == "running" else "yellow"
        row = [who, _line(str(entry.request)), _line(state, colour), _line(elapsed(entry.age_ms / 1000)),
               _line(str(entry.output_tokens))]  # fmt: skip
        row += [_line(entry.priority), _line(entry.backend or _NONE)] if wide else []
        table.add_row(*row, _line(entry.client or _NONE))


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for title, side in columns:
        table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True, overflow="ellipsis")
    return table


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _rate(tokens: float | None) -> str:
    return _NONE if tokens is None else f"{tokens:,.1f}"


def _time(seconds: float | None) -> str:
    return _NONE if seconds is None else elapsed(seconds)


def _memory(size: int | None) -> str:
    return _NONE if size is None else megabytes(size)

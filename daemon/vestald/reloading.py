"""A reload: the sources are read again, what may change in a running daemon changes, the rest is named.

All or nothing. A file with a fault, an adapter that does not like its table, a name that nobody has: then nothing
changes. Otherwise every `LIVE` option holds from then on, all at once between two turns of the event loop; any other
is kept as it was until the daemon restarts, and every reload says so again. The comparison is pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from vestal.errors import InvalidRequest
from vestal.options import REQUIRED
from vestald.backends.registry import configured_or_default
from vestald.config import BackendTable, BadSettings, Config, Sources
from vestald.config.backends import faults_of, options_in
from vestald.config.explain import shown
from vestald.config.table import Option, options_of
from vestald.failures import BadConfiguration
from vestald.rules import Rules, unanswered

__all__ = ["Change", "Reload", "compared", "in_order", "prepared", "read_again", "refused"]


_MAX_SHOWN = 200
"""Characters of one value: a table of weights may be long, and a line of the audit log must not be."""


class Change(Struct, frozen=True):
    """One key; the values are as in the file, a secret's masked, `-` for one that is not there."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after}"


class Reload(Struct, frozen=True):
    """What a reload does. `config` is the one that holds from then on: the old one, with the live changes in it."""

    config: Config
    rules: Rules
    applied: tuple[Change, ...]
    kept: tuple[Change, ...]


def read_again(sources: Sources) -> Config:
    """What the sources say now, with the backends that it means. Raises `BadConfiguration` for any fault in it."""
    new = sources.read()
    with suppress(BadConfiguration):  # no backend at all is what it says then
        new = msgspec.structs.replace(new, backends=configured_or_default(new))
    if faults := [*faults_of(new), *unanswered(new)]:
        raise BadSettings(faults)
    return new


def refused(bad: BadConfiguration) -> InvalidRequest:
    """What an operator is told of a configuration with faults."""
    faults = [str(fault) for fault in bad.faults] if isinstance(bad, BadSettings) else [str(bad)]
    return InvalidRequest(
        f"nothing was changed: {bad.message}", hint=bad.hint, details={"field": "type", "faults": faults}
    )


def prepared(old: Config, sources: Sources) -> Reload:
    """Read again, and find out what a reload will do; nothing has changed yet. Raises `BadConfiguration`."""
    new = read_again(sources)
    config, applied, kept = compared(old, new)
    return Reload(config, Rules.of(config), applied, kept)


def compared(old: Config, new: Config) -> tuple[Config, tuple[Change, ...], tuple[Change, ...]]:
    """The configuration that holds after the reload, what it changes, and what it keeps as it was."""
    config, applied, kept = old, [], []
    for option in options_of(type(new)):
        before, after = option.value(old), option.value(new)
        if before == after:
            continue
        change = _change(option, before, after)
        if option.field.trait.live:
            applied.append(change)
            config = _with(config, option.path, after)
        else:
            kept.append(change)
    if turned := _turned(old, new):
        applied.append(
            Change("backend", *(_cut(", ".join(t.name for t in tables)) for tables in (old.backends, turned)))
        )
        config = msgspec.structs.replace(config, backends=turned)
    kept += _backend_changes(old, new)
    config = msgspec.structs.replace(config, source=new.source, origins=new.origins, warnings=new.warnings)
    return config, tuple(applied), tuple(kept)


def in_order(running: Sequence[str], declared: Sequence[str]) -> list[str]:
    """What runs, as the file has it now; what the file does not have any more keeps its place."""
    both = iter([name for name in declared if name in running])
    return [next(both) if name in declared else name for name in running]


def _turned(old: Config, new: Config) -> tuple[BackendTable, ...]:
    """The tables of what runs in another order, for a request goes to the first that can; none if it is the same."""
    names = [table.name for table in old.backends]
    order = in_order(names, [table.name for table in new.backends])
    return () if order == names else tuple(old.backends[names.index(name)] for name in order)


def _with(node: Any, path: tuple[str, ...], value: object) -> Any:
    name, *rest = path
    inner = _with(getattr(node, name), tuple(rest), value) if rest else value
    return msgspec.structs.replace(node, **{name: inner})


def _backend_changes(old: Config, new: Config) -> Iterator[Change]:
    before = {table.name: table for table in old.backends}
    after = {table.name: table for table in new.backends}
    for name in dict.fromkeys([*before, *after]):
        was, now = before.get(name), after.get(name)
        if was is None or now is None or was.adapter != now.adapter:
            yield Change(f"backend.{name}", was.adapter if was else "-", now.adapter if now else "-")
        else:
            yield from _option_changes(was, now)


def _option_changes(was: BackendTable, now: BackendTable) -> Iterator[Change]:
    for option in options_in(now):
        before, after = _value(was, option), _value(now, option)
        if before != after:
            yield _change(option, before, after)


def _change(option: Option, before: object, after: object) -> Change:
    return Change(option.key, *(_cut(shown(value, option.field)) for value in (before, after)))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _value(table: BackendTable, option: Option) -> object:
    value = table.options.get(option.path[-1], option.field.default)
    return None if value is REQUIRED else value

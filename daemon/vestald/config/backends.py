"""The `[[backend]]` tables: which keys they may hold is declared by the adapter that each names.

Reading keeps an adapter's keys as they stand; here they meet the adapter, which is imported for it. Flags and
variables can change a key of a table that the file has, and add none: `--backend-chat-slots 8`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from vestal.backend import Backend, BackendOptions
from vestal.options import REQUIRED, Field, fields_of
from vestald.adapters import adapter_class
from vestald.config.faults import BadSettings, Fault, of_value, secret_flag, unknown
from vestald.config.schema import BackendKeys, BackendTable, Config, Origin
from vestald.config.table import Option, backend_option, plain
from vestald.config.values import converted, from_text, kind_of, to_text
from vestald.failures import BadConfiguration

__all__ = ["Override", "Resolved", "clashes", "faults_of", "keys_of", "options_in", "overridden", "resolved"]


class Override(Struct, frozen=True):
    """A flag or variable that means a backend's option; `name` is its flag without `--backend-`."""

    name: str
    text: str
    origin: Origin


class Resolved(Struct, frozen=True):
    """A table that has met its adapter: what to make of it, and what the daemon itself is told of it."""

    adapter: type[Backend]
    options: BackendOptions
    keys: BackendKeys


def resolved(config: Config, table: BackendTable) -> Resolved:
    """The adapter of a table and its keys, checked. Raises `BadSettings`."""
    try:
        cls = _adapter(table)
    except BadConfiguration as error:
        place = config.place(f"backend.{table.name}.adapter")
        raise BadSettings([Fault(place, f"backend {table.name}: {error.message}", error.hint or "")]) from error
    if faults := list(_faults(config, table, cls.Options)):
        raise BadSettings(faults)
    own = {key: value for key, value in table.options.items() if key in BackendKeys.__struct_fields__}
    others = {key: value for key, value in table.options.items() if key not in own}
    try:
        return Resolved(cls, msgspec.convert(others, cls.Options), msgspec.convert(own, BackendKeys))
    except msgspec.ValidationError as exc:  # what no key shows alone
        key = str(exc).partition(":")[0]
        named = key in {field.name for field in fields_of(cls.Options)}
        place = config.place(f"backend.{table.name}.{key}" if named else f"backend.{table.name}")
        said = f"backend {table.name}{'.' if named else ': '}{exc}"
        raise BadSettings([Fault(place, said.removesuffix(" - at `$`"))]) from exc


def faults_of(config: Config) -> list[Fault]:
    """Everything that the adapters do not like about their tables."""
    faults: list[Fault] = []
    for table in config.backends:
        try:
            resolved(config, table)
        except BadSettings as bad:
            faults += bad.faults
    return faults


def options_in(table: BackendTable) -> list[Option]:
    """The options of one table's adapter. Raises `BadConfiguration`."""
    return [backend_option(table.name, field) for field in keys_of(_adapter(table).Options)]


def clashes(config: Config) -> Iterator[Fault]:
    """A fault for each alias that is another backend's name: one name would mean one of them, and a choice."""
    names = {table.name for table in config.backends}
    for table in config.backends:
        aliases = table.options.get("aliases")
        taken = names.intersection(a for a in aliases if isinstance(a, str)) if isinstance(aliases, list) else set()
        for alias in sorted(taken - {table.name}):
            place = config.place(f"backend.{table.name}.aliases")
            hint = "give one of the two another name; an alias may be shared with other aliases"
            yield Fault(place, f"backend {table.name}.aliases: {alias!r} is the name of another backend", hint)


def _adapter(table: BackendTable) -> type[Backend]:
    """Raises `BadConfiguration` for one that cannot be used."""
    cls = adapter_class(table.adapter)
    own = {field.name for field in fields_of(BackendKeys)} & {field.name for field in fields_of(cls.Options)}
    if own:
        raise BadConfiguration(
            f"adapter {table.adapter!r} has the option {', '.join(sorted(own))}, which is the daemon's own",
            hint="its author must give it another name: every [[backend]] may hold that key, whatever its adapter",
        )
    return cls


def keys_of(options: type[BackendOptions]) -> list[Field]:
    """Every key that the table of an adapter with these options may hold, beside `name` and `adapter`."""
    return [*fields_of(BackendKeys), *fields_of(options)]


def _faults(config: Config, table: BackendTable, options: type[BackendOptions]) -> Iterator[Fault]:
    fields = {field.name: field for field in keys_of(options)}
    for key, value in table.options.items():
        place, where = config.place(f"backend.{table.name}.{key}"), f"backend {table.name}.{key}"
        if key not in fields:
            yield Fault(place, unknown(where, key, fields))
            continue
        try:
            converted(value, kind_of(fields[key]))
        except msgspec.ValidationError as exc:
            yield Fault(place, of_value(where, fields[key], value, exc))
    for name, field in fields.items():
        if field.default is REQUIRED and name not in table.options:
            place = config.place(f"backend.{table.name}")
            yield Fault(place, f"backend {table.name}.{name} is missing: {field.description}", _example(field))


def _example(field: Field) -> str:
    return f"such as {field.name} = {to_text(field.examples[0])}" if field.examples else ""


# --- flags and variables --------------------------------------------------------------------------------------


def overridden(
    tables: Iterable[BackendTable], overrides: Iterable[Override]
) -> tuple[tuple[BackendTable, ...], dict[str, Origin], list[Fault]]:
    """The tables with what flags and variables say instead; the later override counts."""
    changed = {table.name: dict(table.options) for table in tables}
    by_name = {table.name: table for table in tables}
    origins: dict[str, Origin] = {}
    faults: list[Fault] = []
    for override in overrides:
        try:
            option, value = _meant(override, by_name)
        except BadSettings as bad:
            faults += bad.faults
            continue
        _, name, key = option.path
        changed[name][key] = value
        origins[option.key] = override.origin
    told = tuple(BackendTable(table.name, table.adapter, changed[table.name]) for table in by_name.values())
    return told, origins, faults


def _meant(override: Override, tables: Mapping[str, BackendTable]) -> tuple[Option, Any]:
    """The option that an override names, and its value. Raises `BadSettings`."""
    place = override.origin.place
    names = [name for name in tables if override.name.startswith(f"{plain(name)}-")]
    longest = max(map(len, names), default=0)
    names = [name for name in names if len(name) == longest]
    if len(names) != 1:
        what = f"could mean the backends {' and '.join(names)}" if names else "names no [[backend]] of the file"
        raise BadSettings([Fault(place, what, f"its backends: {', '.join(tables) or 'none'}")])
    (name,) = names
    key = override.name[len(plain(name)) + 1 :]
    try:
        options = {plain(option.path[-1]): option for option in options_in(tables[name])}
    except BadConfiguration as error:
        raise BadSettings([Fault(place, f"backend {name}: {error.message}", error.hint or "")]) from error
    if key not in options:
        near = difflib.get_close_matches(key, options, n=1)
        raise BadSettings(
            [Fault(place, f"backend {name} has no option {key}", f"did you mean {near[0]}?" if near else "")]
        )
    option = options[key]
    if option.field.trait.secret and override.origin.kind == "flag":
        raise BadSettings([secret_flag(option)])
    return option, from_text(override.text, kind_of(option.field))

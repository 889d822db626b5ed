"""Takes the sources one after the other, in ascending precedence, and keeps every value, its origin and every fault.

A name that nothing has is a fault in the file and in a flag. A variable may be another program's: it is a fault only
if it begins like a section's, and a warning if it resembles an option's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from vestald.config.backends import Override, clashes, overridden
from vestald.config.faults import Fault, of_value, secret_flag, unknown
from vestald.config.lines import Place, key_lines
from vestald.config.schema import BackendTable, Config, Origin
from vestald.config.table import PREFIX, Option, options_of
from vestald.config.values import converted, from_text

__all__ = ["BACKEND_FLAG", "OWN_VARIABLES", "Reader", "Reading"]

OWN_VARIABLES = ("VESTAL_CONFIG", "VESTAL_DEBUG", "VESTAL_HOME")
"""Variables that are no options."""

BACKEND_FLAG = "--backend-"
_BACKEND_VARIABLE = "VESTAL_BACKEND_"
_NEAR = 0.85  # how like an option's a variable of nobody's must be to be taken for a mistake


class Reading(Struct, frozen=True):
    """What was read: where there are faults, `config` is what remains without them."""

    config: Config
    faults: tuple[Fault, ...]


class Reader:
    """One reading. `root` is whose sections are the options that there are."""

    def __init__(self, root: type[Config]) -> None:
        self._root = root
        self._options = {option.key: option for option in options_of(root)}
        self._old = {old.key: (old, new) for new in self._options.values() for old in new.formerly}
        paths = [option.path for option in (*self._options.values(), *(old for old, _ in self._old.values()))]
        self._sections = {".".join(path[:end]) for path in paths for end in range(1, len(path))}
        self._values: dict[str, Any] = {}
        self._origins: dict[str, Origin] = {}
        self._tables: list[BackendTable] = []
        self._overrides: list[Override] = []
        self._faults: list[Fault] = []
        self._warnings: list[str] = []
        self._path: Path | None = None
        self._lines: Mapping[Place, int] = {}

    def reading(self) -> Reading:
        tables, origins, faults = overridden(self._tables, self._overrides)
        self._origins |= origins
        config = self._root(
            **_built(self._root, self._values, ()), backends=tables, source=self._path,
            origins=self._origins, warnings=tuple(self._warnings),
        )  # fmt: skip
        self._check_ceilings(config)
        return Reading(config, (*self._faults, *faults, *clashes(config)))

    # --- the file ---------------------------------------------------------------------------------------------

    def read_file(self, path: Path, text: str, table: Mapping[str, Any]) -> None:
        """`table` is what `text` means, which is in the file `path`."""
        self._path = path
        self._lines = key_lines(text)
        self._take_table(table, ())
        self._take_backends(table.get("backend", []))

    def _take_table(self, table: Mapping[str, Any], path: tuple[str, ...]) -> None:
        for name, value in table.items():
            place = (*path, name)
            key = ".".join(place)
            if "." in name:  # a quoted key: no option has one
                self._fault(
                    self._at(place), unknown(f'{".".join(path)}."{name}"'.lstrip("."), name, self._names_in(path))
                )
            elif key in self._options or key in self._old:
                self._take(key, value, Origin("file", self._at(place)))
            elif key in self._sections and isinstance(value, dict):
                self._take_table(value, place)
            elif key in self._sections:
                self._fault(self._at(place), f"{key}: expected a table, got {value!r:.64}", f"write [{key}]")
            elif key != "backend":
                self._fault(self._at(place), unknown(key, name, self._names_in(path)))

    def _names_in(self, path: tuple[str, ...]) -> list[str]:
        names = [option.path[len(path)] for option in self._options.values() if option.path[: len(path)] == path]
        return list(dict.fromkeys(names if path else [*names, "backend"]))

    def _at(self, place: Place) -> str:
        return f"{self._path}:{self._lines[place]}" if place in self._lines else str(self._path)

    def _take_backends(self, entries: object) -> None:
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            what = "is a single table" if isinstance(entries, dict) else "is no table"
            self._fault(self._at(("backend",)), f"backend {what}", "write [[backend]], with two brackets")
            return
        for number, entry in enumerate(entries):
            self._take_backend(number, entry)

    def _take_backend(self, number: int, entry: dict[str, Any]) -> None:
        here: Place = ("backend", number)
        sound = True
        for key in ("name", "adapter"):
            if not isinstance(entry.get(key), str) or not entry[key]:
                what = "must be a text" if key in entry else "is missing"
                there = [key] if key in entry else difflib.get_close_matches(key, entry, n=1)
                hint = f'every [[backend]] has a line like {key} = "echo"'
                if there and there != [key]:
                    hint = f"there is {there[0]}: did you mean {key}?"
                self._fault(self._at((*here, *there)), f"backend[{number}].{key} {what}", hint)
                sound = False
        if not sound:
            return
        name, at = entry["name"], self._at((*here, "name"))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            self._fault(at, f"backend[{number}].name {name!r}: use letters, digits, '.', '_', '-'")
        elif name in {table.name for table in self._tables}:
            self._fault(at, f"two backends are named {name!r}", "give each its own name")
        else:
            options = {key: value for key, value in entry.items() if key not in ("name", "adapter")}
            self._tables.append(BackendTable(name, entry["adapter"], options))
            self._origins[f"backend.{name}"] = Origin("file", self._at(here))
            for key in entry:
                self._origins[f"backend.{name}.{key}"] = Origin("file", self._at((*here, key)))

    # --- variables and flags ----------------------------------------------------------------------------------

    def read_variables(self, variables: Mapping[str, str]) -> None:
        keys = self._keys_by(lambda option: option.variable)
        sections = tuple(f"{PREFIX}{section.split('.')[0].upper()}_" for section in self._sections)
        for name in sorted(variables):
            text = variables[name]
            if not name.startswith(PREFIX) or not text or name in OWN_VARIABLES:
                continue
            if name in keys:
                self._take_text(keys[name], text, Origin("variable", name))
            elif name.startswith(_BACKEND_VARIABLE):
                plain = name.removeprefix(_BACKEND_VARIABLE).lower().replace("_", "-")
                self._overrides.append(Override(plain, text, Origin("variable", name)))
            elif name.startswith(sections):
                near = difflib.get_close_matches(name, keys, n=1)
                hint = f"did you mean {near[0]}?" if near else "`vestald config explain` lists the options"
                self._fault(name, "no option has this variable", hint)
            elif near := difflib.get_close_matches(name, [*keys, *OWN_VARIABLES], n=1, cutoff=_NEAR):
                self._warnings.append(f"the variable {name} means nothing here: did you mean {near[0]}?")

    def read_flags(self, flags: Mapping[str, str]) -> None:
        keys = self._keys_by(lambda option: option.flag)
        for flag, text in flags.items():
            if flag in keys:
                self._take_text(keys[flag], text, Origin("flag", flag))
            else:
                self._overrides.append(Override(flag.removeprefix(BACKEND_FLAG), text, Origin("flag", flag)))

    def _keys_by(self, name_of: Callable[[Option], str]) -> dict[str, str]:
        options = (*(old for old, _ in self._old.values()), *self._options.values())
        return {name_of(option): option.key for option in options}

    # --- one value --------------------------------------------------------------------------------------------

    def _take_text(self, key: str, text: str, origin: Origin) -> None:
        option = self._options[key] if key in self._options else self._old[key][1]
        self._take(key, from_text(text, option.field.type), origin)

    def _take(self, key: str, value: object, origin: Origin) -> None:
        option = self._current(key, origin)
        earlier = self._origins.get(option.key)
        if earlier is not None and earlier.kind == origin.kind:
            self._fault(origin.place, f"{option.key} is given twice: {earlier.place} has it too", "keep one")
            return
        if option.field.trait.secret and origin.kind == "flag":
            self._faults.append(secret_flag(option))
            return
        if option.field.trait.deprecated:
            self._warnings.append(f"{origin.place}: {key} is going away: {option.field.trait.deprecated}")
        try:
            self._values[option.key] = converted(value, option.field.type)
            self._origins[option.key] = origin
        except msgspec.ValidationError as exc:
            inside = list(self._entries(key, option, value)) if origin.kind == "file" else []
            self._faults += inside or [Fault(origin.place, of_value(key, option.field, value, exc))]

    def _entries(self, key: str, option: Option, value: object) -> Iterator[Fault]:
        """The faults in a table of the file, each with the line of its entry."""
        for name, one in value.items() if isinstance(value, dict) else ():
            try:
                converted({name: one}, option.field.type)
            except msgspec.ValidationError as exc:
                place = self._at((*key.split("."), name))
                yield Fault(place, of_value(f'{key}."{name}"', option.field, one, exc))

    def _current(self, key: str, origin: Origin) -> Option:
        """The option of `key`, which may be a name that it had."""
        if key in self._options:
            return self._options[key]
        old, new = self._old[key]
        name = {"file": (old.key, new.key), "variable": (old.variable, new.variable), "flag": (old.flag, new.flag)}
        was, now = name[origin.kind]
        self._warnings.append(f"{origin.place}: {was} is now {now}")
        return new

    def _fault(self, place: str, message: str, hint: str = "") -> None:
        self._faults.append(Fault(place, message, hint))

    def _check_ceilings(self, config: Config) -> None:
        for key in ("queue_timeout", "timeout"):
            default, ceiling = getattr(config.admission, key), getattr(config.admission, f"max_{key}")
            if default is not None and ceiling is not None and default > ceiling:
                self._fault(
                    config.place(f"admission.{key}"),
                    f"admission.{key} is {default:g} s, and admission.max_{key} only {ceiling:g} s",
                    "a default is at most its ceiling",
                )


def _built(struct: type[Struct], values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a struct of structs, from the values by key."""
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        key = ".".join((*path, field.name))
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            fields[field.name] = field.type(**_built(field.type, values, (*path, field.name)))
        elif key in values:
            fields[field.name] = values[key]
    return fields

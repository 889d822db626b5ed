"""A JSON Schema (2020-12) of the configuration file, for editors that complete and check TOML with one.

It is put together field by field: msgspec gives the schema of each type, the table the rest. A backend's keys
depend on its adapter, so there is an alternative for each that is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from vestal.options import REQUIRED, Field, fields_of
from vestald.adapters import adapter_class, installed
from vestald.config.backends import keys_of
from vestald.config.schema import Config
from vestald.config.table import options_of
from vestald.config.values import Duration, Mode, kind_of, to_text
from vestald.failures import BadConfiguration

__all__ = ["schema"]

_DURATION = r"^\s*([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+\s*$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def schema() -> dict[str, Any]:
    """The whole, with the adapters that are installed and can be imported."""
    root = _object("The configuration of vestald.")
    for option in options_of(Config):
        table = root
        for name in option.path[:-1]:
            table = table["properties"].setdefault(name, _object(f"[{'.'.join(option.path[:-1])}]"))
        table["properties"][option.path[-1]] = _field(option.field)
    root["properties"]["backend"] = {
        "type": "array",
        "description": "One [[backend]] each: a model, and what runs it.",
        "items": {"oneOf": [_backend(name) for name in _importable()]},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "vestald.toml", **root}


def _object(description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": {}, "additionalProperties": False}


def _importable() -> Iterable[str]:
    for name in sorted(installed()):
        try:
            adapter_class(name)
        except BadConfiguration:
            continue  # an adapter that lacks its library is none that could be configured
        yield name


def _backend(adapter: str) -> dict[str, Any]:
    options = adapter_class(adapter).Options
    made = _object(f'A [[backend]] with adapter = "{adapter}".')
    made["properties"] = {
        "name": {"type": "string", "pattern": _NAME, "description": "the operator's name for it", "examples": ["chat"]},
        "adapter": {"const": adapter, "description": "what runs it"},
        **{field.name: _field(field) for field in keys_of(options)},
    }
    missing = [field.name for field in fields_of(options) if field.default is REQUIRED]
    return {**made, "required": ["name", "adapter", *missing]}


def _field(field: Field) -> dict[str, Any]:
    made = msgspec.json.schema(kind_of(field), schema_hook=_hook)
    made["description"] = f"{field.description} ({field.legal})"
    if field.examples:
        made["examples"] = list(field.examples)
    if field.default not in (REQUIRED, None):
        made["default"] = _default(field.default)
    if field.trait.deprecated:
        made["deprecated"] = True
    return _without_null(made)


def _default(value: Any) -> Any:
    """As it would be written: `"10s"`, `"0660"`."""
    return to_text(value).strip('"') if isinstance(value, Duration | Mode) else msgspec.to_builtins(value)


def _hook(kind: type) -> dict[str, Any]:
    if kind is Duration:
        return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _DURATION}]}
    if kind is Mode:
        return {"type": "string", "pattern": "^0?[0-7]{3}$"}
    raise NotImplementedError(kind)


def _without_null(made: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: what may be left out is left out."""
    kinds = [kind for kind in made.pop("anyOf", ()) if kind != {"type": "null"}]
    return {**made, **kinds[0]} if len(kinds) == 1 else {**made, "anyOf": kinds} if kinds else made

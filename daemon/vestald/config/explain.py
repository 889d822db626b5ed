"""`vestald config explain`: each option's value and where it comes from, or all that is known of one option."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, to_builtins

from vestal.options import REQUIRED, Field
from vestald.config.backends import options_in
from vestald.config.schema import Config, Origin
from vestald.config.table import Option, options_of
from vestald.config.values import to_text
from vestald.failures import BadConfiguration

__all__ = ["MASK", "Setting", "as_json", "details", "overview", "settings", "shown"]

MASK = "********"
"""What is shown of a secret that is set, whatever its length."""


class Setting(Struct, frozen=True):
    """An option with its value; `origin` is None for the default."""

    option: Option
    value: Any
    origin: Origin | None

    @property
    def text(self) -> str:
        return shown(self.value, self.option.field)

    @property
    def source(self) -> str:
        return self.origin.place if self.origin else "default"


def shown(value: object, field: Field) -> str:
    """A value as it would stand in the file; a secret's that is set is masked."""
    if field.trait.secret and value not in (None, "", REQUIRED):
        return MASK
    return "-" if value is REQUIRED else to_text(value)


def settings(config: Config) -> list[Setting]:
    """Every option of the daemon, and of each configured backend whose adapter can be found."""
    found = [Setting(o, o.value(config), config.origins.get(o.key)) for o in options_of(type(config))]
    for table in config.backends:
        try:
            options = options_in(table)
        except BadConfiguration:
            continue  # `check` says what is wrong with it
        for option in options:
            value = table.options.get(option.path[-1], option.field.default)
            found.append(Setting(option, value, config.origins.get(option.key)))
    return found


def overview(found: Iterable[Setting], width: int) -> Iterator[str]:
    """A line each: key, value, source; cut to `width` columns."""
    rows = [(setting.option.key, setting.text, setting.source) for setting in found]
    columns = [min(max((len(row[n]) for row in rows), default=0), most) for n, most in ((0, 44), (1, 30))]
    for key, value, source in rows:
        yield _cut(f"{key:<{columns[0]}}  {_cut(value, columns[1]):<{columns[1]}}  {source}", width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def details(setting: Setting) -> Iterator[str]:
    """All that is known of one option."""
    option, field = setting.option, setting.option.field
    yield f"{option.key} = {setting.text}"
    yield f"  from      {setting.source}"
    yield f"  what      {field.description}"
    yield f"  legal     {field.legal}" + (f" ({field.trait.unit})" if field.trait.unit else "")
    yield f"  default   {'none: it must be given' if field.default is REQUIRED else shown(field.default, field)}"
    for example in field.examples:
        yield f"  example   {option.path[-1]} = {to_text(example)}"
    if not field.trait.secret:
        yield f"  flag      {option.flag}"
    yield f"  variable  {option.variable}"
    yield f"  change    {'`vestal reload` applies it' if field.trait.live else 'takes a restart'}"
    if field.trait.formerly:
        yield f"  formerly  {', '.join(field.trait.formerly)}"
    if field.trait.deprecated:
        yield f"  going     {field.trait.deprecated}"


def as_json(found: Iterable[Setting]) -> Mapping[str, Any]:
    """By key: value (`null` for a secret that is set) and source."""
    return {
        setting.option.key: {
            "value": None if setting.text == MASK or setting.value is REQUIRED else _builtin(setting.value),
            "source": setting.source,
            "kind": setting.origin.kind if setting.origin else "default",
            "secret": setting.option.field.trait.secret,
        }
        for setting in found
    }


def _builtin(value: object) -> Any:
    return (
        float(value)
        if isinstance(value, float)
        else int(value)
        if type(value) is not bool and isinstance(value, int)
        else to_builtins(value)
    )

"""How an option is declared, of the daemon and of an adapter alike: one field of a msgspec struct.

The field's name, type and default are the option's; `Meta` gives its bounds, `about` (a `Meta` too) what it means and
examples; a `Trait` gives what msgspec has no word for. All else is derived: flag, variable, place in the file, help,
schema, documentation.

    class Options(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
        slots: Annotated[int, Meta(ge=1), about("requests that run at once", 8)] = 4
        token: Annotated[str, about("what the server wants to see"), SECRET] = ""
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, Struct, inspect, structs

__all__ = ["LIVE", "REQUIRED", "SECRET", "TIME", "DurationText", "Field", "Trait", "about", "fields_of"]

REQUIRED = NODEFAULT
"""The default of a field that has none."""


class Trait(Struct, frozen=True, kw_only=True):
    """What is special about an option.

    `name` replaces its path in flag and variable (`log-level`: `--log-level`, `VESTAL_LOG_LEVEL`). `form` says what
    is legal where the type does not. `formerly` are paths under which it is still taken, with a warning;
    `deprecated` says what to do instead of an option that is going away.
    """

    name: str = ""
    unit: str = ""
    form: str = ""
    secret: bool = False
    live: bool = False
    """Whether a reload applies it."""
    formerly: tuple[str, ...] = ()
    deprecated: str = ""


LIVE = Trait(live=True)
SECRET = Trait(secret=True)


def about(description: str, *examples: object) -> Meta:
    """What an option means, in a few words without a full stop, and values it could have, as in the file."""
    return Meta(description=description, examples=list(examples) or None)


TIME = 'a length of time such as "250ms", "10s" or "5m", or seconds'
"""The form of an option that is a length of time."""

DurationText = Annotated[str | int | float, Trait(form=TIME)]
"""For options of an adapter, which parses it with `vestal.durations.parse_duration`."""


class Field(Struct, frozen=True, kw_only=True):
    """One field of an options struct, as its declaration has it; `type` is the annotation, for `msgspec.convert`."""

    name: str
    type: Any
    default: Any
    description: str
    examples: tuple[Any, ...]
    legal: str
    trait: Trait


def fields_of(struct: type[Struct]) -> list[Field]:
    """The declarations of one struct, in its order."""
    hints = get_type_hints(struct, include_extras=True)
    return [_field(field, hints[field.name]) for field in structs.fields(struct)]


def _field(field: structs.FieldInfo, hint: Any) -> Field:
    traits = list(_traits(hint))
    schema: dict[str, Any] = {}
    for extra in _extras(inspect.type_info(hint)):
        schema |= extra
    trait = _merged(traits)
    return Field(
        name=field.encode_name,
        type=hint,
        default=field.default_factory() if field.default_factory is not NODEFAULT else field.default,
        description=str(schema.get("description", "")),
        examples=tuple(schema.get("examples", ())),
        legal=trait.form or _one_of(list(_choices(hint))) or _legal(inspect.type_info(hint)),
        trait=trait,
    )


def _traits(hint: Any) -> Iterator[Trait]:
    """The traits of an annotation and of the alternatives in it."""
    for inner in get_args(hint):
        if isinstance(inner, Trait):
            yield inner
        elif get_args(inner):
            yield from _traits(inner)


def _merged(traits: list[Trait]) -> Trait:
    neutral = Trait()
    said: dict[str, Any] = {}
    for trait in traits:
        said |= {name: value for name, value in structs.asdict(trait).items() if value != getattr(neutral, name)}
    return Trait(**said)


def _extras(kind: inspect.Type) -> Iterator[dict[str, Any]]:
    if isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from _extras(member)
    elif isinstance(kind, inspect.Metadata):
        yield kind.extra_json_schema or {}
        yield from _extras(kind.type)


# --- what is legal, in words ----------------------------------------------------------------------------------


def _legal(kind: inspect.Type) -> str:
    """The values that a type takes: `1 to 256`, `"sealed", "lease" or "path"`, `true or false`."""
    match kind:
        case inspect.Metadata():
            return _legal(kind.type)
        case inspect.UnionType():
            return " or ".join(_legal(member) for member in kind.types if not isinstance(member, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            return _range(kind)
        case inspect.LiteralType():
            return _one_of(kind.values)
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "a text" if not kind.min_length else "a text that is not empty"
        case inspect.ListType():
            return f"a list: each {_legal(kind.item_type)}"
        case inspect.DictType():
            return f"a table: each value {_legal(kind.value_type)}"
        case inspect.CustomType():
            return str(getattr(kind.cls, "FORM", kind.cls.__name__))
    return ""


def _choices(hint: Any) -> Iterator[object]:
    """The values of a `Literal`, in the order of the declaration, which msgspec forgets."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) is Annotated:
        yield from _choices(get_args(hint)[0])


def _one_of(values: Sequence[object]) -> str:
    *rest, last = [f'"{value}"' if isinstance(value, str) else str(value) for value in values] or [""]
    return f"{', '.join(rest)} or {last}" if rest else last


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    least, most = kind.ge, kind.le
    if least is None and most is None:
        return what
    if most is None:
        return f"{what}, {_number(least)} or more"
    return f"{what} up to {_number(most)}" if least is None else f"{_number(least)} to {_number(most)}"


def _number(value: float | None) -> str:
    return f"{value:,}"

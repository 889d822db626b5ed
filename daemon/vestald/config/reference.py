"""docs/reference/options.md, from the table: `python -m vestald.config.reference > docs/reference/options.md`.

The same installation gives the same text; a test compares it with the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from vestal.options import REQUIRED, Field, fields_of
from vestald.adapters import adapter_class, installed
from vestald.config.explain import shown
from vestald.config.reader import OWN_VARIABLES
from vestald.config.schema import BackendKeys, Config
from vestald.config.table import Option, backend_option, options_of
from vestald.config.values import to_text

__all__ = ["adapters", "reference"]

_HEAD = """\
# Options

Made from the declarations by `make reference`; change those, not this file.

Each option of the daemon is a key of the file, a flag and a variable. **A flag counts before a variable, that before
the file, that before the default.** A flag's or variable's text is read as TOML would read the value, and is a plain
text otherwise: `64`, `true`, `10s`, `["alice", 1000]`, `{ "@staff" = 2 }`. An empty variable counts as none.

The file is the one of `--config`, else of `$VESTAL_CONFIG`, else `$XDG_CONFIG_HOME/vestal/vestald.toml`, else
`~/.config/vestal/vestald.toml`. An unknown key is refused with the nearest known one, a bad value with what is legal,
each with its line; so is a variable that begins like an option's and is none.

`vestald config explain` shows every value and where it comes from, `vestald config explain KEY` all about one,
`vestald config check FILE` everything that is wrong with a file, `vestald config schema` prints a JSON Schema for
editors. `SIGHUP` or `vestal reload` reads everything again: what is **live** holds at once, for new requests and
connections; the rest is named, and kept as it was until the daemon restarts. A file with a fault changes nothing.
A daemon that was started at a terminal stops at a `SIGHUP` once the terminal has gone.

Lengths of time are texts with a unit (`us`, `ms`, `s`, `m`, `h`, `d`: `"1h30m"`), or a number of seconds.

"""

_OWN = {
    "VESTAL_CONFIG": "the file, unless `--config` names one",
    "VESTAL_DEBUG": "`vestal` shows the traceback of what went wrong",
    "VESTAL_HOME": "where models, keys and audit logs are; by default `$XDG_DATA_HOME/vestal`, "
    "else `~/.local/share/vestal`",
}


def reference() -> str:
    """The whole page."""
    return _HEAD + "\n".join([*_sections(), *_backends(), *_variables()])


def adapters() -> list[str]:
    """The adapters of this distribution; others document their own."""
    return sorted(name for name, point in installed().items() if point.value.startswith("vestal_adapters."))


def _sections() -> Iterator[str]:
    sections: dict[str, list[Option]] = {}
    for option in options_of(Config):
        sections.setdefault(".".join(option.path[:-1]), []).append(option)
    for section, options in sections.items():
        yield f"## [{section}]\n"
        yield from _table(options, names=True)


def _backends() -> Iterator[str]:
    yield "## [[backend]]\n"
    yield (
        "A table for each model. `name` is the operator's name for it (letters, digits, `.`, `_`, `-`), `adapter`\n"
        "says what runs it and so which other keys there are. The key `slots` of a backend `chat` is also\n"
        "`--backend-chat-slots` and `VESTAL_BACKEND_CHAT_SLOTS`; these change a table that the file has, and add\n"
        "none. `vestal backend restart chat` starts one backend with what the file has now.\n"
    )
    yield from _table(backend_option("NAME", field) for field in fields_of(BackendKeys))
    for adapter in adapters():
        yield f'### adapter = "{adapter}"\n'
        fields = sorted(fields_of(adapter_class(adapter).Options), key=lambda field: field.default is not REQUIRED)
        yield from _table([backend_option("NAME", field) for field in fields])


def _variables() -> Iterator[str]:
    yield "## Variables that are no options\n"
    yield "| variable | meaning |\n|---|---|"
    yield from (f"| `{name}` | {_OWN[name]} |" for name in OWN_VARIABLES)
    yield ""


def _table(options: Iterable[Option], *, names: bool = False) -> Iterator[str]:
    yield "| key | meaning | legal | default | example |" + (" live | flag, variable |" if names else "")
    yield "|---|---|---|---|---|" + ("---|---|" if names else "")
    for option in options:
        field = option.field
        example = f"`{to_text(field.examples[0])}`" if field.examples else ""
        cells = [f"`{option.path[-1]}`", _meaning(field), _legal(field), _default(field), example]
        if names:
            cells += ["yes" if field.trait.live else "", _names(option)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _names(option: Option) -> str:
    return f"`{option.variable}`" if option.field.trait.secret else f"`{option.flag}`, `{option.variable}`"


def _meaning(field: Field) -> str:
    said = field.description
    said = said.replace("<", "&lt;")
    if field.trait.unit and field.trait.unit not in said:
        said += f", in {field.trait.unit}"
    if field.trait.secret:
        said += " (secret: masked wherever it is shown, and no flag)"
    if field.trait.formerly:
        said += f" (formerly {', '.join(f'`{old}`' for old in field.trait.formerly)})"
    return said + (f" (**going away**: {field.trait.deprecated})" if field.trait.deprecated else "")


def _legal(field: Field) -> str:
    """Without the examples: the page has them above its tables."""
    return field.legal.partition(" such as")[0]


def _default(field: Field) -> str:
    if field.default is REQUIRED:
        return "required"
    return "" if field.default in (None, [], {}, "") else f"`{shown(field.default, field)}`"


if __name__ == "__main__":
    sys.stdout.write(reference())

"""docs/reference/messages.md: `python -m vectors.reference > ../docs/reference/messages.md`, from this folder's parent.

Names, types, defaults and ranges come from the structs; what a field means, from the table of SPEC.md that a test
holds against the same structs; the error codes from their classes. A test compares the page with the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from inspect import cleandoc
from typing import Any

import msgspec

from vectors.generate import HERE
from vectors.tables import field_rows, tables
from vestal import messages as m
from vestal import values
from vestal.cli.failures import EXIT_CODES
from vestal.errors import ERROR_CLASSES

__all__ = ["reference"]

_HEAD = """\
# Messages

Made from the structs by `make reference`; change those, not this file. It is for looking things up: what a message
means, and when it may be sent, is in [SPEC.md](../../protocol/SPEC.md).

Every frame is a length of four bytes, big-endian, and one MessagePack map. A field that is at its default may be left
out, a key that is not known is ignored. `→` goes to the daemon, `←` comes from it.
"""

_SOCKETS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "Every socket": ("", (m.Hello, m.Welcome, m.Ping, m.Pong, m.Cancel, m.Error, m.Goaway)),
    "infer.sock": (
        "Beside those of every socket.",
        (
            m.Generate, m.GenerateV2, m.Count, m.CountV2, m.Counted, m.Queued, m.Started, m.Token, m.Text,
            m.ThinkingDelta, m.ToolUse, m.Done,
        ),
    ),
    "embed.sock": ("Beside those of every socket; a cancelled request ends in [done](#done).", (m.Embed, m.Embeddings)),
    "admin.sock": (
        "Beside those of every socket, but `cancel`.",
        (*m.AdminRequest.__args__[:-1], *m.AdminReport.__args__),
    ),
}  # fmt: skip
"""The messages of each socket, requests before answers; the last admin request is `ping`."""

_DAEMON = """\
`vestald`:

| code | means |
|---|---|
| 0 | stopped as asked |
| 69 | a backend failed to become ready |
| 70 | internal, or something would not stop |
| 74 | what a command has to say could not be written |
| 75 | another instance owns the runtime directory |
| 78 | bad configuration |

`vestal`:
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    for socket, (remark, messages) in _SOCKETS.items():
        parts += [f"## {socket}\n", *([f"{remark}\n"] if remark else [])]
        parts += [part for cls in messages for part in _section(cls)]
    parts.append("## Values\n")
    parts.append("What stands in the fields above.\n")
    parts += [part for cls in _values() for part in _section(cls)]
    parts += ["## Error codes\n", *_errors(), "", "## Exit codes\n", _DAEMON, *_exit_codes()]
    return "\n".join(parts) + "\n"


def _section(cls: type[msgspec.Struct]) -> Iterator[str]:
    yield f"### {_title(cls)}\n"
    if said := cls.__dict__.get("__doc__"):
        yield f"{cleandoc(said)}\n"
    yield "| field | type | default | legal | meaning |\n|---|---|---|---|---|"
    meanings = _MEANINGS.get(cls.__name__, {})
    for row in field_rows(cls, None):
        meaning = meanings.get(row[0], "") or _MEANINGS["GenerateOptions"].get(row[0], "")
        yield _line([*row, _pointed(meaning)])
    yield ""


def _title(cls: type[msgspec.Struct]) -> str:
    """The wire's name of a message, with its version if both have one; else the struct's name."""
    tag = cls.__struct_config__.tag
    if cls.__name__ in ("Generate", "Count"):
        return f"{tag}, version 1"
    if cls.__name__ in ("GenerateV2", "CountV2"):
        return f"{tag}, version 2"
    return str(tag) if cls.__name__ in m.__all__ and tag else cls.__name__


def _values() -> list[type[msgspec.Struct]]:
    """Every struct of SPEC.md's tables that is no message, in its order."""
    shown = {cls for _, messages in _SOCKETS.values() for cls in messages} | {values.GenerateOptions}
    named = [getattr(m, name, None) or getattr(values, name) for name in _MEANINGS]
    return [cls for cls in named if cls not in shown]


def _read_meanings() -> dict[str, dict[str, str]]:
    """Of each struct's fields, by the name as it stands in its table."""
    found = tables((HERE.parent / "SPEC.md").read_text(), "fields")
    return {key.partition(" + ")[0]: {row[0]: row[4] for row in rows} for key, rows in found.items()}


_MEANINGS = _read_meanings()


def _pointed(meaning: str) -> str:
    """Links within SPEC.md, from here."""
    return meaning.replace("](#", "](../../protocol/SPEC.md#").replace("](vectors", "](../../protocol/vectors")


def _errors() -> Iterator[str]:
    yield "| code | means | a retry can help | ends the connection | in Python |\n|---|---|---|---|---|"
    for code, cls in ERROR_CLASSES.items():
        said = " ".join((cls.__doc__ or "").split()).rstrip(".")
        words = ["yes" if fact else "" for fact in (cls.retryable, cls.closes)]
        yield _line([f"`{code}`", said, *words, f"`vestal.{cls.__name__}`"])


def _exit_codes() -> Iterator[str]:
    yield "| code | means |\n|---|---|"
    for line in EXIT_CODES.splitlines()[1:]:
        code, _, means = line.strip().partition(" ")
        yield _line([code, means.strip()])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(reference())

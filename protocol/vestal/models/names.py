"""What a model may be called, and how a name is told from a path."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path

from vestal.errors import ModelError

__all__ = ["check_name", "derive_name", "is_address", "is_hub", "is_name", "is_path", "name_for", "to_path"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Whether a model of the store may be called that: no name can leave its directory or pass for a path."""
    return _NAME.fullmatch(text) is not None and not text.endswith(".gguf")


def is_path(text: str) -> bool:
    """Whether a model given as `text` means a file: it has a slash or ends in `.gguf`."""
    return "/" in text or text.lower().endswith(".gguf")


def is_address(text: str) -> bool:
    """Whether a model given as `text` means a place on the web: it begins with a scheme and `://`."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.isalpha()


def is_hub(text: str) -> bool:
    """Whether a model given as `text` means a file of a model hub."""
    return text.startswith("hub:")


def to_path(text: str) -> Path:
    """The file that `text` means, in full; `~` is the home directory."""
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user; no working directory
        raise ModelError(f"{text[:80]!r} names no file: {error}", hint="give the path in full") from error


def check_name(name: str) -> str:
    """`name`, if a model may be called that; `ModelError` otherwise."""
    if is_name(name):
        return name
    raise ModelError(
        f"{name[:80]!r} is not a model name",
        hint="a name has 1 to 64 of a-z 0-9 . _ -, starts with a letter or digit and does not end in .gguf",
    )


def derive_name(path: Path) -> str:
    """A store name from a file's name: lower case, a hyphen for whatever else no name may have."""
    stem = re.sub(r"(\.gguf)+$", "", path.name.lower())
    name = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:64].rstrip("._-")
    if is_name(name):
        return name
    raise ModelError(
        f"no model name can be made from {path.name!r}", hint=f"`vestal pull {path} --name NAME` gives one"
    )


def name_for(file: Path, given: str | None, reserved: Container[str], *, origin: str) -> str:
    """What to call the model of `file`, which came from `origin`: the name given, else one made from the file's.

    `ModelError` for a name that is reserved: it would hide what it is reserved for.
    """
    name = derive_name(file) if given is None else check_name(given)
    if name not in reserved:
        return name
    message = f"{name!r} is the name of a catalog model, and {origin} would hide it"
    raise ModelError(message, hint=f"choose another name: `vestal pull {origin} --name NAME`")

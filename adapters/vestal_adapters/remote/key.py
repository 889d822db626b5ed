"""A key for a server, known by the *name* of the variable or file that holds it; its value is never shown.

Whatever prints a `Key` prints where it comes from. What a server says is masked before anybody sees it: some repeat
the key they refuse. Workers get a reduced environment, so a key in a variable does not reach them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from vestal.errors import VestalError

__all__ = ["MASK", "Key", "as_bearer", "read_key"]

MASK = "[key]"
_LONGEST = 8192  # bytes


class Key:
    """`source` says where it comes from; `value` is for the request's header alone."""

    __slots__ = ("source", "value")

    def __init__(self, value: str, source: str) -> None:
        self.value = value
        self.source = source

    def masked(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self.value, MASK)

    def __repr__(self) -> str:
        return f"<Key from {self.source}>"

    def __reduce__(self) -> str:
        raise TypeError("a key is not to be copied out of the process")


def read_key(variable: str | None, file: str | None, environment: Mapping[str, str] | None = None) -> Key | None:
    """The key that is named, `None` if none is. Raises `VestalError` naming the variable or the file."""
    if variable is not None:
        value = (os.environ if environment is None else environment).get(variable, "")
        return _checked(value, f"variable {variable}", f"set {variable} in the daemon's environment")
    if file is not None:
        return _checked(_read(Path(file)), f"file {file}", "write the key, and nothing else, into that file")
    return None


def as_bearer(key: Key | None) -> dict[str, str]:
    """The header that most APIs want the key in."""
    return {} if key is None else {"Authorization": f"Bearer {key.value}"}


def _read(path: Path) -> str:
    """The file's text. It must be a file that nobody else can read: others on the machine are whom it is kept from."""
    try:
        # Without waiting for somebody to write into what is a pipe: the daemon's only thread would.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise VestalError(f"key file {path} is not a regular file")
            if mode & 0o077:
                raise VestalError(
                    f"key file {path} may be read by others (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}"
                )
            return file.read(_LONGEST + 1).decode("ascii", "replace")
    except OSError as exc:
        raise VestalError(f"key file {path} cannot be read: {exc.strerror}") from exc


def _checked(value: str, source: str, hint: str) -> Key:
    value = value.strip()
    if not value:
        raise VestalError(f"no key in {source}", hint=hint)
    if len(value) > _LONGEST or not (value.isascii() and value.isprintable()) or " " in value:
        raise VestalError(f"what {source} holds is no key: one line of printable ASCII without spaces", hint=hint)
    return Key(value, source)

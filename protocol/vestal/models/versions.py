"""The highest version of each name that was ever vouched for here: `<root>/versions.json`.

An old version of a model is signed as well as the new one is; only a memory tells that it is old. It outlives the
model itself, and a damaged one is an error: to forget would be to let everything in again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestal.errors import ModelError
from vestal.models.manifest import Digest
from vestal.models.remedies import translated
from vestal.models.signatures import MAX_VERSION, Statement
from vestal.models.small_file import read_small, write_small

__all__ = ["Seen", "VersionMemory"]

_MAX_FILE = 1 << 24


class Seen(Struct, frozen=True):
    """The highest version of one name, and which content that was."""

    version: Annotated[int, Meta(ge=1, le=MAX_VERSION)]
    digest: Digest


_DECODER = msgspec.json.Decoder(dict[str, Seen])


class VersionMemory:
    """The file. Callers serialise `record` with a lock."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __repr__(self) -> str:
        return f"<VersionMemory {str(self._file)!r}>"

    def read(self) -> Mapping[str, Seen]:
        """Every name that was ever vouched for."""
        try:
            data = read_small(self._file, limit=_MAX_FILE, owned=True)
            return {} if data is None else _DECODER.decode(data)
        except (ValueError, OSError) as error:  # msgspec's errors are ValueErrors
            hint = "mend it: without it an old version of a model cannot be told from a new one"
            raise ModelError(f"the memory of versions {self._file} cannot be used: {error}", hint=hint) from error

    def knows(self, statement: Statement) -> bool:
        """Whether there is nothing to record: this very version is the highest seen."""
        return self.read().get(statement.name) == Seen(statement.version, statement.digest)

    def check(self, statement: Statement) -> None:
        """Refuse a version below the highest seen, and another content under the same number."""
        seen = self.read().get(statement.name)
        if seen is None or statement.version > seen.version:
            return
        if statement.version < seen.version:
            message = f"model {statement.name!r} is version {statement.version}, and {seen.version} was seen here"
            raise ModelError(message, hint=f"it was rolled back: pull version {seen.version} or a later one")
        if statement.digest != seen.digest:
            message = f"model {statement.name!r} has another content than the version {seen.version} seen here"
            raise ModelError(message, hint=f"sign it as version {seen.version + 1}, if it is a new one")

    def record(self, statement: Statement) -> None:
        """Remember a version that was checked."""
        seen = {**self.read(), statement.name: Seen(statement.version, statement.digest)}
        with translated(f"cannot write {self._file}"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_small(self._file, msgspec.json.format(msgspec.json.encode(seen)) + b"\n")

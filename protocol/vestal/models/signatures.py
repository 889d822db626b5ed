"""A signed statement: these bytes are version N of the model of this name. `<root>/signatures/<name>.json`.

What is signed is not the JSON but the statement's canonical form: one line a field, in one order, none of which can
contain a line's end, under a first line that no other signature of ours begins with. So one statement has one form,
and a signature cannot be carried over to another purpose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestal.errors import ModelError
from vestal.models.manifest import Digest
from vestal.models.names import check_name
from vestal.models.remedies import translated
from vestal.models.ring import KeyIdText
from vestal.models.small_file import read_small, write_small

__all__ = ["MAX_VERSION", "SignatureDirectory", "SignedStatement", "Statement"]

MAX_VERSION = 2**53 - 1
"""What JSON carries exactly everywhere."""

_PURPOSE = "vestal-model-statement/1"


class Statement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a signer says. `size` is in bytes; `version` grows with every new content of a name; `key` is an id."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    digest: Digest
    size: Annotated[int, Meta(ge=0)]
    version: Annotated[int, Meta(ge=1, le=MAX_VERSION)]
    key: KeyIdText
    signed_at: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]

    @property
    def canonical(self) -> bytes:
        """The bytes that are signed."""
        fields = (f"{field}: {getattr(self, field)}" for field in self.__struct_fields__)
        return "\n".join((_PURPOSE, *fields, "")).encode("ascii")


class SignedStatement(Struct, frozen=True, forbid_unknown_fields=True):
    """A statement and the 64 bytes that vouch for it (base64 in the file)."""

    statement: Statement
    signature: bytes


_DECODER = msgspec.json.Decoder(SignedStatement)


class SignatureDirectory:
    """One signature a name, the last one made. Callers serialise `write` with a lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<SignatureDirectory {str(self.path)!r}>"

    def read(self, name: str) -> SignedStatement | None:
        """What was signed for `name`; `None` if nothing, `ModelError` if the file is damaged."""
        file = self._file(name)
        try:
            data = read_small(file)
            return None if data is None else _DECODER.decode(data)
        except (ValueError, OSError, RecursionError) as error:  # msgspec's errors are ValueErrors
            hint = f"`vestal models sign {name} --key KEY` signs it anew"
            raise ModelError(f"the signature {file} cannot be used: {error}", hint=hint) from error

    def write(self, signed: SignedStatement) -> None:
        """Put a signature in place of whatever its name has."""
        file = self._file(signed.statement.name)
        with translated(f"cannot write {file}"):
            self.path.mkdir(parents=True, exist_ok=True)
            write_small(file, msgspec.json.format(msgspec.json.encode(signed)) + b"\n")

    def _file(self, name: str) -> Path:
        return self.path / f"{check_name(name)}.json"

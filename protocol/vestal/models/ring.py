"""Whose signatures count: `<root>/keys/trusted.json`, the keys that are trusted, and those that never may be again.

A revoked key stays revoked: it is dropped from the trusted, remembered, and comes back only when the operator says
that the revocation is known. A ring that is damaged, or that others may write to, is an error and never an empty one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from vestal.errors import ModelError
from vestal.models.keys import PublicKey, parse_public_key
from vestal.models.remedies import translated
from vestal.models.small_file import read_small, write_small

__all__ = ["KeyIdText", "KeyRing", "KeyState", "Ring", "whole_id"]

_MAX_RING = 1 << 20
_ID = re.compile(r"[0-9a-f]{32}")
_SHORTEST = 8  # digits of an id that are enough where they fit one key only

KeyState = Literal["trusted", "revoked", "unknown"]

KeyIdText = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]


class Ring(Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds: lines of public keys, and ids."""

    trusted: tuple[str, ...] = ()
    revoked: tuple[KeyIdText, ...] = ()

    @property
    def keys(self) -> dict[str, PublicKey]:
        """The trusted keys by their ids."""
        return {key.id: key for key in map(parse_public_key, self.trusted)}

    def state(self, id: str) -> KeyState:
        """A revocation goes before everything."""
        if id in self.revoked:
            return "revoked"
        return "trusted" if id in self.keys else "unknown"


_DECODER = msgspec.json.Decoder(Ring)


class KeyRing:
    """The file. Callers serialise `trust` and `revoke` with a lock."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __repr__(self) -> str:
        return f"<KeyRing {str(self._file)!r}>"

    def read(self) -> Ring:
        """The ring as it stands; an absent file is an empty ring, a damaged one an error."""
        try:
            data = read_small(self._file, limit=_MAX_RING, owned=True)
            ring = Ring() if data is None else _DECODER.decode(data)
            ring.keys  # noqa: B018  # every line is looked at now, not when a signature is
        except (ValueError, OSError, ModelError) as error:  # msgspec's errors are ValueErrors
            hint = "mend it, or move it away and trust each key again (revocations are lost with it)"
            raise ModelError(f"the key ring {self._file} cannot be used: {error}", hint=hint) from error
        return ring

    def trust(self, key: PublicKey, *, despite_revocation: bool = False) -> None:
        """Trust `key` from now on; one that was revoked only if the caller knows that it was."""
        ring = self.read()
        revoked = ring.revoked
        if key.id in revoked:
            if not despite_revocation:
                hint = "make a new key; `vestal keys trust --despite-revocation` if the revocation was a mistake"
                raise ModelError(f"the key {key.name!r} ({key.id}) was revoked here", hint=hint)
            revoked = tuple(id for id in revoked if id != key.id)
        lines = [line for line in ring.trusted if parse_public_key(line).id != key.id]
        self._write(Ring((*lines, key.line), revoked))

    def revoke(self, id: str) -> None:
        """Never trust the key with this whole id again, whether or not it was trusted."""
        ring = self.read()
        lines = tuple(line for line in ring.trusted if parse_public_key(line).id != id)
        self._write(Ring(lines, (*(one for one in ring.revoked if one != id), id)))

    def _write(self, ring: Ring) -> None:
        with translated(f"cannot write {self._file}"):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_small(self._file, msgspec.json.format(msgspec.json.encode(ring)) + b"\n")


def whole_id(text: str, known: list[PublicKey]) -> str:
    """The id that `text` means: a whole one, the beginning of a known one, or a known key's name."""
    if _ID.fullmatch(text):
        return text
    meant = {key.id for key in known if key.name == text or (len(text) >= _SHORTEST and key.id.startswith(text))}
    if len(meant) == 1:
        return meant.pop()
    what = f"means {len(meant)} keys" if meant else "is no key that is known here"
    raise ModelError(f"{text[:80]!r} {what}", hint="`vestal keys list` shows the ids: give all 32 digits")

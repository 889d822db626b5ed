"""What lies in the store and is of no use to anybody, and how it is told from what somebody is at work on.

Whatever a pull works on is under its lock, which the kernel drops when the pull dies; so what is there and not locked
was left behind. Callers hold the store's lock.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from vestal.models.blobs import BlobDirectory
from vestal.models.locks import held_if_free

__all__ = ["sweep"]

_LEFT = {
    "unfinished downloads": ("partial", "fetch-"),
    "left by pulls that were killed": ("tmp", "pull-"),
}
"""Directories of one directory a pull, and how the lock of each begins; its directory's name follows."""


def sweep(root: Path, blobs: BlobDirectory, wanted: Container[str] | None, *, remove: bool) -> dict[str, int]:
    """Bytes by kind. Without `wanted` no blob is looked at: what is not known may be wanted."""
    found = {kind: _directories(root / place, root / "locks", lock, remove) for kind, (place, lock) in _LEFT.items()}
    files = blobs.abandoned() + ([] if wanted is None else blobs.unwanted(wanted))
    found["files without a name"] = sum(path.lstat().st_size for path in files)
    for path in files if remove else ():
        path.unlink(missing_ok=True)
    return found


def _directories(place: Path, locks: Path, prefix: str, remove: bool) -> int:
    import shutil

    size = 0
    for directory in place.iterdir() if place.is_dir() else ():
        with held_if_free(locks / f"{prefix}{directory.name}") as free:
            if free:
                size += sum(file.lstat().st_size for file in directory.rglob("*") if not file.is_dir())
                if remove:
                    shutil.rmtree(directory, ignore_errors=True)
    return size

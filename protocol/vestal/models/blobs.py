"""Files named by their content: `blobs/sha256-<hex>`, read-only, complete from the moment the name exists.

A new blob is written under a temporary name in the same directory, hashed on the way, synced, and renamed.
Its writer holds a lock on the temporary file, so that whoever finds an unlocked one knows that its writer
died and may remove it. Callers serialise `receive`, `commit` and `collect` with the store's lock.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path

from vestal.models.locks import is_held
from vestal.models.small_file import sync_directory

__all__ = ["BlobDirectory", "Incoming", "Progress", "hash_file"]

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""

_PIECE = 1 << 20
_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_INCOMING = ".incoming-"


class Incoming:
    """A blob on its way in. `close` drops what was not committed; idempotent."""

    def __init__(self, directory: Path) -> None:
        import fcntl
        import tempfile

        self._descriptor, name = tempfile.mkstemp(prefix=_INCOMING, dir=directory)
        self.path = Path(name)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def copy_from(self, source: Path, progress: Progress | None = None) -> str:
        """Take in the bytes of `source`; returns their digest, and they are on the disk."""
        with os.fdopen(self._descriptor, "wb", closefd=False) as target:
            digest = hash_file(source, progress, into=target.write)
        os.fchmod(self._descriptor, 0o444)
        os.fsync(self._descriptor)
        return digest

    def commit(self, target: Path) -> None:
        """Give the blob its name, over whatever has that name: the same bytes, or damaged ones."""
        self.path.replace(target)
        sync_directory(target.parent)

    def close(self) -> None:
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def __repr__(self) -> str:
        return f"<Incoming {self.path.name} {'closed' if self._descriptor < 0 else 'open'}>"


class BlobDirectory:
    """All blobs. Nothing is known of models here: a blob is wanted if its digest is in the set given."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, digest: str) -> Path:
        """Where the blob with this digest is, or would be."""
        return self.path / digest

    def problem(self, digest: str, size: int) -> str | None:
        """What is wrong with a blob that should be there with this size; `None` if nothing can be seen."""
        try:
            status = self.file(digest).lstat()
        except FileNotFoundError:
            return "is missing"
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        if status.st_size != size:
            return f"has {status.st_size:,} bytes instead of {size:,}"
        return None

    def receive(self) -> Incoming:
        """A new blob to be filled; also removes what died writers left."""
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.abandoned():
            left.unlink(missing_ok=True)
        return Incoming(self.path)

    def collect(self, wanted: Container[str]) -> int:
        """Remove every blob that is not wanted; returns the bytes freed."""
        freed = 0
        for path in self.unwanted(wanted):
            freed += path.lstat().st_size
            path.unlink()
        return freed

    def unwanted(self, wanted: Container[str]) -> list[Path]:
        """Every blob that is not wanted."""
        return [
            path
            for path in self.path.glob("sha256-*")
            if _BLOB.fullmatch(path.name) and path.name not in wanted and (path.is_symlink() or path.is_file())
        ]

    def abandoned(self) -> list[Path]:
        """Every blob on its way in whose writer has died."""
        found = []
        for path in self.path.glob(f"{_INCOMING}*"):
            with suppress(FileNotFoundError):  # its writer finished just now
                if not is_held(path):
                    found.append(path)
        return found

    def __repr__(self) -> str:
        return f"<BlobDirectory {str(self.path)!r}>"


def hash_file(path: Path, progress: Progress | None = None, into: Callable[[bytes], object] | None = None) -> str:
    """The digest of a file, as `sha256-<hex>`; `into` is handed every piece on the way."""
    import hashlib

    digest, done = hashlib.sha256(), 0
    with path.open("rb") as source:
        total = os.fstat(source.fileno()).st_size
        while piece := source.read(_PIECE):
            digest.update(piece)
            if into is not None:
                into(piece)
            done += len(piece)
            if progress is not None:
                progress(done, max(done, total))
    return f"sha256-{digest.hexdigest()}"

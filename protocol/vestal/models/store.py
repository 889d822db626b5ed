"""The model store: names on top of content-addressed files, shared by every process of a user.

    <root>/blobs/sha256-<hex>     the models themselves, read-only, one per content
    <root>/manifests/<name>.json  one per name; several names may share a blob
    <root>/partial/sha256-<hex>/  what has come of a download, for the next attempt
    <root>/locks, <root>/tmp      for writers

Readers take no lock: a manifest appears by rename after its blob is complete, so a name that resolves can be
opened. Writers publish and collect under one lock, which is held for renames only, never while bytes are
copied. A blob that no manifest names is garbage at any moment at which that lock is held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from vestal.errors import ModelError
from vestal.models import garbage
from vestal.models.blobs import BlobDirectory, Incoming, Progress, hash_file
from vestal.models.gguf_file import read_gguf
from vestal.models.locks import held
from vestal.models.manifest import Manifest, ManifestDirectory, StoredModel, facts_of
from vestal.models.names import check_name, derive_name, is_path, to_path
from vestal.models.remedies import check_usable, fetch_again, no_such_model, readable_size, translated

__all__ = ["Located", "Store", "default_root"]


class Located(Struct, frozen=True):
    """A model's name and file, and the file's bytes; `digest` is `None` for a file outside the store."""

    name: str
    path: Path
    size: int
    digest: str | None = None


def default_root(environ: Mapping[str, str]) -> Path:
    """Where models live: `$VESTAL_HOME`, else `$XDG_DATA_HOME/vestal`, else `~/.local/share/vestal`.

    A relative `$XDG_DATA_HOME` is ignored, as its specification demands.
    """
    try:
        if home := environ.get("VESTAL_HOME"):
            return Path(home).expanduser().absolute()
        data = Path(environ.get("XDG_DATA_HOME", ""))
        if not data.is_absolute():
            data = Path(environ.get("HOME") or Path.home()) / ".local" / "share"
        return data.absolute() / "vestal"
    except RuntimeError as error:  # no such user, or none at all
        raise ModelError(f"the model store has no place: {error}", hint="set VESTAL_HOME to a directory") from error


class Store:
    """The models below `root` (by default the user's own). Making one touches nothing on the disk."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (default_root(os.environ) if root is None else root).absolute()
        self._blobs = BlobDirectory(self.root / "blobs")
        self._manifests = ManifestDirectory(self.root / "manifests")

    def __repr__(self) -> str:
        try:
            return f"<Store {str(self.root)!r} names={len(self.names())}>"
        except ModelError:
            return f"<Store {str(self.root)!r} unreadable>"

    def names(self) -> tuple[str, ...]:
        """Every name in the store, in order, whether or not its model is sound."""
        with translated(f"cannot list the models of {self.root}"):
            return self._manifests.names()

    def list(self) -> tuple[StoredModel, ...]:
        """Every model, by name; a damaged one is an error that names its file and the way out."""
        return tuple(model for name in self.names() if (model := self.find(name)) is not None)

    def find(self, name: str) -> StoredModel | None:
        """The model called `name`, or `None`; `ModelError` if it is there and damaged."""
        manifest = self._manifests.read(check_name(name))
        if manifest is None:
            return None
        with translated(f"cannot look up {name!r}"):
            problem = self._blobs.problem(manifest.digest, manifest.size)
        if problem is None:
            return self._stored(manifest)
        file = self._blobs.file(manifest.digest)
        raise ModelError(f"model {name!r} is damaged: its file {file} {problem}", hint=fetch_again(name))

    def resolve(self, name_or_path: str) -> StoredModel:
        """The model meant by a name of the store or, with a slash or a `.gguf` ending, by a path.

        The header of a file outside the store is read here, so that what is no model fails here.
        """
        if is_path(name_or_path):
            return _outside(name_or_path)
        names = self.names()
        model = self.find(name_or_path) if name_or_path in names else None
        if model is None:
            raise no_such_model(name_or_path, self.root, names)
        return model

    def locate(self, name_or_path: str) -> Located:
        """Where the file of a model is and which digest it must have; nothing in the file is looked at.

        For whoever holds the file first and reads it then, in a process that can afford to be wrong about it.
        """
        if not is_path(name_or_path):
            model = self.resolve(name_or_path)
            return Located(model.name, model.path, model.size, model.digest)
        path = to_path(name_or_path)
        return Located(_outside_name(path), path, readable_size(path))

    def add_file(
        self,
        path: Path,
        name: str,
        *,
        source: str,
        family: str = "",
        license: str = "",
        replace: bool = False,
        expected: str | None = None,
        progress: Progress | None = None,
    ) -> StoredModel:
        """Copy the GGUF file at `path` in under `name`; the same content twice is stored once.

        Other content under a name that is taken is an error unless `replace`, and so is content that has not the
        digest `expected`. Whatever happens, the store holds the whole file or nothing of it.
        """
        check_name(name)
        info = read_gguf(path)
        check_usable(path, info)
        there = None if replace else self._sound(name)
        if there is not None and there.size != info.file_size:
            raise _taken(there, f"is different and has {info.file_size:,} bytes")
        with translated(f"cannot add {path} to {self.root}"):
            with self._locked():
                incoming = self._blobs.receive()
            try:
                digest = incoming.copy_from(path, progress)
                if expected not in (None, digest):
                    message = f"{path} has the digest {digest}, and {expected} was asked for"
                    raise ModelError(message, hint="it is not the file that was meant, or the digest is of another")
                # The copy is what will be served: the file at `path` may have changed since it was looked at.
                info = read_gguf(incoming.path)
                check_usable(path, info)
                facts = facts_of(info, name, source=source, family=family, license=license)
                manifest = Manifest(digest=digest, added_at=_now(), **asdict(facts))
                return self._publish(incoming, manifest, replace=replace)
            finally:
                incoming.close()

    def remove(self, name: str) -> int:
        """Forget `name`, damaged or not; returns the bytes freed, 0 while another name shares its blob."""
        if check_name(name) not in self.names():
            raise ModelError(f"no model {name!r} in the store {self.root}", hint="`vestal models` says what is there")
        with translated(f"cannot remove {name!r} from {self.root}"), self._locked():
            self._manifests.remove(name)
            # Whoever signed it spoke of what is gone. The versions seen stay: `vestal.models.versions`.
            (self.root / "signatures" / f"{name}.json").unlink(missing_ok=True)
            return self._collect()

    def verify(self, name: str, progress: Progress | None = None) -> StoredModel:
        """Read the whole file of `name` again; `ModelError` if it is not what its digest says."""
        model = self.resolve(check_name(name))
        with translated(f"cannot read {model.path}"):
            digest = hash_file(model.path, progress)
        if digest != model.digest:
            message = f"model {name!r} is damaged: {model.path} has the digest {digest}"
            raise ModelError(message, hint=fetch_again(name))
        return model

    @contextmanager
    def pulling(self, name: str, on_wait: Callable[[], None] | None = None) -> Iterator[Path]:
        """Be the only one who fetches `name`, with an empty directory for it that is gone afterwards."""
        import shutil

        scratch = self.root / "tmp" / check_name(name)
        with ExitStack() as stack:
            with translated(f"cannot prepare {scratch}"):
                stack.enter_context(self._lock(f"pull-{name}", on_wait))
                shutil.rmtree(scratch, ignore_errors=True)  # of a pull that was killed
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
                scratch.mkdir(parents=True)
            yield scratch

    def with_digest(self, name: str, digest: str) -> StoredModel | None:
        """The sound model `name`, if it has this content; `ModelError` if it has another."""
        there = self._sound(name)
        if there is not None and there.digest != digest:
            raise _taken(there, f"is to have the digest {digest}")
        return there

    def holder(self, digest: str) -> StoredModel | None:
        """Some sound model with this content, whatever it is called."""
        return next((one for name in self.names() if (one := self._sound(name)) and one.digest == digest), None)

    @contextmanager
    def receiving(self, digest: str, on_wait: Callable[[], None] | None = None) -> Iterator[Path]:
        """Be the only one who fetches this content, with a directory that stays until it has been stored."""
        import shutil

        directory = self.root / "partial" / digest
        with ExitStack() as stack:
            with translated(f"cannot prepare {directory}"):
                stack.enter_context(self._lock(f"fetch-{digest}", on_wait))
                directory.mkdir(parents=True, exist_ok=True)
            yield directory
            shutil.rmtree(directory, ignore_errors=True)

    def sweep(self, *, remove: bool = True) -> dict[str, int]:
        """Bytes of what is of no use, by what it is; removed, unless only asked for.

        That is: parts of downloads that were never finished, what pulls left that were killed, and files that no
        name leads to. What a running pull is at work on stays.
        """
        with translated(f"cannot clear {self.root}"), self._locked():
            return garbage.sweep(self.root, self._blobs, self._wanted(), remove=remove)

    def _publish(self, incoming: Incoming, manifest: Manifest, *, replace: bool) -> StoredModel:
        with self._locked():
            there = self._sound(manifest.name)
            if there is not None and not replace:
                if there.digest == manifest.digest:
                    return there
                raise _taken(there, f"is different and has {manifest.size:,} bytes")
            incoming.commit(self._blobs.file(manifest.digest))
            self._manifests.write(manifest)
            self._collect()
        return self._stored(manifest)

    def _sound(self, name: str) -> StoredModel | None:
        """Like `find`, for a writer: what is damaged may be written over."""
        try:
            return self.find(name)
        except ModelError:
            return None

    def _collect(self) -> int:
        wanted = self._wanted()
        return 0 if wanted is None else self._blobs.collect(wanted)

    def _wanted(self) -> set[str] | None:
        """The digests that some name leads to; `None` if one is not known, as its manifest is damaged."""
        try:
            manifests = [self._manifests.read(name) for name in self._manifests.names()]
        except ModelError:
            return None
        return {manifest.digest for manifest in manifests if manifest is not None}

    def _stored(self, manifest: Manifest) -> StoredModel:
        return StoredModel(path=self._blobs.file(manifest.digest), **asdict(manifest))

    def _locked(self) -> AbstractContextManager[None]:
        return self._lock("store")

    def _lock(self, name: str, on_wait: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return held(locks / name, on_wait)


def _outside(text: str) -> StoredModel:
    """A model file that is not in the store; its facts come from its header alone."""
    path = to_path(text)
    info = read_gguf(path)
    check_usable(path, info)
    return StoredModel(path=path, **asdict(facts_of(info, _outside_name(path), source=f"file:{path}")))


def _outside_name(path: Path) -> str:
    try:
        return derive_name(path)
    except ModelError:
        return path.name


def _taken(there: StoredModel, new: str) -> ModelError:
    has = f"the store has another {there.name!r}: {there.size:,} bytes from {there.source}"
    hint = f"choose another name with `--name`, or remove that one first: `vestal rm {there.name}`"
    return ModelError(f"{has}; the new file {new}", hint=hint)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)

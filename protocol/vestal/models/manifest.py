"""What the store remembers about a model: `manifests/<name>.json`, one per name.

A manifest is one small JSON file naming one blob by digest. Names and digests are the only parts of a path
that come from outside, and both have a shape without separators (`vestal.models.names`, `Digest`), so that no
manifest and no caller can point out of the store. A manifest is replaced whole, by rename.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestal.errors import ModelError
from vestal.models.catalog import Kind
from vestal.models.gguf_file import GGUFInfo
from vestal.models.names import is_name
from vestal.models.remedies import fetch_again
from vestal.models.small_file import read_small, sync_directory, write_small

__all__ = ["Manifest", "ManifestDirectory", "ModelFacts", "StoredModel", "facts_of", "parse_digest"]

Digest = Annotated[str, Meta(pattern=r"^sha256-[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0)]

_SHA256 = re.compile(r"(?:sha256[-:])?([0-9a-fA-F]{64})")


def parse_digest(text: str) -> Digest:
    """The digest that a person means: the 64 hex digits of a SHA-256, alone or after `sha256:`."""
    match = _SHA256.fullmatch(text.strip())
    if match is None:
        raise ModelError(f"{text[:80]!r} is no SHA-256", hint="it has 64 hex digits, as `sha256sum` prints them")
    return f"sha256-{match[1].lower()}"


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What is known of a model wherever its file lies. `size` is in bytes, `context_length` in tokens.

    `family` is what people call the line of models (`smollm2`), `architecture` what engines call it
    (`llama`). `embedding_dimensions` is set for embedding models only; `None` elsewhere means that the file
    does not say.
    """

    name: str
    size: Count
    kind: Kind
    family: str
    architecture: str
    quantisation: str
    context_length: Count | None
    embedding_dimensions: Count | None
    source: str
    license: str


class Manifest(ModelFacts, frozen=True, kw_only=True):
    """One model of the store. `digest` is also the file name of its blob."""

    digest: Digest
    added_at: Annotated[datetime, Meta(tz=True)]


class StoredModel(ModelFacts, frozen=True, kw_only=True):
    """A model that can be opened at `path`; outside the store, `digest` and `added_at` are `None`."""

    path: Path
    digest: str | None = None
    added_at: datetime | None = None

    @property
    def in_store(self) -> bool:
        """Whether the file belongs to the store, so that its content is what its digest says."""
        return self.digest is not None


def facts_of(info: GGUFInfo, name: str, *, source: str, family: str = "", license: str = "") -> ModelFacts:
    """The facts of a GGUF file under the name `name`; what is given goes before what the header says."""
    return ModelFacts(
        name=name,
        size=info.file_size,
        kind=info.kind,
        family=family or info.architecture,
        architecture=info.architecture,
        quantisation=info.quantisation,
        context_length=info.context_length,
        embedding_dimensions=info.embedding_length if info.is_embedding else None,
        source=source,
        license=license or info.license or "",
    )


_DECODER = msgspec.json.Decoder(Manifest)


class ManifestDirectory:
    """The directory of manifests. Callers serialise `write` and `remove` with the store's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<ManifestDirectory {str(self.path)!r}>"

    def names(self) -> tuple[str, ...]:
        """Every name that has a manifest, sound or not, in order."""
        try:
            files = os.listdir(self.path)  # noqa: PTH208 - Path.iterdir defers the error to the first step
        except FileNotFoundError:
            return ()
        return tuple(sorted(file[:-5] for file in files if file.endswith(".json") and is_name(file[:-5])))

    def read(self, name: str) -> Manifest | None:
        """The manifest of `name`, `None` if there is none, `ModelError` naming the file if it is damaged."""
        file = self._file(name)
        try:
            data = read_small(file)
            manifest = None if data is None else _DECODER.decode(data)
            if manifest is not None and manifest.name != name:
                raise ValueError(f"it is about {manifest.name[:80]!r}")
        except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            why = error.strerror if isinstance(error, OSError) else error
            raise ModelError(f"the manifest {file} cannot be used: {why}", hint=fetch_again(name)) from error
        return manifest

    def write(self, manifest: Manifest) -> None:
        """Put a manifest in place of whatever has its name."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_small(self._file(manifest.name), msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")

    def remove(self, name: str) -> None:
        """Remove the manifest of `name`, if there is one."""
        self._file(name).unlink(missing_ok=True)
        sync_directory(self.path)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.json"

"""A bounded reader of safetensors files: a length, a JSON header, then the bytes of the tensors.

Source: github.com/huggingface/safetensors, README, "Format". Every extent is checked against the file before
a byte of it is read, so a header that lies is an error and never an odd tensor.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vestal.errors import ModelError

__all__ = ["SafeTensors", "TensorEntry"]

_MAX_HEADER = 100_000_000  # the format's own limit
_ITEM_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}

Extent = Annotated[int, Meta(ge=0)]


class TensorEntry(Struct, frozen=True):
    """One tensor: number type, shape (outermost dimension first) and where its bytes lie in the data."""

    dtype: str
    shape: tuple[Extent, ...]
    data_offsets: tuple[Extent, Extent]


class SafeTensors:
    """The tensors of the file at `path`, by name and in the header's order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                raise self._damaged(f"its header is said to have {length:,} bytes and the file has {size:,}")
            header = file.read(length)
        self._data = 8 + length
        self.entries = self._parse(header, size - self._data)

    def __repr__(self) -> str:
        return f"<SafeTensors {str(self._path)!r} tensors={len(self.entries)}>"

    def read(self, name: str) -> bytes:
        """The bytes of one tensor, row-major and little-endian."""
        begin, end = self.entries[name].data_offsets
        with self._path.open("rb") as file:
            file.seek(self._data + begin)
            data = file.read(end - begin)
        if len(data) != end - begin:
            raise self._damaged(f"tensor {name!r} needs {end - begin:,} bytes and {len(data):,} are there")
        return data

    def _parse(self, header: bytes, available: int) -> dict[str, TensorEntry]:
        try:
            raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
            raw.pop("__metadata__", None)
            entries = {name: msgspec.json.decode(value, type=TensorEntry) for name, value in raw.items()}
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise self._damaged(f"its header cannot be read: {error}") from error
        for name, entry in entries.items():
            begin, end = entry.data_offsets
            needed = math.prod(entry.shape) * _ITEM_SIZES.get(entry.dtype, -1)
            if not (begin <= end <= available and end - begin == needed):
                what = f"{entry.dtype} {list(entry.shape)} at bytes {begin:,} to {end:,} of {available:,}"
                raise self._damaged(f"tensor {name[:80]!r} is impossible: {what}")
        return entries

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path} is no sound safetensors file: {what}", hint="fetch the file again")

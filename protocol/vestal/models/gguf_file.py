"""What a GGUF file says about itself, read without trusting it and without any engine.

Layout (github.com/ggml-org/ggml, docs/gguf.md): magic, version, tensor count, key count; then the keys with
typed values; then one record per tensor; then the data. Only a dozen small keys are kept. Vocabularies are
skipped, not built; the tensor records are walked only to learn where the data ends, so that half a download
is recognised before an engine aborts on it.

Every way in which the bytes can be wrong raises `ModelError` with the offset, and nothing else escapes.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from struct import Struct as Layout
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from vestal.errors import ModelError
from vestal.models.catalog import Kind
from vestal.models.cursor import Cursor
from vestal.models.ggml_types import (
    ENCODERS,
    FILE_TYPES,
    POOLING_TYPES,
    REPACKED_TYPES,
    TENSOR_TYPES,
    Pooling,
)

__all__ = ["GGUFInfo", "read_gguf", "read_held_gguf"]

# Far above what real files have (tens of keys, thousands of tensors, half a million pieces), far below harm.
_MAX_KEYS = 16_384
_MAX_TENSORS = 65_536
_MAX_STRINGS = 4_194_304
_MAX_HEADER = 256 << 20
_MAX_KEY = 65_535
_MAX_KEPT = 4_096
_MAX_LAYERS = 4_096
_MAX_U32 = 2**32 - 1

_U32, _U64, _COUNTS = Layout("<I"), Layout("<Q"), Layout("<QQ")
_STRING, _ARRAY, _BOOL = 8, 9, 7
# Value types of a fixed size. Floats (6, 12) have a size and no reader: no key that is kept is a float.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 7: "<B", 10: "<Q", 11: "<q"}
_INTEGER_LAYOUTS = {number: Layout(code) for number, code in _INTEGERS.items()}

_TEXT_KEYS = frozenset({"general.architecture", "general.name", "general.type", "general.license"})
_NUMBER_KEYS = frozenset({"general.file_type", "general.alignment", "split.count"})
# Of a whole model, or one for each layer where layers differ.
_LAYER_KEYS = (".attention.head_count", ".attention.head_count_kv", ".feed_forward_length")
_ARCHITECTURE_KEYS = (
    ".context_length", ".embedding_length", ".pooling_type", ".attention.causal", ".block_count",
    ".attention.key_length", ".attention.value_length", *_LAYER_KEYS,
)  # fmt: skip
_TEMPLATE = "tokenizer.chat_template"
_TOKENS = "tokenizer.ggml.tokens"
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class GGUFInfo(Struct, frozen=True, kw_only=True):
    """The facts of one GGUF file. Sizes are in bytes, lengths in tokens (context) and numbers (embedding).

    `name`, `license` and `general_type` are the file's own words, with unprintable characters replaced;
    `None` where it does not say. `file_size` is the whole file's.

    What memory it takes to run follows from the shape: `layers`, attention `heads` (the most of any layer),
    `kv_heads` (of all layers together), numbers per head's key and value, `feed_forward_length` (the largest),
    and `vocabulary`, in tokens. `repackable` is how many bytes of the tensors are of types that llama.cpp may
    lay out anew for a CPU.
    """

    architecture: str
    name: str | None = None
    general_type: str | None = None
    license: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    file_type: int | None = None
    pooling: Pooling | None = None
    causal_attention: bool | None = None
    has_chat_template: bool = False
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    key_length: int | None = None
    value_length: int | None = None
    feed_forward_length: int | None = None
    vocabulary: int = 0
    repackable: int = 0
    tensor_count: int = 0
    split_count: int = 0
    file_size: int = 0

    @property
    def quantisation(self) -> str:
        """The usual name of the file's number format; `unknown`, or `type N` for one newer than this code."""
        if self.file_type is None:
            return "unknown"
        number = self.file_type & ~1024  # llama.cpp marks a format that it guessed with this bit
        return FILE_TYPES.get(number, f"type {number}")

    @property
    def is_embedding(self) -> bool:
        """Whether the file is for vectors.

        Converters write a pooling type only for sentence-transformers models, so its presence tells even
        where attention is causal (Qwen3-Embedding pools the last token of a decoder).
        """
        return self.pooling != "rank" and (self.architecture in ENCODERS or self.pooling in ("mean", "cls", "last"))

    @property
    def kind(self) -> Kind:
        """What a backend does with the file."""
        return "embed" if self.is_embedding else "chat"


def read_gguf(path: Path) -> GGUFInfo:
    """The facts of the GGUF file at `path`; `ModelError` if it is none, is damaged, or cannot be read."""
    try:
        # Without O_NONBLOCK a FIFO under the name would hold the caller until somebody writes to it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return _read(file, path)
    except OSError as error:
        hint = "check the path and its permissions"
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", hint=hint) from error
    except ValueError as error:  # a NUL byte in the path
        raise ModelError(f"{str(path)!r} is not a path: {error}", hint="name a .gguf file") from error


def read_held_gguf(descriptor: int, path: Path) -> GGUFInfo:
    """The same of a file that is open already; `path` is what to call it. The descriptor stays open."""
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return _read(file, path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path) -> GGUFInfo:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path}: not a regular file", hint="name a .gguf file")
    size = status.st_size
    cursor = Cursor(file, path, size, _MAX_HEADER)
    _check_magic(cursor, size)
    tensor_count, key_count = _read_counts(cursor)
    found = _Keys(cursor)
    for index in range(key_count):
        found.read_one(f"key {index + 1} of {key_count}")
    info = found.info(tensor_count, size)
    repackable = _check_data(cursor, tensor_count, found.number("general.alignment", default=32), size)
    return replace(info, repackable=repackable)


def _check_magic(cursor: Cursor, size: int) -> None:
    start = cursor.take(min(4, size), "the magic number")
    if start == b"GGUF":
        return
    if start == b"vers" and size < 1024:
        hint = "this looks like a Git LFS pointer: `git lfs pull` fetches the file it stands for"
    else:
        hint = "name a .gguf file; `vestal pull smollm2-135m` fetches one that works"
    raise cursor.fail(f"not a GGUF file: it starts with {start!r} instead of b'GGUF'", at=0, hint=hint)


def _read_counts(cursor: Cursor) -> tuple[int, int]:
    (version,) = cursor.unpack(_U32, "the version")
    if version not in (2, 3):
        big_endian = " (a big-endian file)" if version in (2 << 24, 3 << 24) else ""
        what = f"GGUF version {version}{big_endian}; versions 2 and 3, little-endian, are known"
        raise cursor.fail(what, at=4, hint="convert the file again with a current llama.cpp")
    tensors, keys = cursor.unpack(_COUNTS, "the counts of tensors and keys")
    if tensors > _MAX_TENSORS:
        raise cursor.fail(f"{tensors:,} tensors, and the limit is {_MAX_TENSORS:,}", at=8)
    if keys > _MAX_KEYS:
        raise cursor.fail(f"{keys:,} keys, and the limit is {_MAX_KEYS:,}", at=16)
    return tensors, keys


class _Keys:
    """The key/value section: what is kept of it, and how it is walked."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._texts: dict[str, str] = {}
        self._numbers: dict[str, tuple[int, int]] = {}  # value, and where it stands
        self._lists: dict[str, tuple[int, ...]] = {}
        self._vocabulary = 0
        self._template_length = 0
        self._strings_left = _MAX_STRINGS

    def read_one(self, which: str) -> None:
        cursor = self._cursor
        start = cursor.offset
        (length,) = cursor.unpack(_U64, f"the length of {which}")
        if not 0 < length <= _MAX_KEY:
            raise cursor.fail(f"{which} is {length:,} bytes long; 1 to {_MAX_KEY:,} are allowed", at=start)
        key = cursor.take(length, which).decode("latin-1")  # keys are ASCII; this keeps any two apart
        (kind,) = cursor.unpack(_U32, f"the type of {key[:80]!r}")
        if kind == _STRING:
            self._read_string(key)
        elif kind == _ARRAY:
            self._read_array(key)
        elif kind in _SIZES:
            self._read_number(key, kind)
        else:
            raise cursor.fail(f"{key[:80]!r} has the unknown value type {kind}", at=cursor.offset - 4)

    def _read_string(self, key: str) -> None:
        cursor, start = self._cursor, self._cursor.offset
        (length,) = cursor.unpack(_U64, f"the length of {key[:80]!r}")
        if key == _TEMPLATE:
            self._template_length = length
        if key not in _TEXT_KEYS:
            cursor.skip(length, f"the text of {key[:80]!r}")
            return
        if key in self._texts:
            raise cursor.fail(f"{key!r} is there twice", at=start)
        if length > _MAX_KEPT:
            raise cursor.fail(f"{key!r} is {length:,} bytes long, and the limit is {_MAX_KEPT:,}", at=start)
        text = cursor.take(length, f"the text of {key!r}").decode("utf-8", "replace")
        # The text is shown on terminals: an escape sequence in a model's name must not reach one.
        self._texts[key] = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)

    def _read_number(self, key: str, kind: int) -> None:
        cursor, start = self._cursor, self._cursor.offset
        if key not in _NUMBER_KEYS and not key.endswith(_ARCHITECTURE_KEYS):
            cursor.skip(_SIZES[kind], f"the value of {key[:80]!r}")
            return
        if kind not in _INTEGER_LAYOUTS:
            raise cursor.fail(f"{key[:80]!r} is a fraction and must be a whole number", at=start)
        if key in self._numbers:
            raise cursor.fail(f"{key[:80]!r} is there twice", at=start)
        (value,) = cursor.unpack(_INTEGER_LAYOUTS[kind], f"the value of {key[:80]!r}")
        if not 0 <= value <= _MAX_U32:
            raise cursor.fail(f"{key[:80]!r} is {value:,}; 0 to {_MAX_U32:,} are allowed", at=start)
        self._numbers[key] = (value, start)

    def _read_array(self, key: str) -> None:
        cursor, start = self._cursor, self._cursor.offset
        (kind,) = cursor.unpack(_U32, f"the element type of {key[:80]!r}")
        (count,) = cursor.unpack(_U64, f"the length of {key[:80]!r}")
        what = f"{key[:80]!r} with {count:,} elements"
        if kind in _INTEGER_LAYOUTS and key.endswith(_LAYER_KEYS):
            self._read_list(key, kind, count)
        elif kind in _SIZES:
            cursor.skip(count * _SIZES[kind], what)
        elif kind == _STRING:
            if count > self._strings_left:
                raise cursor.fail(f"{what}; the limit for a file is {_MAX_STRINGS:,}", at=start)
            self._strings_left -= count
            self._vocabulary = count if key == _TOKENS else self._vocabulary
            cursor.skip_strings(count, what)
        else:  # arrays of arrays too: no engine reads them
            raise cursor.fail(f"{key[:80]!r} is an array of the unknown type {kind}", at=start)

    def _read_list(self, key: str, kind: int, count: int) -> None:
        cursor, layout, start = self._cursor, _INTEGER_LAYOUTS[kind], self._cursor.offset
        if count > _MAX_LAYERS:
            raise cursor.fail(f"{key[:80]!r} has {count:,} elements, and the limit is {_MAX_LAYERS:,}", at=start)
        if key in self._lists:
            raise cursor.fail(f"{key[:80]!r} is there twice", at=start)
        values = tuple(cursor.unpack(layout, f"the value of {key[:80]!r}")[0] for _ in range(count))
        if any(not 0 <= value <= _MAX_U32 for value in values):
            raise cursor.fail(f"{key[:80]!r} has a value outside 0 to {_MAX_U32:,}", at=start)
        self._lists[key] = values

    def _largest(self, key: str) -> int | None:
        return max(self._lists[key], default=None) if key in self._lists else self._optional(key)

    def _kv_heads(self, architecture: str, layers: int | None) -> int | None:
        """Of all layers together; a model that does not name them has one for every head."""
        for key in (f"{architecture}.attention.head_count_kv", f"{architecture}.attention.head_count"):
            if key in self._lists:
                return sum(self._lists[key])
            if layers is not None and (heads := self._optional(key)) is not None:
                return heads * layers
        return None

    def number(self, key: str, *, default: int) -> int:
        return self._numbers.get(key, (default, 0))[0]

    def _optional(self, key: str) -> int | None:
        return self._numbers[key][0] if key in self._numbers else None

    def info(self, tensor_count: int, file_size: int) -> GGUFInfo:
        architecture = self._texts.get("general.architecture")
        if architecture is None or not _ARCHITECTURE.fullmatch(architecture):
            said = "does not say its architecture" if architecture is None else f"says architecture {architecture!r}"
            raise self._cursor.fail(f"the header {said}")
        layers = self._optional(f"{architecture}.block_count")
        causal = self._optional(f"{architecture}.attention.causal")
        return GGUFInfo(
            architecture=architecture,
            name=self._texts.get("general.name") or None,
            general_type=self._texts.get("general.type") or None,
            license=self._texts.get("general.license") or None,
            context_length=self._optional(f"{architecture}.context_length"),
            embedding_length=self._optional(f"{architecture}.embedding_length"),
            file_type=self._optional("general.file_type"),
            pooling=self._pooling(f"{architecture}.pooling_type"),
            causal_attention=None if causal is None else bool(causal),
            has_chat_template=self._template_length > 0,
            layers=layers,
            heads=self._largest(f"{architecture}.attention.head_count"),
            kv_heads=self._kv_heads(architecture, layers),
            key_length=self._optional(f"{architecture}.attention.key_length"),
            value_length=self._optional(f"{architecture}.attention.value_length"),
            feed_forward_length=self._largest(f"{architecture}.feed_forward_length"),
            vocabulary=self._vocabulary,
            tensor_count=tensor_count,
            split_count=self.number("split.count", default=0),
            file_size=file_size,
        )

    def _pooling(self, key: str) -> Pooling | None:
        if key not in self._numbers:
            return None
        value, start = self._numbers[key]
        if value not in POOLING_TYPES:
            raise self._cursor.fail(f"{key!r} is {value}; 0 to {max(POOLING_TYPES)} are known", at=start)
        return POOLING_TYPES[value]


def _check_data(cursor: Cursor, tensor_count: int, alignment: int, size: int) -> int:
    """Walk the tensor records and see that the file is as long as they say; the bytes that may be repacked."""
    if alignment == 0 or alignment & (alignment - 1):
        raise cursor.fail(f"'general.alignment' is {alignment}, which is no power of two")
    end = repackable = 0
    for index in range(tensor_count):
        offset, length, kind = _tensor(cursor, f"tensor {index + 1} of {tensor_count}")
        end = max(end, offset + length)
        repackable += length if kind in REPACKED_TYPES else 0
    if tensor_count:
        end += -(-cursor.offset // alignment) * alignment
    if end > size:
        what = f"the {tensor_count:,} tensors end at byte {end:,} and the file at {size:,}"
        raise cursor.fail(what, hint="the file is cut short: fetch or copy it again")
    return min(repackable, size)


def _tensor(cursor: Cursor, which: str) -> tuple[int, int, int]:
    """Where one tensor's bytes begin, counted from the start of the data section, how many they are, and its type."""
    (length,) = cursor.unpack(_U64, f"the name of {which}")
    cursor.skip(length, f"the name of {which}")
    (dimensions,) = cursor.unpack(_U32, f"the dimensions of {which}")
    if dimensions > 4:
        raise cursor.fail(f"{which} has {dimensions:,} dimensions, and the limit is 4", at=cursor.offset - 4)
    values = 1
    for _ in range(dimensions):
        values *= cursor.unpack(_U64, f"the shape of {which}")[0]
    (kind,) = cursor.unpack(_U32, f"the type of {which}")
    (offset,) = cursor.unpack(_U64, f"the offset of {which}")
    block, width = TENSOR_TYPES.get(kind, (1, 0))  # a newer type: its start is still known, its size is not
    return offset, -(-values // block) * width, kind

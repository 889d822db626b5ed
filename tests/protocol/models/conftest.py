"""Small model files, stores and wheels that are real in every byte that is looked at."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from vestal.models import CatalogEntry, Member, Store

Value = str | int | bool | float | Sequence[str] | Sequence[int]
MakeGGUF = Callable[..., bytes]
MakeWheel = Callable[[str, Mapping[str, bytes]], Path]
MakeEntry = Callable[..., CatalogEntry]


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if all(isinstance(item, str) for item in value):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(str(item)) for item in value)
    return struct.pack("<IIQ", 9, 5, len(value)) + b"".join(struct.pack("<i", int(item)) for item in value)


def build_gguf(
    keys: Mapping[str, Value] | None = None, *, tensors: int = 2, version: int = 3, salt: bytes = b""
) -> bytes:
    """A GGUF of f32 vectors of eight values; `salt` makes another content of the same size."""
    facts: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.file_type": 1,
        "llama.context_length": 128,
        "llama.embedding_length": 16,
        "tokenizer.ggml.tokens": ["a", "b", "c"],
        "tokenizer.chat_template": "{{ messages }}",
    }
    facts = facts if keys is None else dict(keys)
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, len(facts))
    header += b"".join(_text(key) + _value(value) for key, value in facts.items())
    header += b"".join(
        _text(f"blk.{index}.weight") + struct.pack("<IQIQ", 1, 8, 0, 32 * index) for index in range(tensors)
    )
    padding = b"\0" * (-len(header) % 32)
    data = (salt + bytes(32 * tensors))[: 32 * tensors]
    return header + padding + data


@pytest.fixture(scope="session")
def make_gguf() -> MakeGGUF:
    return build_gguf


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    path = tmp_path / "Tiny-Chat.Q4.gguf"
    path.write_bytes(build_gguf())
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is the only place where pip looks, whatever the machine is configured for."""
    directory = tmp_path / "index"
    directory.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


@pytest.fixture
def make_wheel(index: Path) -> MakeWheel:
    """Put the wheel of `tiny-model==1.0`, or another project, with these files into the index."""

    def make(project: str, files: Mapping[str, bytes]) -> Path:
        path = index / f"{project}-1.0-py3-none-any.whl"
        info = f"{project}-1.0.dist-info"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return path

    return make


@pytest.fixture
def make_entry() -> MakeEntry:
    """The catalog entry of a model `tiny` in the wheel of `tiny-model==1.0`."""

    def make(files: Mapping[str, bytes], **changes: str) -> CatalogEntry:
        members = tuple(Member(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items())
        return CatalogEntry(
            name="tiny",
            description="for tests",
            kind="chat",
            family="tiny",
            license="Apache-2.0",
            context_length=128,
            requirement=changes.get("requirement", "tiny_model==1.0"),
            download_size=1000,
            recipe="bert" if changes.get("recipe") == "bert" else "gguf",
            members=members,
        )

    return make

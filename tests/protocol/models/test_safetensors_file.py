from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal.errors import ModelError
from vestal.models.safetensors_file import SafeTensors

DATA = struct.pack("<6f", *range(6))
GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
}


def build(path: Path, header: object, data: bytes = DATA) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_tensors_are_read_by_name_and_kept_in_order(tmp_path: Path) -> None:
    tensors = SafeTensors(build(tmp_path / "x", GOOD))
    assert list(tensors.entries) == ["b", "a"]
    assert tensors.entries["a"].shape == (2, 2)
    assert struct.unpack("<4f", tensors.read("a")) == (0, 1, 2, 3)
    assert struct.unpack("<2f", tensors.read("b")) == (4, 5)
    assert "tensors=2" in repr(tensors)


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 24]},
        {"data_offsets": [16, 32]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [24, 16]},
        {"data_offsets": [0, 2**64]},
        {"data_offsets": [0]},
        {"shape": [3]},
        {"shape": [-2]},
        {"shape": [2**62, 4]},
        {"dtype": "F31"},
        {"dtype": 4},
    ],
)
def test_a_tensor_that_cannot_be_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    path = build(tmp_path / "x", {**GOOD, "b": {**GOOD["b"], **change}})
    with pytest.raises(ModelError, match=str(path)):
        SafeTensors(path)


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 2**64 - 1), struct.pack("<Q", 9) + b"{}"])
def test_a_header_longer_than_the_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="its header is said to have"):
        SafeTensors(path)


def test_a_file_that_shrinks_later_is_an_error(tmp_path: Path) -> None:
    path = build(tmp_path / "x", GOOD)
    tensors = SafeTensors(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="needs 8 bytes and 4 are there"):
        tensors.read("b")


@settings(deadline=None)  # each example writes a file, and a shared disk can be slow
@given(st.binary(max_size=100) | st.integers(1, 20_000).map(lambda depth: b'{"a":' + b"[" * depth))
def test_any_header_is_read_or_a_model_error(tmp_path_factory: pytest.TempPathFactory, header: bytes) -> None:
    path = build(tmp_path_factory.getbasetemp() / "any.safetensors", header)
    try:
        tensors = SafeTensors(path)
    except ModelError:
        return
    assert all(len(tensors.read(name)) <= len(DATA) for name in tensors.entries)

from __future__ import annotations

import pytest

from vestal.models.ggml_types import FILE_TYPES, POOLING_TYPES, TENSOR_TYPES

gguf = pytest.importorskip("gguf", reason="the tables are compared with those of the gguf package")


def test_tensor_types_are_ggmls() -> None:
    theirs = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: size for kind, size in TENSOR_TYPES.items() if kind in theirs} == {
        kind: size for kind, size in theirs.items() if kind in TENSOR_TYPES
    }
    assert len(TENSOR_TYPES.keys() & theirs.keys()) > 30


def test_file_types_have_llama_cpps_names() -> None:
    theirs = {int(t): t.name.removeprefix("MOSTLY_").removeprefix("ALL_") for t in gguf.LlamaFileType}
    assert all(theirs.get(number, name) == name for number, name in FILE_TYPES.items())
    assert len(FILE_TYPES.keys() & theirs.keys()) > 30


def test_pooling_types_are_llama_cpps() -> None:
    assert {int(t): t.name.lower() for t in gguf.PoolingType} == POOLING_TYPES

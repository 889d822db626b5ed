"""A BERT small enough to be computed by hand, converted, read back, and run by llama.cpp itself."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from vestal.errors import ModelError
from vestal.models import read_gguf
from vestal.models.convert import convert_bert

np = pytest.importorskip("numpy", reason="conversion needs the llamacpp extra")
gguf = pytest.importorskip("gguf", reason="conversion needs the llamacpp extra")

HIDDEN, FEED, LAYERS, HEADS, POSITIONS, EPS = 32, 64, 2, 2, 64, 1e-12
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "is", "eat", "##ing", "food", ".", "cafe", "##s"]
CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": FEED,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS),
    "layer_norm_eps": EPS,
    "hidden_act": "gelu",
}
# Text, and the ids that BERT's own tokenizer gives: lower case, accents off, longest piece first.
TEXTS = {
    "a man is eating food.": [2, 5, 6, 7, 8, 9, 10, 11, 3],
    "A MAN is": [2, 5, 6, 7, 3],
    "Cafés": [2, 12, 13, 3],
    "zzz food": [2, 1, 10, 3],
}

Weights = dict[str, Any]


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), HIDDEN),
        "embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
        "pooler.dense.weight": (HIDDEN, HIDDEN),
        "pooler.dense.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for part, size in (
            ("attention.self.query", (HIDDEN, HIDDEN)),
            ("attention.self.key", (HIDDEN, HIDDEN)),
            ("attention.self.value", (HIDDEN, HIDDEN)),
            ("attention.output.dense", (HIDDEN, HIDDEN)),
            ("attention.output.LayerNorm", (HIDDEN,)),
            ("intermediate.dense", (FEED, HIDDEN)),
            ("output.dense", (HIDDEN, FEED)),
            ("output.LayerNorm", (HIDDEN,)),
        ):
            found[f"encoder.layer.{layer}.{part}.weight"] = size
            found[f"encoder.layer.{layer}.{part}.bias"] = size[:1]
    return found


@pytest.fixture(scope="module")
def weights() -> Weights:
    random = np.random.default_rng(7)
    return {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes().items()}


def write_files(directory: Path, weights: Weights, config: dict[str, Any], words: list[str]) -> dict[str, Path]:
    header: dict[str, Any] = {
        "embeddings.position_ids": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]},
    }
    data = bytes(8)
    for name, values in weights.items():
        raw = values.tobytes()
        dtype = {"float32": "F32", "float16": "F16", "float64": "F64"}[values.dtype.name]
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return {path.name: path for path in directory.iterdir()}


@pytest.fixture
def files(tmp_path: Path, weights: Weights) -> dict[str, Path]:
    (tmp_path / "in").mkdir()
    return write_files(tmp_path / "in", weights, CONFIG, WORDS)


def reference(weights: Weights, ids: list[int]) -> Any:
    """all-MiniLM's computation in plain numpy: BERT, then the mean over all tokens, then length one."""

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def heads(x: Any) -> Any:
        return x.reshape(len(ids), HEADS, HIDDEN // HEADS).transpose(1, 0, 2)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        q, k, v = (heads(linear(x, f"{at}.attention.self.{part}")) for part in ("query", "key", "value"))
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(HIDDEN // HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), HIDDEN)
        x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = linear(x, f"{at}.intermediate.dense")
        inner = 0.5 * inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def test_the_header_describes_an_embedding_model(files: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    convert_bert(files, target, name="tiny")
    info = read_gguf(target)
    assert (info.kind, info.architecture, info.quantisation, info.pooling) == ("embed", "bert", "F16", "mean")
    assert (info.causal_attention, info.context_length, info.embedding_length) == (False, POSITIONS, HIDDEN)
    assert info.tensor_count == 5 + 16 * LAYERS


def test_the_same_input_gives_the_same_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("1.gguf", "2.gguf"):
        convert_bert(files, tmp_path / name, name="tiny")
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()


def test_matrices_are_half_precision_and_the_rest_is_exact(
    files: dict[str, Path], tmp_path: Path, weights: Weights
) -> None:
    convert_bert(files, tmp_path / "out.gguf", name="tiny")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    types = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert {types.pop(name) for name in ("position_embd.weight", "token_types.weight")} == {"F32"}
    assert all(kind == ("F16" if len(tensors[name].shape) > 1 else "F32") for name, kind in types.items())
    positions = weights["embeddings.position_embeddings.weight"]
    assert np.array_equal(tensors["position_embd.weight"].data, positions)
    query = weights["encoder.layer.1.attention.self.query.weight"]
    assert np.array_equal(tensors["blk.1.attn_q.weight"].data, query.astype(np.float16))


def test_the_vocabulary_marks_where_words_start(files: dict[str, Path], tmp_path: Path) -> None:
    convert_bert(files, tmp_path / "out.gguf", name="tiny")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[:10] == [*WORDS[:5], "\u2581a", "\u2581man", "\u2581is", "\u2581eat", "ing"]
    ids = {name: fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("bos", "unknown", "padding", "mask")}
    assert ids == {"bos": 2, "unknown": 1, "padding": 0, "mask": 4}
    assert fields["tokenizer.ggml.seperator_token_id"].contents() == 3


def test_progress_counts_tensors(files: dict[str, Path], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    convert_bert(files, tmp_path / "out.gguf", name="tiny", progress=lambda *call: calls.append(call))
    assert calls == [(done, 37) for done in range(1, 38)]


@pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama.cpp itself is asked, from the llamacpp extra")
def test_llama_cpp_computes_what_the_original_computes(
    files: dict[str, Path], tmp_path: Path, weights: Weights
) -> None:
    """In a process of its own: an engine that aborts takes the tests along otherwise."""
    convert_bert(files, tmp_path / "out.gguf", name="tiny")
    code = (
        "import json, sys, llama_cpp\n"
        "model = llama_cpp.Llama(sys.argv[1], embedding=True, verbose=False, n_ctx=64, n_threads=1)\n"
        "texts = json.loads(sys.argv[2])\n"
        "tokens = [model.tokenize(text.encode(), add_bos=True, special=False) for text in texts]\n"
        "print(json.dumps([tokens, model.embed(texts, normalize=True)]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out.gguf"), json.dumps(list(TEXTS))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    tokens, vectors = json.loads(output.splitlines()[-1])
    assert tokens == list(TEXTS.values())
    for ids, vector in zip(tokens, vectors, strict=True):
        assert float(np.dot(reference(weights, ids), vector)) > 0.9999


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab_size": 99}, "14 pieces where 99 are needed"),
        ({"num_hidden_layers": 3}, "37 of use, 53 needed"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
    ],
)
def test_files_that_do_not_fit_together_are_an_error(
    tmp_path: Path, weights: Weights, change: dict[str, Any], says: str
) -> None:
    (tmp_path / "in").mkdir()
    files = write_files(tmp_path / "in", weights, {**CONFIG, **change}, WORDS)
    with pytest.raises(ModelError, match=says):
        convert_bert(files, tmp_path / "out.gguf", name="tiny")


def test_a_tensor_of_another_model_or_number_type_is_an_error(tmp_path: Path, weights: Weights) -> None:
    name = "encoder.layer.0.output.dense.bias"
    others: list[tuple[Weights, str]] = [
        ({("strange" if key == name else key): value for key, value in weights.items()}, "'strange' is no part"),
        ({**weights, name: weights[name].astype(np.float64)}, "is F64"),
    ]
    for number, (changed, says) in enumerate(others):
        (tmp_path / f"{number}").mkdir()
        files = write_files(tmp_path / f"{number}", changed, CONFIG, WORDS)
        with pytest.raises(ModelError, match=says):
            convert_bert(files, tmp_path / "out.gguf", name="tiny")


def test_a_vocabulary_without_the_special_pieces_is_an_error(tmp_path: Path, weights: Weights) -> None:
    (tmp_path / "in").mkdir()
    files = write_files(tmp_path / "in", weights, CONFIG, ["x", *WORDS[1:]])
    with pytest.raises(ModelError, match=r"missing: \[PAD\]"):
        convert_bert(files, tmp_path / "out.gguf", name="tiny")


def test_half_precision_weights_are_taken_as_they_are(tmp_path: Path, weights: Weights) -> None:
    (tmp_path / "in").mkdir()
    halves = {name: values.astype(np.float16) for name, values in weights.items()}
    convert_bert(write_files(tmp_path / "in", halves, CONFIG, WORDS), tmp_path / "out.gguf", name="tiny")
    assert read_gguf(tmp_path / "out.gguf").quantisation == "F16"


def test_a_target_that_cannot_be_written_is_an_error(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot convert tiny"):
        convert_bert(files, tmp_path / "nowhere" / "out.gguf", name="tiny")

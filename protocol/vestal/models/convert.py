"""BERT weights as sentence-transformers ships them → a GGUF that llama.cpp runs as an embedding model.

Follows what llama.cpp's own converter does for `BertModel`: matrices as f16; vectors, position and token type
embeddings as f32; the pooler left out, since the mean over the tokens is what is asked for; the vocabulary in
"phantom space" form, where a word starts with U+2581 and a continuation (`##ing`) has no mark. llama.cpp
lowers and strips accents itself. The same input gives the same bytes.

`gguf` and `numpy` come with the `llamacpp` extra and are imported by the functions here, never by the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from vestal.errors import ModelError
from vestal.models.remedies import translated
from vestal.models.safetensors_file import SafeTensors

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from numpy import float16, float32
    from numpy.typing import NDArray

__all__ = ["convert_bert", "require_libraries"]

_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
_DROPPED = frozenset({"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"})
_KEPT_F32 = frozenset({"position_embd.weight", "token_types.weight"})
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_TENSORS_OUTSIDE, _TENSORS_A_LAYER = 5, 16

Positive = Annotated[int, Meta(gt=0)]


class _Config(Struct, frozen=True):
    """What is needed of a BERT `config.json`."""

    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    max_position_embeddings: Positive
    type_vocab_size: Positive
    vocab_size: Positive
    layer_norm_eps: float


def require_libraries() -> None:
    """`ModelError` unless this Python can convert."""
    try:
        import gguf
        import numpy  # noqa: F401 - whether it can be imported is the question
    except ImportError as error:
        message = f"converting a model needs the packages gguf and numpy: {error}"
        raise ModelError(message, hint="pip install 'vestal[llamacpp]'") from error
    del gguf


def convert_bert(
    files: Mapping[str, Path], target: Path, *, name: str, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write `target` from `model.safetensors`, `config.json` and `vocab.txt` in `files`.

    `progress` counts tensors. `ModelError` if the files do not fit together.
    """
    require_libraries()
    from gguf import GGUFWriter

    with translated(f"cannot convert {name}"):
        config = _read_config(files["config.json"])
        words = _read_vocabulary(files["vocab.txt"], config.vocab_size)
        tensors = SafeTensors(files["model.safetensors"])
        writer = GGUFWriter(target, "bert")
        try:
            _add_facts(writer, config, name)
            _add_vocabulary(writer, words)
            _add_tensors(writer, config, tensors, progress)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _read_config(path: Path) -> _Config:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Config)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ModelError(f"{path} is no BERT configuration: {error}", hint="fetch the file again") from error


def _read_vocabulary(path: Path, size: int) -> list[str]:
    """One piece a line, its id being the line's number."""
    try:
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no vocabulary: {error}", hint="fetch the file again") from error
    missing = [word for word in _SPECIAL if word not in words]
    if len(words) != size or missing:
        what = f"{len(words):,} pieces where {size:,} are needed, missing: {', '.join(missing) or 'none'}"
        raise ModelError(f"{path} does not fit the configuration: {what}", hint="fetch both files again")
    return words


def _add_facts(writer: GGUFWriter, config: _Config, name: str) -> None:
    from gguf import GGML_QUANT_VERSION, LlamaFileType, PoolingType

    writer.add_type("model")
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_token_type_count(config.type_vocab_size)


def _add_vocabulary(writer: GGUFWriter, words: list[str]) -> None:
    from gguf import TokenType

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_phantom_space(word) for word in words])
    writer.add_token_types([TokenType.CONTROL if word in _SPECIAL else TokenType.NORMAL for word in words])
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_mask_token_id(words.index("[MASK]"))


def _phantom_space(word: str) -> str:
    if word in _SPECIAL:
        return word
    return word[2:] if word.startswith("##") else _WORD_START + word


def _add_tensors(
    writer: GGUFWriter, config: _Config, tensors: SafeTensors, progress: Callable[[int, int], None] | None
) -> None:
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.BERT, config.num_hidden_layers)
    wanted = [name for name in tensors.entries if name not in _DROPPED]
    expected = _TENSORS_OUTSIDE + _TENSORS_A_LAYER * config.num_hidden_layers
    if len(wanted) != expected:
        raise ModelError(f"{tensors!r}: {len(wanted)} of use, {expected} needed", hint="fetch the file again")
    for done, name in enumerate(wanted, start=1):
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new_name is None:
            raise ModelError(f"tensor {name[:80]!r} is no part of a BERT model", hint="fetch the file again")
        writer.add_tensor(new_name, _numbers(tensors, name, new_name))
        if progress is not None:
            progress(done, len(wanted))


def _numbers(tensors: SafeTensors, name: str, new_name: str) -> NDArray[float16] | NDArray[float32]:
    import numpy

    entry = tensors.entries[name]
    if entry.dtype not in ("F32", "F16"):
        raise ModelError(f"tensor {name[:80]!r} is {entry.dtype}; F32 and F16 are known", hint="fetch the file again")
    stored = numpy.frombuffer(tensors.read(name), dtype="<f4" if entry.dtype == "F32" else "<f2")
    shaped = stored.reshape(entry.shape)
    if shaped.ndim == 1 or new_name in _KEPT_F32:
        return shaped.astype(numpy.float32)
    return shaped.astype(numpy.float16)

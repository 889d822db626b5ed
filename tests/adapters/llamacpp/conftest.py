"""Models to test with: the real ones, and chain models, whose every answer is known beforehand.

A chain model is a GGUF of a few hundred kilobytes that loads in milliseconds. Its attention and feed-forward
weights are zero, its embeddings one-hot and its output matrix a table: after a token comes the one that the chain
names, at any sensible temperature. What it answers depends only on the last token of the prompt.
"""

from __future__ import annotations

import os

# As the worker has it, and read when the library loads: with libgomp's default, threads that spin beside other
# busy processes take minutes for what takes seconds.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import gguf
import numpy
import pytest

from vestal.backend import EmbedRequest, EmbedResult, EndEvent, GenerateRequest, GenerateRequestV2, TextEvent
from vestal.values import GenerateOptions, Message
from vestal_adapters.llamacpp.engine import LlamaCppEngine
from vestal_adapters.llamacpp.options import LlamaCppEngineOptions
from vestal_adapters.worker.engine import EngineEvent

UNKNOWN, BOS, END, ROLE = "<unk>", "<s>", "<|end|>", "<|role|>"
SPECIALS = (UNKNOWN, BOS, END, ROLE)
LAST_WORDS = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""The prompt is the conversation's text and nothing else, so that its last character starts the chain."""

Chain = Sequence[str | bytes | int]


class MakeModel(Protocol):
    def __call__(
        self, *chains: Chain, template: str | None = LAST_WORDS, context: int = 512, **metadata: Any
    ) -> Path: ...


class Vocabulary:
    """Four special tokens, the 256 bytes, and whatever the chains name, each once."""

    def __init__(self, chains: Sequence[Chain], controls: Sequence[str] = ()) -> None:
        self.controls = frozenset(controls)
        self.texts = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
        self.known: dict[str | bytes, int] = {text: index for index, text in enumerate(SPECIALS)}
        self.known |= {bytes([byte]): len(SPECIALS) + byte for byte in range(256)}
        for chain in chains:
            for link in chain:
                self.token(link)

    def token(self, link: str | bytes | int) -> int:
        if isinstance(link, int):
            return link
        if link not in self.known:
            assert isinstance(link, str), "a chain names single bytes, or text"
            self.known[link] = len(self.texts)
            self.texts.append(link.replace(" ", "▁"))
        return self.known[link]

    @property
    def types(self) -> list[int]:
        kinds = gguf.TokenType
        specials = [kinds.UNKNOWN, *[kinds.CONTROL] * (len(SPECIALS) - 1)]
        words = [kinds.CONTROL if text in self.controls else kinds.NORMAL for text in self.texts[len(SPECIALS) + 256 :]]
        return [*specials, *[kinds.BYTE] * 256, *words]


def write_chain_model(
    path: Path, chains: Sequence[Chain], *, template: str | None, context: int, metadata: Mapping[str, Any]
) -> None:
    """Each chain is what follows what: text of one token, a byte, or a token's number. Several may share tokens.

    Those named in the metadata `controls` are control tokens.
    """
    vocabulary = Vocabulary(chains, metadata.get("controls", ()))
    count = len(vocabulary.texts)
    width, layers = -(-count // 64) * 64, metadata.get("layers", 1)
    follows = numpy.zeros((count, width), numpy.float32)
    for chain in chains:
        tokens = [vocabulary.token(link) for link in chain]
        for token, successor in pairwise(tokens):
            follows[successor, token] = 1
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(32)
    writer.add_head_count(width // 64)
    writer.add_rope_dimension_count(64)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(count)
    writer.add_tokenizer_model(metadata.get("tokenizer", "llama"))
    writer.add_token_list(vocabulary.texts)
    writer.add_token_scores([0.0] * count)
    writer.add_token_types(vocabulary.types)
    writer.add_unk_token_id(SPECIALS.index(UNKNOWN))
    writer.add_bos_token_id(SPECIALS.index(BOS))
    writer.add_eos_token_id(SPECIALS.index(END))
    writer.add_add_bos_token(bool(metadata.get("adds_bos", False)))
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)
    if "pooling" in metadata:
        writer.add_pooling_type(metadata["pooling"])
    writer.add_tensor("token_embd.weight", numpy.eye(count, width, dtype=numpy.float32))
    writer.add_tensor("output_norm.weight", numpy.ones(width, numpy.float32))
    writer.add_tensor("output.weight", follows)
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(width, numpy.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.zeros((width, width), numpy.float32))
        for name, shape in (("ffn_gate", (32, width)), ("ffn_up", (32, width)), ("ffn_down", (width, 32))):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.zeros(shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session", autouse=True)
def _tidy() -> Iterator[None]:
    """llama-cpp-python opens /dev/null when it is imported, and leaves it open: a warning at the very end."""
    yield
    if (left := sys.modules.get("llama_cpp._utils")) is not None:
        left.outnull_file.close()
        left.errnull_file.close()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Writes a chain model and returns its path; the same arguments, the same file."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("chains")

    def make(*chains: Chain, template: str | None = LAST_WORDS, context: int = 512, **metadata: Any) -> Path:
        key = repr((chains, template, context, sorted(metadata.items())))
        if key not in made:
            made[key] = folder / f"chain-{len(made)}.gguf"
            write_chain_model(made[key], chains, template=template, context=context, metadata=metadata)
        return made[key]

    return make


class Driver:
    """An engine that is loaded, and what came out of it, by job."""

    def __init__(self, engine: LlamaCppEngine) -> None:
        self.engine = engine
        self.events: dict[int, list[EngineEvent]] = {}
        self.order: list[int] = []
        self.capabilities = engine.load(lambda percent, detail: None)

    def ask(self, job: int, text: str, **options: Any) -> None:
        self.submit(job, GenerateRequest(messages=[Message("user", text)], options=GenerateOptions(**options)))

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        self.engine.submit(job, request)

    def embed(self, job: int, *texts: str, **options: Any) -> None:
        self.engine.embed(job, EmbedRequest(input=list(texts), **options))

    def step(self) -> list[tuple[int, EngineEvent]]:
        output = self.engine.step()
        for job, event in output:
            self.events.setdefault(job, []).append(event)
            self.order.append(job)
        return output

    def run(self) -> None:
        """To the end of every job."""
        while self.engine.busy:
            self.step()

    def text(self, job: int) -> str:
        return "".join(event.text for event in self.events.get(job, []) if isinstance(event, TextEvent))

    def end(self, job: int) -> EndEvent:
        (end,) = [event for event in self.events[job] if isinstance(event, EndEvent)]
        assert self.events[job][-1] is end, "nothing comes after the end"
        return end

    def vectors(self, job: int) -> numpy.ndarray[Any, numpy.dtype[numpy.float32]]:
        (result,) = self.events[job]
        assert isinstance(result, EmbedResult), result
        return numpy.frombuffer(result.data, "<f4").reshape(result.count, result.dimensions)


Start = Callable[..., Driver]


@pytest.fixture
def start() -> Iterator[Start]:
    """Loads an engine from a model's path and options; closed after the test."""
    engines: list[LlamaCppEngine] = []

    def load(path: Path | str, **options: Any) -> Driver:
        defaults: dict[str, Any] = {"model": "chain", "path": str(path), "threads": 1, "context_length": 128}
        engine = LlamaCppEngine(LlamaCppEngineOptions(**(defaults | options)))
        engines.append(engine)
        return Driver(engine)

    yield load
    for engine in engines:
        engine.close()

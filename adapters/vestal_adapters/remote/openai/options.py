"""What a `[[backend]]` table with `adapter = "openai"` may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from vestal.options import about
from vestal_adapters.remote.openai.presets import PRESETS, Preset, PresetName
from vestal_adapters.remote.options import EmbeddingBatch, ModelOptions

__all__ = ["OpenAIOptions"]


class OpenAIOptions(ModelOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of one server. What is left out is what the server says, and else what its kind is known to do."""

    preset: Annotated[PresetName, about("what kind of server it is, which decides what it can be asked", "vllm")]
    model: (
        Annotated[str, Meta(min_length=1), about("its name there; may be left out if the server has only one", "small")]
        | None
    ) = None
    kind: Annotated[
        Literal["chat", "embeddings"], about("what the model is for: one backend does one of the two", "embeddings")
    ] = "chat"
    embedding_batch: EmbeddingBatch = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_batch is not None and self.kind != "embeddings":
            raise ValueError('embedding_batch: kind = "chat" embeds nothing; set kind = "embeddings"')

    @property
    def dialect(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def url(self) -> str:
        return (self.base_url or self.dialect.base_url).rstrip("/")

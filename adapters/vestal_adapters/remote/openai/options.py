"""What a `[[backend]]` table with `adapter = "openai"` may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from vestal.options import about
from vestal_adapters.remote.openai.presets import PRESETS, Preset, PresetName
from vestal_adapters.remote.options import RemoteOptions

__all__ = ["OpenAIOptions"]


class OpenAIOptions(RemoteOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of one server. What is left out is what the server says, and else what its kind is known to do."""

    preset: Annotated[PresetName, about("what kind of server it is, which decides what it can be asked", "vllm")]
    model: (
        Annotated[str, Meta(min_length=1), about("its name there; may be left out if the server has only one", "small")]
        | None
    ) = None
    kind: Annotated[
        Literal["chat", "embeddings"], about("what the model is for: one backend does one of the two", "embeddings")
    ] = "chat"
    context_length: (
        Annotated[int, Meta(ge=8), about("tokens of prompt and answer together; by default what the server says", 8192)]
        | None
    ) = None
    max_output_tokens: Annotated[int, Meta(ge=1), about("most tokens of one answer, where limited", 1024)] | None = None
    tools: Annotated[bool, about("whether the model calls tools", True)] | None = None
    vision: Annotated[bool, about("whether the model sees images", True)] | None = None
    thinking: Annotated[bool, about("whether the model's thinking can be turned up and down", True)] | None = None
    json_schema: Annotated[bool, about("whether the server enforces a JSON schema", True)] | None = None

    @property
    def dialect(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def url(self) -> str:
        return (self.base_url or self.dialect.base_url).rstrip("/")

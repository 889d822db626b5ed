"""What a `[[backend]]` table with `adapter = "openai"` may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from vestal_adapters.remote.openai.presets import PRESETS, Preset, PresetName
from vestal_adapters.remote.options import RemoteOptions

__all__ = ["OpenAIOptions"]


class OpenAIOptions(RemoteOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of one server. What is left out is what the server says, and else what its kind is known to do."""

    preset: Annotated[PresetName, Meta(description="what kind of server it is, which decides what it can be asked")]
    model: (
        Annotated[str, Meta(min_length=1, description="the model's name there; may be left out if it serves only one")]
        | None
    ) = None
    kind: Annotated[
        Literal["chat", "embeddings"], Meta(description="what the model is for: one backend does one of the two")
    ] = "chat"
    context_length: (
        Annotated[int, Meta(ge=8, description="tokens of prompt and answer together; by default what the server says")]
        | None
    ) = None
    max_output_tokens: Annotated[int, Meta(ge=1, description="most tokens of one answer, where limited")] | None = None
    tools: Annotated[bool, Meta(description="whether the model calls tools")] | None = None
    vision: Annotated[bool, Meta(description="whether the model sees images")] | None = None
    thinking: Annotated[bool, Meta(description="whether the model's thinking can be turned up and down")] | None = None
    json_schema: Annotated[bool, Meta(description="whether the server enforces a JSON schema")] | None = None

    @property
    def dialect(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def url(self) -> str:
        return (self.base_url or self.dialect.base_url).rstrip("/")

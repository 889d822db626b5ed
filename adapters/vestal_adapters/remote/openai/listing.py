"""What a server says of its models, made into capabilities. Pure: pages in, facts out.

The operator's word goes before the server's, and the server's before what its kind is known for. What nobody
promises is not promised: a request for it is refused here by name instead of being ignored there.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vestal.values import Capabilities
from vestal_adapters.remote.listing import count_at, first, picked, truth_at, value_at
from vestal_adapters.remote.openai.options import OpenAIOptions

__all__ = ["Listing", "capabilities_of", "chosen"]


class Listing(Struct, frozen=True):
    """The page `models`. Entries are as each server has them."""

    data: list[dict[str, Any]]


class _Said(Struct, frozen=True):
    """What the server told; `None` where it says nothing."""

    context_length: int | None = None
    max_output_tokens: int | None = None
    tools: bool | None = None
    vision: bool | None = None
    thinking: bool | None = None
    json_schema: bool | None = None
    fields: frozenset[str] | None = None  # the parameters that this model takes, by their JSON names


def chosen(listing: Listing, model: str | None, backend: str) -> dict[str, Any]:
    """The entry of the configured model, or of the only one. Raises `ModelNotFound` listing what is served."""
    entries = {entry["id"]: entry for entry in listing.data if isinstance(entry.get("id"), str)}
    return picked(entries, model, backend)


def capabilities_of(
    options: OpenAIOptions, entry: dict[str, Any], details: dict[str, Any], dimensions: int | None
) -> Capabilities:
    """`details` is the preset's page about the model, empty if there is none; `dimensions` those of an embedding."""
    preset, said = options.dialect, _said(options, entry, details)
    name = str(entry["id"])
    if options.kind == "embeddings":
        return Capabilities(
            generate=False,
            embed=True,
            slots=options.slots,
            context_length=options.context_length or said.context_length,
            embedding_dimensions=dimensions,
            embedding_batch=options.embedding_batch,
            embedding_tasks=(),
            # Which lengths a model takes, and whether it does at all, no server of this API tells.
            embedding_shortest=None if preset.dimensions else dimensions,
            embedding_longest=None if preset.dimensions else dimensions,
            embedding_raw=False,
            local=options.runs_here,
            model=name,
            options=(),
        )
    return Capabilities(
        v2=True,
        tools=first(options.tools, said.tools, preset.tools),
        vision=first(options.vision, said.vision, False),
        thinking=bool(preset.efforts) and first(options.thinking, said.thinking, False),
        json_schema=first(options.json_schema, said.json_schema, preset.json_schema),
        grammar=preset.grammar is not None,
        logprobs=preset.logprobs,
        slots=options.slots,
        context_length=options.context_length or said.context_length,
        max_output_tokens=options.max_output_tokens or said.max_output_tokens,
        local=options.runs_here,
        model=name,
        options=tuple(option for option, field in preset.fields.items() if said.fields is None or field in said.fields),
    )


def _said(options: OpenAIOptions, entry: dict[str, Any], details: dict[str, Any]) -> _Said:
    preset = options.dialect
    general = _Said(count_at(entry, preset.context), count_at(entry, preset.output))
    if options.preset == "openrouter":
        return _openrouter(general, entry)
    if options.preset == "venice":
        return _venice(general, entry)
    if options.preset == "lmstudio":
        return _lmstudio(details)
    if options.preset == "llamacpp":
        return _Said(
            count_at(details, ("default_generation_settings", "n_ctx")),
            tools=truth_at(details, ("chat_template_caps", "supports_tools")),  # else it leaves them out in silence
            vision=truth_at(details, ("modalities", "vision")),
        )
    return general


def _openrouter(general: _Said, entry: dict[str, Any]) -> _Said:
    takes = entry.get("supported_parameters")
    sees = value_at(entry, ("architecture", "input_modalities"))
    if not isinstance(takes, list):
        return general
    return _Said(
        general.context_length,
        general.max_output_tokens,
        tools="tools" in takes,
        vision="image" in sees if isinstance(sees, list) else None,
        thinking="reasoning" in takes,
        json_schema="structured_outputs" in takes,
        fields=frozenset(name for name in takes if isinstance(name, str)),
    )


def _venice(general: _Said, entry: dict[str, Any]) -> _Said:
    def can(what: str) -> bool | None:
        return truth_at(entry, ("model_spec", "capabilities", what))

    return _Said(
        general.context_length,
        general.max_output_tokens,
        tools=can("supportsFunctionCalling"),
        vision=can("supportsVision"),
        thinking=can("supportsReasoningEffort"),
        json_schema=can("supportsResponseSchema"),
    )


def _lmstudio(details: dict[str, Any]) -> _Said:
    can = details.get("capabilities")
    return _Said(
        count_at(details, ("loaded_context_length",)) or count_at(details, ("max_context_length",)),
        tools="tool_use" in can if isinstance(can, list) else None,
        vision=details["type"] == "vlm" if "type" in details else None,
    )

"""What the server says of a model, made into capabilities and a manner of asking. Pure: a page in, facts out.

The operator's word goes before the server's. Servers of others with this API say less: what they do not say of
vision, thinking and schemas is not promised, and of one that says nothing at all tools are not either: llama-server
ignores them in silence if its model's template has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from vestal.values import Capabilities, Thinking
from vestal_adapters.remote.anthropic.options import AnthropicOptions
from vestal_adapters.remote.listing import count_at, first, picked, truth_at

__all__ = ["Listing", "Manner", "capabilities_of", "listed", "manner_of"]

_LONGEST_UNKNOWN = 4096  # tokens: what every model of this API can answer
_SAMPLING = ("temperature", "top_p", "top_k")
_WORDS: tuple[Thinking, ...] = ("low", "medium", "high", "xhigh")
_BUDGETS: Mapping[Thinking, int] = {"minimal": 1024, "low": 4096, "medium": 8192, "high": 16384, "xhigh": 32768}
"""Tokens of thinking, where a model is given a budget of them; 1,024 is the least that the API takes."""


class Listing(Struct, frozen=True):
    """The page `models`."""

    data: list[dict[str, Any]]


class Manner(Struct, frozen=True):
    """How the model is asked. `levels` of thinking are words of effort where it is `adaptive`, else tokens.

    `max_tokens` is what is sent when the caller sets no limit: the API wants one.
    """

    max_tokens: int = _LONGEST_UNKNOWN
    thinking: Literal["adaptive", "enabled", None] = None
    levels: Mapping[Thinking, str | int] = {}


def listed(listing: Listing, model: str, backend: str) -> dict[str, Any]:
    """The entry of `model`. Raises `ModelNotFound` listing what is served."""
    entries = {entry["id"]: entry for entry in listing.data if isinstance(entry.get("id"), str)}
    return picked(entries, model, backend)


def manner_of(options: AnthropicOptions, entry: dict[str, Any]) -> Manner:
    limit = options.max_output_tokens or count_at(entry, ("max_tokens",)) or _LONGEST_UNKNOWN
    if not first(options.thinking, _can(entry, "thinking"), False):
        return Manner(limit)
    efforts = {word: word for word in _WORDS if _can(entry, "effort", word)}
    if _can(entry, "thinking", "types", "adaptive") and efforts:
        return Manner(limit, "adaptive", efforts)
    if _can(entry, "thinking", "types", "enabled") is False:
        return Manner(limit)
    return Manner(limit, "enabled", _BUDGETS)


def capabilities_of(options: AnthropicOptions, entry: dict[str, Any], manner: Manner, *, count: bool) -> Capabilities:
    """`count` says that the server counts tokens."""
    return Capabilities(
        v2=True,
        count=count,
        tools=first(options.tools, options.base_url is None or "capabilities" in entry),
        vision=first(options.vision, _can(entry, "image_input"), False),
        thinking=manner.thinking is not None,
        json_schema=first(options.json_schema, _can(entry, "structured_outputs"), False),
        slots=options.slots,
        context_length=options.context_length or count_at(entry, ("max_input_tokens",)),
        max_output_tokens=options.max_output_tokens or count_at(entry, ("max_tokens",)),
        local=options.runs_here,
        model=str(entry["id"]),
        options=("max_tokens", "stop", *(_SAMPLING if options.sampling else ())),
    )


def _can(entry: dict[str, Any], *what: str) -> bool | None:
    return truth_at(entry, ("capabilities", *what, "supported"))

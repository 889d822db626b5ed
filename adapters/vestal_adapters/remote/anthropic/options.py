"""What a `[[backend]]` table with `adapter = "anthropic"` may hold."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from vestal.options import about
from vestal_adapters.remote.options import ModelOptions

__all__ = ["AnthropicOptions"]

_BASE_URL = "https://api.anthropic.com/v1"


class AnthropicOptions(ModelOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of one server. What is left out is what the server says of the model."""

    model: Annotated[str, Meta(min_length=1), about("its name there, or an alias of it", "claude-sonnet-4-5")]
    sampling: Annotated[
        bool, about("whether it takes temperature, top_p and top_k: the newest models do not", False)
    ] = True

    @property
    def url(self) -> str:
        return (self.base_url or _BASE_URL).rstrip("/")

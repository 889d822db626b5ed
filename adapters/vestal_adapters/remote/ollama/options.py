"""What a `[[backend]]` table with `adapter = "ollama"` may hold."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from vestal.durations import parse_duration
from vestal.options import DurationText, about
from vestal_adapters.remote.options import EmbeddingBatch, ModelOptions

__all__ = ["FOREVER", "OllamaOptions"]

_BASE_URL = "http://127.0.0.1:11434"
FOREVER = "forever"


class OllamaOptions(ModelOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of one server. What it can do is what the server says, unless it is said here."""

    model: (
        Annotated[str, Meta(min_length=1), about("its name there; may be left out if the server has only one", "qwen3")]
        | None
    ) = None
    keep_alive: (
        Annotated[DurationText, about('how long it stays in memory unused, or "forever"; by default as there', "30m")]
        | None
    ) = None
    allow_truncation: Annotated[
        bool,
        about("serve from a version before 0.12.6, which cuts long prompts; an answer says that it may have", True),
    ] = False
    embedding_batch: EmbeddingBatch = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_alive is not None and self.keep_alive != FOREVER:
            try:
                parse_duration(self.keep_alive)
            except ValueError as exc:
                raise ValueError(f"keep_alive: {exc}") from None

    @property
    def url(self) -> str:
        return (self.base_url or _BASE_URL).rstrip("/")

    @property
    def kept(self) -> dict[str, float]:
        """The field for `keep_alive`: seconds, below zero for ever."""
        if self.keep_alive is None:
            return {}
        return {"keep_alive": -1 if self.keep_alive == FOREVER else parse_duration(self.keep_alive)}

"""Embeddings of this API as the port's vectors. Pure; what a server did not honour is an error."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vestal.backend import EmbedRequest, EmbedResult
from vestal_adapters.remote.openai.presets import Preset
from vestal_adapters.remote.requests import check_embedding, unsupported
from vestal_adapters.remote.streamed import Count
from vestal_adapters.remote.vectors import packed, wrong

__all__ = ["EmbeddingPage", "embeddings_body", "vectors_of"]


class _Row(Struct):
    embedding: list[float]
    index: int = 0


class _Usage(Struct):
    prompt_tokens: Count = 0


class EmbeddingPage(Struct):
    """The answer of `embeddings`."""

    data: list[_Row]
    usage: _Usage | None = None


def embeddings_body(request: EmbedRequest, preset: Preset, model: str, dimensions: int | None = None) -> dict[str, Any]:
    """The body of `embeddings`; `dimensions` are the model's own. Raises `Unsupported` naming what has no field."""
    check_embedding(request)
    body: dict[str, Any] = {"model": model, "input": request.input, "encoding_format": "float"}
    if request.dimensions in (None, dimensions):  # those it has anyway; the answer is held to them
        return body
    if not preset.dimensions:
        raise unsupported("dimensions", "cannot cut vectors short")
    return body | {"dimensions": request.dimensions}


def vectors_of(page: EmbeddingPage, request: EmbedRequest, dimensions: int | None, backend: str) -> EmbedResult:
    """In input order and of length one. Raises `BackendCrashed` if they are not what was asked for."""
    rows = sorted(page.data, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(len(request.input))):
        raise wrong(backend, f"{len(rows)} vectors for {len(request.input)} texts, or twice the same")
    tokens = page.usage.prompt_tokens if page.usage else 0
    return packed([row.embedding for row in rows], request, dimensions, tokens, backend)

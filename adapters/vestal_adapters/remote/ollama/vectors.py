"""Embeddings of `api/embed` as the port's vectors. Pure; a text that does not fit is an error there, never cut."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vestal.backend import EmbedRequest, EmbedResult
from vestal_adapters.remote.ollama.listing import Manner
from vestal_adapters.remote.requests import check_embedding
from vestal_adapters.remote.streamed import Count
from vestal_adapters.remote.vectors import packed

__all__ = ["EmbeddingPage", "embed_body", "vectors_of"]


class EmbeddingPage(Struct):
    """The answer of `api/embed`."""

    embeddings: list[list[float]]
    prompt_eval_count: Count = 0


def embed_body(request: EmbedRequest, manner: Manner, model: str, kept: dict[str, float]) -> dict[str, Any]:
    check_embedding(request)
    body = {"model": model, "input": request.input, "truncate": False, "options": {"num_ctx": manner.context}} | kept
    return body | ({"dimensions": request.dimensions} if request.dimensions is not None else {})


def vectors_of(page: EmbeddingPage, request: EmbedRequest, dimensions: int | None, backend: str) -> EmbedResult:
    """Raises `BackendCrashed` if they are not what was asked for: a version that cuts no vectors short, for one."""
    return packed(page.embeddings, request, dimensions, page.prompt_eval_count, backend)

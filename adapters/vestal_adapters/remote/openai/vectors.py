"""Embeddings of this API as the port's vectors. Pure; what a server did not honour is an error."""

from __future__ import annotations

import math
import struct
from typing import Annotated, Any

from msgspec import Meta, Struct

from vestal.backend import EmbedRequest, EmbedResult
from vestal.errors import BackendCrashed, Unsupported
from vestal_adapters.remote.openai.presets import Preset

__all__ = ["EmbeddingPage", "embeddings_body", "vectors_of"]


class _Row(Struct):
    embedding: list[float]
    index: int = 0


class _Usage(Struct):
    prompt_tokens: Annotated[int, Meta(ge=0)] = 0


class EmbeddingPage(Struct):
    """The answer of `embeddings`."""

    data: list[_Row]
    usage: _Usage | None = None


def embeddings_body(request: EmbedRequest, preset: Preset, model: str) -> dict[str, Any]:
    """The body of `embeddings`. Raises `Unsupported` naming what the API has no field for."""
    if request.task is not None:
        raise Unsupported("this model's server takes no task", details={"option": "task"})
    if not request.normalize:
        raise Unsupported("this model's server may normalize its vectors", details={"option": "normalize"})
    body: dict[str, Any] = {"model": model, "input": request.input, "encoding_format": "float"}
    if request.dimensions is None:
        return body
    if not preset.dimensions:
        raise Unsupported("this model's server cannot cut vectors short", details={"option": "dimensions"})
    return body | {"dimensions": request.dimensions}


def vectors_of(page: EmbeddingPage, request: EmbedRequest, dimensions: int | None, backend: str) -> EmbedResult:
    """In input order and of length one. Raises `BackendCrashed` if they are not what was asked for."""
    expected = request.dimensions or dimensions
    rows = sorted(page.data, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(len(request.input))):
        raise _wrong(backend, f"{len(rows)} vectors for {len(request.input)} texts, or twice the same")
    width = len(rows[0].embedding) if rows else 0
    if any(len(row.embedding) != (expected or width) for row in rows) or not width:
        raise _wrong(backend, f"vectors of {width} dimensions instead of {expected or 'one size'}")
    try:
        data = b"".join(struct.pack(f"<{width}f", *_normalized(row.embedding)) for row in rows)
    except (OverflowError, ZeroDivisionError, ValueError):
        raise _wrong(backend, "a vector that has no direction") from None
    tokens = page.usage.prompt_tokens if page.usage else 0
    # A server that tells no usage still used something; a quarter of the characters is what others assume.
    tokens = tokens or max(1, sum(map(len, request.input)) // 4)
    return EmbedResult(count=len(rows), dimensions=width, data=data, input_tokens=tokens)


def _normalized(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if not (math.isfinite(length) and length):
        raise ValueError
    return [value / length for value in vector]


def _wrong(backend: str, what: str) -> BackendCrashed:
    return BackendCrashed(
        f"the server of backend {backend!r} sent {what}", details={"backend": backend}, retryable=False
    )

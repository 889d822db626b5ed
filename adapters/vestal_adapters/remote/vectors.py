"""A server's rows of numbers as the port's vectors. Pure; what is not what was asked for is an error."""

from __future__ import annotations

import math
import struct

from vestal.backend import EmbedRequest, EmbedResult
from vestal.errors import BackendCrashed
from vestal_adapters.remote.requests import unsupported

__all__ = ["packed", "wrong"]


def packed(
    rows: list[list[float]], request: EmbedRequest, dimensions: int | None, tokens: int, backend: str
) -> EmbedResult:
    """`rows` in input order, each made of length one. Raises `BackendCrashed` if they are not what was asked for.

    A server that gives its own `dimensions` whatever is asked for is `Unsupported`: no client can make it look broken.
    """
    expected = request.dimensions or dimensions
    width = len(rows[0]) if rows else 0
    if len(rows) != len(request.input):
        raise wrong(backend, f"{len(rows)} vectors for {len(request.input)} texts")
    if request.dimensions not in (None, dimensions) and all(len(row) == dimensions for row in rows):
        raise unsupported("dimensions", "cuts no vectors short")  # what was asked for, not the server, is at fault
    if any(len(row) != (expected or width) for row in rows) or not width:
        raise wrong(backend, f"vectors of {width} dimensions instead of {expected or 'one size'}")
    try:
        data = b"".join(struct.pack(f"<{width}f", *_normalized(row)) for row in rows)
    except (OverflowError, ZeroDivisionError, ValueError):
        raise wrong(backend, "a vector that has no direction") from None
    # A server that tells no usage still used something; a quarter of the characters is what others assume.
    tokens = tokens or max(1, sum(map(len, request.input)) // 4)
    return EmbedResult(count=len(rows), dimensions=width, data=data, input_tokens=tokens)


def _normalized(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    if not (math.isfinite(length) and length):
        raise ValueError
    return [value / length for value in vector]


def wrong(backend: str, what: str) -> BackendCrashed:
    return BackendCrashed(
        f"the server of backend {backend!r} sent {what}", details={"backend": backend}, retryable=False
    )

"""Vectors for texts without a model: a hash, so that equal texts are equal and all others are unrelated."""

from __future__ import annotations

import hashlib
import math
import struct

from vestal.backend import EmbedRequest, EmbedResult
from vestal.errors import Unsupported

__all__ = ["BATCH", "DIMENSIONS", "MAX_DIMENSIONS", "embedded", "vector_of"]

DIMENSIONS = 8
BATCH = 64
"""Texts that it says it computes in one go. One more costs it nothing: it is there to be divided by."""
MAX_DIMENSIONS = 4096


def embedded(request: EmbedRequest) -> EmbedResult:
    """One vector per text, of the dimensions asked for. Any number of texts, in order."""
    if request.task is not None:
        raise Unsupported("the echo backend knows no tasks", details={"option": "task"})
    dimensions = DIMENSIONS if request.dimensions is None else request.dimensions
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise Unsupported(
            f"the echo backend has vectors of 1 to {MAX_DIMENSIONS} dimensions, not {dimensions}",
            details={"option": "dimensions"},
        )
    pack = struct.Struct(f"<{dimensions}f").pack
    rows = [pack(*vector_of(text, dimensions, normalize=request.normalize)) for text in request.input]
    words = sum(len(text.split()) for text in request.input)
    return EmbedResult(count=len(rows), dimensions=dimensions, data=b"".join(rows), input_tokens=words)


def vector_of(text: str, dimensions: int, *, normalize: bool) -> list[float]:
    """`dimensions` numbers from -1 to 1 that depend on the whole text; with `normalize`, of Euclidean length 1."""
    digest = hashlib.shake_256(text.encode()).digest(4 * dimensions)
    # Odd numerators: no component is 0, so the length never is.
    vector = [(2 * number + 1) / 2**32 - 1 for (number,) in struct.iter_unpack("<I", digest)]
    length = math.hypot(*vector) if normalize else 1.0
    return [component / length for component in vector]

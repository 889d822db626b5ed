"""Which vectors a backend gives, whether those that came are such, and how many of them one frame holds. Pure.

Vectors of two models, or of two lengths, are no answer together, however alike the requests were that made them.
"""

from __future__ import annotations

from msgspec import Struct

from vestal.backend import EmbedResult
from vestal.errors import InternalError, InvalidRequest
from vestal.framing import MAX_FRAME_LIMIT
from vestald.backends.unit import Unit

__all__ = ["Kind", "check", "kind_of", "size_of"]

_FRAME_MARGIN = 64 * 1024  # bytes of an `embeddings` frame that are not vectors


class Kind(Struct, frozen=True):
    """Vectors of one model; `dimensions` are None if its backend does not say."""

    model: str
    dimensions: int | None


def kind_of(unit: Unit) -> Kind:
    """Those that it gives now: another start may make it give others."""
    return Kind(unit.capabilities.model or unit.name, unit.capabilities.embedding_dimensions)


def check(unit: Unit, result: EmbedResult, count: int, expected: int | None) -> int:
    """The length of the vectors. Raises `InternalError` unless there is one for each text, all of it as expected."""
    dimensions = expected or result.dimensions
    if (result.count, result.dimensions) != (count, dimensions):
        asked, got = f"{count} vectors of {dimensions}", f"{result.count} of {result.dimensions}"
    elif len(result.data) != 4 * count * dimensions:
        asked, got = f"{4 * count * dimensions} bytes", f"{len(result.data)}"
    else:
        return dimensions
    raise InternalError(
        f"backend {unit.name!r} was to give {asked} and gave {got}",
        hint="this is a fault in the adapter, or its options say other dimensions than its model has",
        details={"backend": unit.name},
    )


def size_of(count: int, dimensions: int) -> int:
    """Bytes of so many vectors. Raises `InvalidRequest` if they do not fit one frame."""
    row = 4 * dimensions
    most = (MAX_FRAME_LIMIT - _FRAME_MARGIN) // row if row else count
    if count > most:
        raise InvalidRequest(
            f"embed.input: {count} texts of {row} bytes a vector do not fit one frame",
            hint=f"ask for at most {most} texts a request",
            details={"field": "input", "count": count, "limit": most},
        )
    return row * count

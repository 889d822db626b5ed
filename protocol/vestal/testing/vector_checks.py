"""Checks of what is answered at once: vectors and token counts, or `Unsupported` where they are not promised."""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable
from typing import Any

from vestal.backend import Backend, CountRequest, EmbedRequest, EmbedResult
from vestal.errors import Unsupported, WireError
from vestal.testing.subject import Broken, Inapplicable, Subject
from vestal.values import Message

__all__ = ["count", "embed", "embed_options"]

_TEXTS = ["a lighthouse at night", "an invoice for two bicycles"]
_NEAR = 0.02  # between two computations of one vector: batches of other shapes round differently


async def embed(subject: Subject, backend: Backend) -> None:
    """One vector a text, in order, of the promised size and length one; `Unsupported` if it does not embed."""
    if not backend.capabilities.embed:
        await _unsupported(subject, "embed()", backend.embed(EmbedRequest(input=_TEXTS)))
        return
    together = await _vectors(subject, backend, _TEXTS)
    for text, vector in zip(_TEXTS, together, strict=True):
        if abs(math.hypot(*vector) - 1) > _NEAR:
            raise Broken(f"normalize is true by default, and a vector's length is {math.hypot(*vector):.3f}")
        (alone,) = await _vectors(subject, backend, [text])
        if math.dist(alone, vector) > _NEAR:
            raise Broken(f"the vector of {text!r} is another one when it comes with others: check their order")


async def embed_options(subject: Subject, backend: Backend) -> None:
    """Every task, the shortest and the longest vectors, and `normalize` off, where they are promised, are honoured."""
    told = backend.capabilities
    lengths = {length for length in (told.embedding_shortest, told.embedding_longest) if length is not None}
    asked: list[dict[str, Any]] = [{"task": task} for task in told.embedding_tasks or ()]
    asked += [{"dimensions": length} for length in sorted(lengths)]
    asked += [{"normalize": False}] if told.embedding_raw else []
    if not asked:
        raise Inapplicable("its capabilities promise no option of an embed")
    for options in asked:
        request = EmbedRequest(input=_TEXTS, **options)
        try:
            result = await subject.within("embed()", backend.embed(request))
        except WireError as exc:
            raise Broken(f"it promises {options}, and refuses it: {exc!r}") from exc
        _check_shape(result, len(_TEXTS), request.dimensions or told.embedding_dimensions, "the request asks for")


async def _vectors(subject: Subject, backend: Backend, texts: list[str]) -> list[tuple[float, ...]]:
    try:
        result = await subject.within("embed()", backend.embed(EmbedRequest(input=texts)))
    except WireError as exc:
        raise Broken(f"an ordinary embed was refused: {exc!r}") from exc
    _check_shape(result, len(texts), backend.capabilities.embedding_dimensions)
    row = result.dimensions
    flat = struct.unpack(f"<{result.count * row}f", result.data)
    return [flat[start : start + row] for start in range(0, len(flat), row)]


def _check_shape(result: EmbedResult, count: int, dimensions: int | None, why: str = "capabilities say") -> None:
    if result.count != count:
        raise Broken(f"{count} texts gave {result.count} vectors")
    if result.dimensions != dimensions:
        raise Broken(f"vectors have {result.dimensions} dimensions, {why} {dimensions}")
    if len(result.data) != 4 * result.count * result.dimensions:
        raise Broken(f"{len(result.data)} bytes are not {result.count} vectors of {result.dimensions} float32")
    if result.input_tokens < 1:
        raise Broken(f"input_tokens is {result.input_tokens}: the texts took at least one")


async def count(subject: Subject, backend: Backend) -> None:
    """More text counts more tokens; `Unsupported` if it does not count."""
    short = CountRequest(messages=[Message("user", "one")])
    if not backend.capabilities.count:
        await _unsupported(subject, "count()", backend.count(short))
        return
    fewer = await subject.within("count()", backend.count(short))
    more = await subject.within("count()", backend.count(CountRequest(messages=[Message("user", "one " * 50)])))
    if not 0 < fewer < more:
        raise Broken(f"1 word counts {fewer} tokens, and 50 words count {more}")


async def _unsupported(subject: Subject, what: str, call: Awaitable[object]) -> None:
    try:
        await subject.within(what, call)
    except Unsupported:
        return
    except WireError as exc:
        raise Broken(f"{what} is not promised, and is refused with {exc!r} instead of Unsupported") from exc
    raise Broken(f"{what} is not promised by its capabilities, and works")

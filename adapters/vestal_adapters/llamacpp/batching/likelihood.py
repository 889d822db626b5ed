"""How likely the model itself found a token, and what else it could have said. Pure.

From the logits as they come out of the model, before penalties, filters, temperature or a grammar: a log-softmax in
float64, since the sum is over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy

from vestal.values import TokenLogprob, TopLogprob

__all__ = ["token_logprob"]


def token_logprob(logits: bytes | memoryview, token: int, top: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """`token`'s natural log-probability and the `top` likeliest tokens, likeliest first. `piece` gives their bytes."""
    values = numpy.frombuffer(logits, numpy.float32).astype(numpy.float64)
    values -= values.max()
    values -= numpy.log(numpy.exp(values).sum())
    return TokenLogprob(piece(token), _finite(values[token]), tuple(_top(values, top, piece)))


def _top(
    values: numpy.ndarray[tuple[int], numpy.dtype[numpy.float64]], count: int, piece: Callable[[int], bytes]
) -> list[TopLogprob]:
    count = min(count, len(values))
    if count == 0:
        return []
    likeliest = numpy.argpartition(values, len(values) - count)[-count:]
    # Of equals the lower number first, so that the same logits always give the same list.
    ranked = sorted(likeliest.tolist(), key=lambda token: (-values[token], token))
    return [TopLogprob(piece(token), _finite(values[token])) for token in ranked]


def _finite(value: float) -> float:
    """A token the model rules out has minus infinity, which neither JSON nor a sum can take."""
    return max(float(value), -1e30)

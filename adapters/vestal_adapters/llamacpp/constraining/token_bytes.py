"""All tokens of a vocabulary in the order of their bytes, to find those that a grammar lets through. Pure.

The tokens that begin alike are neighbours, so that what they share is read once, and where a text goes wrong all that
begin with it are passed over together. Tokens without bytes (control tokens) are not among them: no grammar can ask
for one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import numpy

from vestal_adapters.llamacpp.constraining.automaton import Automaton, State

__all__ = ["TokenBytes"]

Ids = numpy.ndarray[tuple[int], numpy.dtype[numpy.int32]]


class TokenBytes:
    """`pieces` are the bytes of each token, by its number."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = list(pieces)
        ordered = sorted((piece, token) for token, piece in enumerate(self._pieces) if piece)
        self._sorted = [piece for piece, _ in ordered]
        self._ids = [token for _, token in ordered]
        self._shared = [0, *map(_shared, self._sorted, self._sorted[1:])]

    def __repr__(self) -> str:
        return f"<TokenBytes of {len(self._ids):,} tokens>"

    def __getitem__(self, token: int) -> bytes:
        return self._pieces[token]

    def allowed(self, automaton: Automaton, state: State) -> Ids:
        """The tokens whose bytes may come next, in the order of their bytes."""
        found: list[int] = []
        path, at, end = [state], 0, len(self._sorted)
        while at < end:
            piece = self._sorted[at]
            del path[self._shared[at] + 1 :]
            dead = self._follow(automaton, path, piece)
            if dead is None:
                found.append(self._ids[at])
                at += 1
            else:
                at = bisect_left(self._sorted, _behind(piece[:dead]), at + 1)
        return numpy.array(found, numpy.int32)

    def _follow(self, automaton: Automaton, path: list[State], piece: bytes) -> int | None:
        """Go on from the path's end along `piece`; the length at which it went wrong, or `None`."""
        state, length = path[-1], len(path) - 1
        for byte in piece[length:]:
            length += 1
            after = state.following.get(byte) or automaton.step(state, byte)
            if after is None:
                return length
            path.append(after)
            state = after
        return None


def _shared(one: bytes, other: bytes) -> int:
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        length += 1
    return length


def _behind(prefix: bytes) -> bytes:
    """The first bytes, in order, after all that begin with `prefix`."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\xff" * 4096

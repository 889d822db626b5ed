"""The signatures of thinking that was shown here, so that it can be sent back with the next turn.

The API takes thinking of earlier turns only with the signature it gave it, for which the wire has no field. So they
are kept here, found by a digest of the caller's scope and the text: who has not seen the thinking cannot use its
signature. Bounded, oldest first out; what is no longer known is left out of the next turn, and that is said.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

__all__ = ["MOST", "Signatures"]

MOST = 1024
_LONGEST = 64 << 10  # characters of one signature, which holds the whole thinking in cipher


class Signatures:
    """Nothing of it is written anywhere."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, str] = OrderedDict()

    def keep(self, scope: str | None, thinking: str, signature: str) -> None:
        if scope is None or not signature or len(signature) > _LONGEST:
            return
        self._kept[_digest(scope, thinking)] = signature
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def of(self, scope: str | None, thinking: str) -> str | None:
        return None if scope is None else self._kept.get(_digest(scope, thinking))

    def __repr__(self) -> str:
        return f"<Signatures {len(self._kept)} of at most {self._most}>"


def _digest(scope: str, thinking: str) -> bytes:
    return hashlib.sha256(f"{len(scope)}:{scope}{thinking}".encode()).digest()

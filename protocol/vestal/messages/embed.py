"""The messages of embed.sock."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from vestal.messages.common import Id, Wire
from vestal.values import Notice, ShortText, Usage

__all__ = ["Embed", "EmbedPart", "Embeddings"]


class Embed(Wire, frozen=True, kw_only=True, tag="embed"):
    """→ one vector per text of `input`."""

    id: Id
    input: Annotated[list[str], Meta(min_length=1, max_length=65_536)]
    model: ShortText | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    task: ShortText | None = None
    normalize: bool = True


class EmbedPart(Struct, frozen=True, kw_only=True):
    """The texts of a request that one backend computed."""

    backend: str
    count: int


class Embeddings(Wire, frozen=True, kw_only=True, tag="embeddings"):
    """← `data` holds count x dimensions little-endian IEEE 754 binary32, row-major, in input order.

    Where several backends shared the texts, `parts` says who computed how many, in input order.
    """

    id: Id
    count: int
    dimensions: int
    dtype: str
    data: bytes
    usage: Usage
    model: str
    backend: str
    parts: list[EmbedPart] = []
    notices: list[Notice] = []

"""What a pull reports while it runs, and what it gives in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from vestal.models.manifest import StoredModel

__all__ = ["Pulled", "Report", "Stage", "silent"]

Stage = Literal["wait", "download", "verify", "convert", "store"]
"""`wait`: another process is fetching the same model."""

Report = Callable[[Stage, int, int | None], None]
"""Called with the stage, how much of it is done, and how much it is in all (`None`: unknown).

Bytes, except while converting, where tensors are counted. A stage begins with the first call that names it;
with pip before 24.1, which cannot tell a program how far it is, that is the only one of a download. A download
that goes on from an earlier attempt begins with what that one left.
"""


class Pulled(Struct, frozen=True):
    """The model, ready to be used. `already` says that it was in the store and nothing was fetched."""

    model: StoredModel
    already: bool


def silent(stage: Stage, done: int, total: int | None) -> None:
    """For callers that want no progress."""

"""Good frames to start from: the conformance vectors of each socket and direction, and every worker message."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.adapters.worker.test_wire import CHILD, HOST
from vestal.connection import SocketKind
from vestal_adapters.worker import wire

__all__ = ["CHILD_FRAMES", "HOST_FRAMES", "PLACES", "Place", "frames"]

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"
Place = tuple[SocketKind, int | None]
"""A socket, and the version agreed on there; None before the handshake."""

PLACES: dict[str, tuple[Place, ...]] = {
    "client": (("infer", None), ("infer", 1), ("infer", 2), ("embed", None), ("embed", 1)),
    "admin": (("admin", None), ("admin", 1)),
}

HOST_FRAMES = [wire.encode(message) for message in HOST]
CHILD_FRAMES = [wire.encode(message) for message in CHILD]


@cache
def frames(place: Place, direction: str) -> tuple[bytes, ...]:
    """Those that are legal there, in the order of the vectors, and the handshake's, which are legal once."""
    socket, version = place
    vectors: list[dict[str, Any]] = [
        vector for path in sorted(VECTORS.glob("messages-*.json")) for vector in json.loads(path.read_text())
    ]
    return tuple(
        bytes.fromhex(vector["bytes"])
        for vector in vectors
        if vector["direction"] == direction
        and (vector["version"] is None or (vector["socket"] == socket and vector["version"] in (version, None)))
    )

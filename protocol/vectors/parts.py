"""What all vectors are made of: one daemon's offer, a few values, and how a frame is written down.

Every float has a fraction, so that a reader whose JSON knows one kind of number can tell floats from integers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vestal import messages as m
from vestal import values as v
from vestal.framing import MAX_FRAME_LIMIT, PREFIX
from vestal.negotiation import Offer

__all__ = [
    "BACKENDS", "LIMITS", "NOTHING", "STATUS", "TIMINGS", "TOOL", "USAGE", "USER", "V2_USER",
    "Json", "framed", "offer", "to_json",
]  # fmt: skip

Json = dict[str, Any]

LIMITS = m.Limits(
    frame=MAX_FRAME_LIMIT,
    requests_per_connection=64,
    queue_depth=64,
    per_caller=16,
    connections_per_uid=256,
    connections=864,
)
BACKENDS = [
    m.BackendInfo(
        name="chat",
        model="smollm2-135m",
        capabilities=v.Capabilities(
            v2=True,
            count=True,
            tools=True,
            grammar=True,
            json_schema=True,
            slots=4,
            context_length=2048,
            local=True,
            model="smollm2-135m",
            family="llama",
            options=("max_tokens", "temperature", "seed", "stop"),
        ),
        aliases=["default"],
    ),
    m.BackendInfo(
        name="vectors",
        model="minilm-l6-v2",
        capabilities=v.Capabilities(
            generate=False,
            embed=True,
            context_length=256,
            max_input_texts=1024,
            embedding_dimensions=384,
            embedding_batch=64,
            embedding_tasks=("search_document", "search_query"),
            embedding_shortest=64,
            embedding_longest=384,
            embedding_raw=True,
            local=True,
            model="minilm-l6-v2",
            family="bert",
            options=(),
        ),
    ),
]


def offer(*, versions: tuple[int, ...] = (1, 2)) -> Offer:
    """What the vectors' daemon offers."""
    return Offer(server="vestald/0.1.0", session="5e55104e", versions=versions, limits=LIMITS, backends=BACKENDS)


def to_json(value: Any) -> Any:
    """A decoded MessagePack value as JSON, with `bin` as `{"$bin": "<hex>"}`."""
    if isinstance(value, bytes):
        return {"$bin": value.hex()}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def framed(value: Any) -> bytes:
    """Any value as one frame."""
    payload = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
    return PREFIX.pack(len(payload)) + payload


USER = v.Message(role="user", content="Hi")
NOTHING = v.Usage()
USAGE = v.Usage(input_tokens=9, cached_tokens=4, output_tokens=2)
TIMINGS = v.Timings(queue_ms=0.25, prefill_ms=12.5, first_token_ms=14.75, decode_ms=8.5)
STATUS = m.StatusReport(
    id=1,
    state="ready",
    pid=4242,
    server="vestald/0.1.0",
    uptime_ms=61_000,
    runtime_dir="/run/user/1000/vestal",
    sockets={"admin": "/run/user/1000/vestal/admin.sock", "infer": "/run/user/1000/vestal/infer.sock"},
    connections=3,
    connection_limit=864,
    backends=[],
    waiting=1,
    running=4,
    queue_depth=64,
    audit=m.AuditStatus(directory="/home/ann/.local/share/vestal/audit/run-user-1000-vestal", seq=1204, hash="5e" * 32),
    memory_bytes=52_428_800,
    log="journal:vestald.service",
    config="/home/ann/.config/vestal/vestald.toml",
    socket_faults={"embed": "/run/user/1000/vestal/embed.sock exists and is not a socket of uid 1000"},
)
TOOL = v.Tool(name="weather", description="Weather in a city", input_schema={"type": "object"})
V2_USER = v.MessageV2(role="user", content=[v.TextBlock(text="Hi")])

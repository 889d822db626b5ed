"""What every socket carries: the handshake, `ping`, `cancel`, and the two frames that may come at any time."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from vestal.values import Capabilities

__all__ = [
    "BackendInfo",
    "Cancel",
    "Error",
    "Goaway",
    "Hello",
    "Id",
    "Limits",
    "Name",
    "Ping",
    "Pong",
    "Welcome",
    "Wire",
]

Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Wire(Struct, frozen=True, omit_defaults=True):
    """Base of the messages: a field at its default is left out."""


class Hello(Wire, frozen=True, kw_only=True, tag="hello"):
    """→ first frame. `versions` in any order; the daemon takes the highest both know."""

    versions: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(min_length=1, max_length=16)]
    client: Annotated[str, Meta(max_length=128)] = ""
    features: Annotated[list[Name], Meta(max_length=32)] = []
    require: Annotated[list[Name], Meta(max_length=32)] = []


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds the daemon enforces on this connection: bytes of one frame's payload, and counts."""

    frame: int
    requests_per_connection: int
    queue_depth: int
    per_caller: int
    connections_per_uid: int | None = None
    connections: int | None = None


class BackendInfo(Struct, frozen=True, kw_only=True):
    """One backend that serves; a request names it by any of `name`, `model` and `aliases`."""

    name: str
    model: str
    capabilities: Capabilities
    aliases: list[str] = []


class Welcome(Wire, frozen=True, kw_only=True, tag="welcome"):
    """← answer to `hello`. `features` is the intersection of what both sides know."""

    version: int
    server: str
    session: str
    features: list[str]
    limits: Limits
    backends: list[BackendInfo]


class Ping(Wire, frozen=True, kw_only=True, tag="ping"):
    nonce: Id


class Pong(Wire, frozen=True, kw_only=True, tag="pong"):
    nonce: Id


class Cancel(Wire, frozen=True, kw_only=True, tag="cancel"):
    """→ end request `id` with `stop_reason: cancelled`; no effect on an unknown or ended id."""

    id: Id


class Error(Wire, frozen=True, kw_only=True, tag="error"):
    """← terminal frame of request `id`; without an id it concerns the connection or an unreadable message."""

    id: Id | None = None
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    hint: str | None = None
    details: dict[str, Any] | None = None


class Goaway(Wire, frozen=True, kw_only=True, tag="goaway"):
    """← the daemon is draining: what is admitted runs until the deadline, nothing new is taken."""

    reason: str
    deadline_ms: int

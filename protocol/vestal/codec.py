"""Bytes ↔ messages, and what is said of bytes that are none.

A payload is judged in two steps, the second only for payloads that fail the first. Decoding against the union
of a socket's messages is one pass in C. Where it fails, the payload is decoded without a schema to tell the
three faults apart: not one MessagePack map with a string `type` (`malformed_frame`, the connection ends),
a `type` this socket does not take (`unknown_message`), a field that breaks the schema (`invalid_request`). What holds
more values than any request needs is neither decoded nor explained.
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from vestal import messages as m
from vestal.counting import MAX_VALUES, has_more_values
from vestal.errors import InvalidRequest, MalformedFrame, UnknownMessage, WireError, error_for_code
from vestal.explain import MAX_ECHO, expected_one_of, shown
from vestal.framing import PREFIX, too_large
from vestal.state import OPENING

__all__ = ["Codec", "encode", "error_frame", "exception_of"]

M = TypeVar("M")
Bytes = bytes | bytearray | memoryview
_NO_VALUE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError)


class _Head(msgspec.Struct):
    """What tells what a message is, and whose; all else is skipped."""

    type: str
    id: msgspec.Raw = msgspec.Raw(b"\xc0")

    @property
    def number(self) -> int | None:
        """The id, if it is one: what stands for it may be long, or broken."""
        try:
            return _id_of(_int_decoder.decode(self.id))
        except _NO_VALUE:
            return None


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_any_decoder = msgspec.msgpack.Decoder()
_head_decoder = msgspec.msgpack.Decoder(_Head)
_int_decoder = msgspec.msgpack.Decoder(int)
# Anchored at the end: what stands before may repeat a text of the peer's.
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")
_IN_CONTAINER = re.compile(r"^(?P<inner>[a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): (?P<rest>.*)$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")


def append_frame(buffer: bytearray, message: msgspec.Struct, limit: int) -> None:
    """Append `message` as one frame to `buffer`; raises `FrameTooLarge` and leaves the buffer as it was."""
    payload = encode(message)
    if len(payload) > limit:
        raise too_large(len(payload), limit)
    buffer += PREFIX.pack(len(payload))
    buffer += payload


class Codec(Generic[M]):
    """Decodes the messages of one socket in one direction at one version.

    With `trusted` bytes, a client's from its daemon, a message may hold any number of values.
    """

    def __init__(self, union: Any, *, trusted: bool = False) -> None:
        self._trusted = trusted
        self._decoder = msgspec.msgpack.Decoder(union)
        self._union = union
        self.members: tuple[type[msgspec.Struct], ...] = getattr(union, "__args__", (union,))
        self.types = tuple(sorted({str(member.__struct_config__.tag) for member in self.members}))

    def decode(self, payload: Bytes) -> M:
        """The message, or one of `MalformedFrame`, `UnknownMessage`, `InvalidRequest`, with the id if it has one."""
        if not self._trusted and has_more_values(payload):
            raise self._too_many(payload)
        try:
            message: M = self._decoder.decode(payload)
            # msgspec takes a struct that stands alone without its tag; the wire does not.
            untyped = len(self.members) == 1 and "type" not in _any_decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise self._explain(payload, exc) from None
        if untyped:
            raise self._untyped()
        return message

    def _explain(self, payload: Bytes, exc: Exception) -> WireError:
        try:
            loose = _any_decoder.decode(payload)
        except _NO_VALUE as broken:
            return MalformedFrame(
                f"payload of {len(payload)} bytes is not one MessagePack value: {_first_line(broken)}",
                hint="each frame holds exactly one MessagePack map",
                details={"size": len(payload)},
            )
        if not isinstance(loose, dict):
            return MalformedFrame(f"payload is a MessagePack {type(loose).__name__}, expected a map with a `type`")
        kind = loose.get("type")
        if not isinstance(kind, str):
            return self._untyped()
        if kind not in self.types:
            return self._unknown(kind, _id_of(loose.get("id")))
        field, what = _field_and_fault(str(exc))
        if what.startswith("invalid "):
            what = expected_one_of(self._union, loose, field) or what[:MAX_ECHO]
        return InvalidRequest(
            f"{kind}.{field}: {what}" if field else f"{kind}: {what}",
            details={"type": kind, "field": field},
            id=_id_of(loose.get("id")) if kind in OPENING else None,
        )

    def _too_many(self, payload: Bytes) -> WireError:
        """Of a message that is not worth decoding: what it is, and whose."""
        try:
            head = _head_decoder.decode(payload)
        except _NO_VALUE:
            return MalformedFrame(
                f"payload of {len(payload)} bytes with more than {MAX_VALUES} values, and no map with a string `type`",
                hint="each frame holds exactly one MessagePack map",
                details={"size": len(payload), "types": self.types},
            )
        if head.type not in self.types:
            return self._unknown(head.type, head.number)
        return InvalidRequest(
            f"{head.type}: more than {MAX_VALUES} values in one message of {len(payload)} bytes",
            hint="ask for less at once",
            details={"type": head.type, "field": "", "values": MAX_VALUES},
            id=head.number if head.type in OPENING else None,
        )

    def _unknown(self, kind: str, id: int | None) -> UnknownMessage:
        return UnknownMessage(
            f"no message of type `{shown(kind)}` is taken here",
            hint=f"this socket takes {', '.join(self.types)}",
            details={"type": kind[:MAX_ECHO], "types": self.types},
            id=id,
        )

    def _untyped(self) -> MalformedFrame:
        return MalformedFrame("the map has no string key `type`", details={"types": self.types})


def _id_of(id: object) -> int | None:
    return id if isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**63 else None


def _field_and_fault(text: str) -> tuple[str, str]:
    """Split msgspec's "<fault> - at `$.path`" and name a missing or inner field by its whole path."""
    at = _PATH.search(text)
    what, path = (text[: at.start()], at["path"]) if at else (text, "")
    if missing := _MISSING.search(what):
        path, what = _join(path, missing["field"]), "required field is missing"
    elif inner := _IN_CONTAINER.match(what):
        path, what = _join(path, inner["inner"]), inner["rest"]
    return path, what[:1].lower() + what[1:]


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _first_line(exc: Exception) -> str:
    return str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__


def error_frame(error: WireError, id: int | None = None) -> m.Error:
    """The wire form of an exception; `id` overrides the one the exception carries."""
    return m.Error(
        id=error.id if id is None else id,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
        hint=error.hint,
        details=error.details or None,
    )


def exception_of(frame: m.Error) -> WireError:
    """The exception of an `error` frame; an unknown code is a plain `WireError` that keeps it."""
    cls = error_for_code(frame.code)
    error = cls(
        frame.message,
        hint=frame.hint,
        details=frame.details,
        retryable=frame.retryable,
        retry_after_ms=frame.retry_after_ms,
        id=frame.id,
    )
    if cls is WireError:
        error.code = frame.code  # type: ignore[misc]  # the class has the default; this one keeps what came
    return error

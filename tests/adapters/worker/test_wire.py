"""Worker messages: round trips, and the bounds both sides hold."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.backend import (
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    PromptEvent,
    TextEvent,
    ToolUseEvent,
)
from vestal.errors import (
    BackendRefused,
    ContextOverflow,
    FrameTooLarge,
    InternalError,
    InvalidRequest,
    SlowConsumer,
    WireError,
)
from vestal.framing import FrameReader
from vestal.values import Capabilities, GenerateOptions, ImageBlock, Message, MessageV2, TextBlock, Usage
from vestal_adapters.worker import wire

OPTIONS = GenerateOptions(max_tokens=3, temperature=0.5, stop=["x"])
HOST: list[wire.HostMessage] = [
    wire.Configure("module:Class", msgspec.Raw(msgspec.msgpack.encode({"model": "m"}))),
    wire.Submit(1, GenerateRequest(messages=[Message("user", "hi")], options=OPTIONS, cache_scope="1000")),
    wire.SubmitV2(2, GenerateRequestV2(messages=[MessageV2("user", [TextBlock("hi"), ImageBlock(0)])])),
    wire.Embed(3, EmbedRequest(input=["a", "b"], dimensions=4)),
    wire.Count(4, CountRequest(messages=[Message("user", "hi")])),
    wire.Cancel(1),
    wire.Ping(7),
    wire.Stop(),
]
CHILD: list[wire.ChildMessage] = [
    wire.Progress(12.5, "reading"),
    wire.Loaded(Capabilities(slots=4, model="m", options=("max_tokens", "stop"))),
    wire.LoadFailed("no", "do"),
    wire.Outputs(
        [
            (1, PromptEvent(3, 1, 0.5)),
            (1, TextEvent("a")),
            (2, ToolUseEvent("1", "f", {"x": [1, None]})),
            (1, EndEvent("end", Usage(3, 1, 1))),
        ]
    ),
    wire.Embedded(3, EmbedResult(count=2, dimensions=1, data=b"\0" * 8, input_tokens=2)),
    wire.Counted(4, 5),
    wire.Failed(1, "internal", "broken", None, {"at": 1}, True, 5),
    wire.Pong(7),
]


def payloads(data: bytes) -> list[bytes]:
    return [bytes(payload) for payload in FrameReader(wire.MAX_FRAME).feed(data)]


@pytest.mark.parametrize("message", HOST, ids=lambda message: type(message).__name__)
def test_every_host_message_comes_back_as_it_was(message: wire.HostMessage) -> None:
    (payload,) = payloads(wire.encode(message))
    assert wire.decode_host(payload) == message


@pytest.mark.parametrize("message", CHILD, ids=lambda message: type(message).__name__)
def test_every_child_message_comes_back_as_it_was(message: wire.ChildMessage) -> None:
    (payload,) = payloads(wire.encode(message))
    assert wire.decode_child(payload) == message


def told(error: WireError) -> wire.Failed:
    message = wire.decode_child(payloads(wire.encode_failure(1, error))[0])
    assert isinstance(message, wire.Failed)
    return message


def test_no_side_takes_the_other_s_messages() -> None:
    for message in HOST:
        with pytest.raises(msgspec.ValidationError):
            wire.decode_child(payloads(wire.encode(message))[0])
    for other in CHILD:
        with pytest.raises(msgspec.ValidationError):
            wire.decode_host(payloads(wire.encode(other))[0])


@pytest.mark.parametrize(
    "message",
    [
        {"type": "progress", "percent": float("nan")},
        {"type": "progress", "percent": 101.0},
        {"type": "progress", "percent": 1.0, "detail": "x" * 5000},
        {"type": "loaded", "capabilities": {"slots": 0}},
        {"type": "loaded", "capabilities": {"slots": 10**9}},
        {"type": "loaded", "capabilities": {"model": "x" * 5000}},
        {"type": "loaded", "capabilities": {"options": ["x"] * 5000}},
        {"type": "loaded", "capabilities": {"embedding_tasks": ["x"] * 5000}},
        {"type": "loaded", "capabilities": {"embedding_tasks": [""] * 5000}},
        {"type": "loaded", "capabilities": {"options": [""] * 5000}},
        {"type": "embedded", "job": 1, "result": {"count": 1, "dimensions": 2, "data": b"", "input_tokens": 0}},
        {"type": "embedded", "job": 1, "result": {"count": -1, "dimensions": -1, "data": b"\0" * 4, "input_tokens": 0}},
        {"type": "embedded", "job": 1, "result": {"count": 0, "dimensions": 1, "data": b"", "input_tokens": 2**60}},
        {"type": "loaded", "capabilities": {}, "confinement": {"layers": ["x" * 5000]}},
        {"type": "loaded", "capabilities": {}, "confinement": {"missing": ["x"] * 5000}},
        {"type": "counted", "job": 1, "tokens": -1},
        {"type": "counted", "job": -1, "tokens": 1},
        {"type": "outputs", "events": [[1, {"type": "text"}]]},
        {"type": "outputs", "events": [[1, {"type": "end", "stop_reason": "tired", "usage": {}}]]},
        {"type": "failed", "job": 1, "code": "internal", "message": "x" * 5000},
    ],
)
def test_what_breaks_a_bound_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        wire.decode_child(msgspec.msgpack.encode(message))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_raise(data: bytes) -> None:
    for decode in (wire.decode_host, wire.decode_child):
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            decode(data)


def test_a_frame_over_the_limit_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME", 100)
    with pytest.raises(FrameTooLarge):
        wire.encode(wire.LoadFailed("x" * 200))
    with pytest.raises(FrameTooLarge):
        list(FrameReader(wire.MAX_FRAME).feed(struct.pack(">I", 101)))


@pytest.mark.parametrize("cls", [InvalidRequest, ContextOverflow, BackendRefused, InternalError])
def test_an_engine_s_error_survives_the_pipe(cls: type[WireError]) -> None:
    error = cls("what", hint="do", details={"tokens": 3}, retryable=True, retry_after_ms=20)
    again = wire.exception_of(told(error))
    assert type(again) is cls
    assert vars(again) == vars(error)


@pytest.mark.parametrize("code", ["slow_consumer", "frame_too_large", "queue_full", "no_such_code"])
def test_codes_that_are_not_an_engine_s_become_internal(code: str) -> None:
    assert type(wire.exception_of(wire.Failed(1, code, "x"))) is InternalError


def test_long_messages_are_cut_where_they_are_sent() -> None:
    failed = told(SlowConsumer("x" * 10_000, hint="y" * 10_000))
    assert len(failed.message) == len(failed.hint or "") == wire.MAX_TEXT


@pytest.mark.parametrize("details", [{"what": object()}, {"list": ["x"] * 100_000}, {"number": 2**70}])
def test_details_that_cannot_be_carried_are_left_out(details: dict[str, Any]) -> None:
    failed = told(InvalidRequest("the rest is said", details=details))
    assert (failed.message, failed.details) == ("the rest is said", {})

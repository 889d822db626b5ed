"""Vectors of single messages: every message, every field, and encodings that are not this codec's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from vectors.admin import admin_messages
from vectors.parts import BACKENDS, LIMITS, NOTHING, TIMINGS, TOOL, USAGE, USER, V2_USER, Json, framed, to_json
from vestal import messages as m
from vestal import values as v
from vestal.framing import PREFIX

__all__ = ["message_vectors"]

PIXEL = v.Attachment(kind="image", media_type="image/png", data=bytes.fromhex("89504e470d0a1a0a"))
PROBABLE = (
    v.TokenLogprob(token=b"Hel", logprob=-0.25, top=(v.TopLogprob(b"Hel", -0.25), v.TopLogprob(b"\xf0\x9f", -1.5))),
)
CLICK = v.Attachment(kind="audio", media_type="audio/wav", data=b"RIFF")


def message_vectors() -> dict[str, list[Json]]:
    """Vectors by the name of their file."""
    return {
        "messages-handshake": _vectors("infer", None, _handshake()),
        "messages-infer-v1": _vectors("infer", 1, _infer_v1()),
        "messages-infer-v2": _vectors("infer", 2, _infer_v2()),
        "messages-embed": _vectors("embed", 1, _embed()),
        "messages-admin": _vectors("admin", 1, [*_every_socket(), *admin_messages()]),
        "messages-foreign": _foreign(),
    }


def _handshake() -> Iterator[tuple[str, str, Any]]:
    yield "hello, smallest", "client", m.Hello(versions=[1])
    yield (
        "hello, every field",
        "client",
        m.Hello(versions=[2, 1], client="editor/1.4", features=["queue_events"], require=["tools"]),
    )
    yield (
        "welcome, no backend in this view",
        "daemon",
        m.Welcome(version=1, server="vestald/0.1.0", session="5e55104e", features=[], limits=LIMITS, backends=[]),
    )
    yield (
        "welcome, two backends",
        "daemon",
        m.Welcome(
            version=2,
            server="vestald/0.1.0",
            session="5e55104e",
            features=["queue_events"],
            limits=LIMITS,
            backends=BACKENDS,
        ),
    )
    yield (
        "error, no common version",
        "daemon",
        m.Error(
            code="version_unsupported",
            message="the client speaks versions [7], this socket [1, 2]",
            retryable=False,
            hint="offer one of this socket's versions; version 2 is there while a backend speaks it",
            details={"versions": [1, 2]},
        ),
    )


def _every_socket() -> Iterator[tuple[str, str, Any]]:
    yield "ping", "client", m.Ping(nonce=7)
    yield "pong", "daemon", m.Pong(nonce=7)
    yield "goaway", "daemon", m.Goaway(reason="the daemon is stopping", deadline_ms=10_000)
    yield "error without an id", "daemon", m.Error(code="internal", message="a bug", retryable=False)


def _infer_both() -> Iterator[tuple[str, str, Any]]:
    yield "cancel", "client", m.Cancel(id=1)
    yield "cancel, largest id", "client", m.Cancel(id=2**63 - 1)
    yield "queued", "daemon", m.Queued(id=1, position=3, depth=5)
    yield "queued, with an estimate", "daemon", m.Queued(id=1, position=1, depth=5, eta_ms=850)
    yield "started", "daemon", m.Started(id=1, backend="chat", model="smollm2-135m")
    yield "counted", "daemon", m.Counted(id=3, input_tokens=31, context_length=2048)
    yield "counted, no limit", "daemon", m.Counted(id=3, input_tokens=31)
    yield (
        "done, streamed",
        "daemon",
        m.Done(id=1, stop_reason="end", usage=USAGE, backend="chat", model="smollm2-135m", timings=TIMINGS),
    )
    yield (
        "error, terminal frame of a request",
        "daemon",
        m.Error(
            id=1,
            code="queue_full",
            message="64 waiting, the limit is 64",
            retryable=True,
            retry_after_ms=1500,
            hint="retry after retry_after_ms",
            details={"depth": 64, "limit": 64},
        ),
    )


def _infer_v1() -> Iterator[tuple[str, str, Any]]:
    yield from _every_socket()
    yield from _infer_both()
    yield "generate, smallest", "client", m.Generate(id=1, messages=[USER])
    yield (
        "generate, every option",
        "client",
        m.Generate(
            id=2**32,
            messages=[v.Message(role="system", content="Be brief."), USER, v.Message(role="assistant", content="Yes?")],
            model="smollm2-135m",
            max_tokens=64,
            temperature=0.7,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            repeat_penalty=1.1,
            presence_penalty=-0.5,
            frequency_penalty=0.5,
            seed=2**32 - 2,
            stop=["\n\n", "END"],
            stream=False,
            grammar='root ::= "yes" | "no"',
            logprobs=3,
            context_policy="truncate",
            priority="interactive",
            queue_timeout_ms=5000,
            timeout_ms=60_000,
            cache="none",
        ),
    )
    yield (
        "generate, answer as JSON",
        "client",
        m.Generate(id=2, messages=[USER], response_format=v.ResponseFormat(schema={"type": "object"})),
    )
    yield (
        "generate, text beyond ASCII",
        "client",
        m.Generate(id=4, messages=[v.Message(role="user", content="Grüße 🔥")]),
    )
    yield "count", "client", m.Count(id=3, messages=[USER], model="smollm2-135m")
    yield "token", "daemon", m.Token(id=1, text="Hel")
    yield "token, empty text", "daemon", m.Token(id=1, text="")
    yield "token with probabilities", "daemon", m.Token(id=1, text="Hel", logprobs=PROBABLE)
    yield (
        "done, not streamed",
        "daemon",
        m.Done(
            id=2,
            stop_reason="length",
            usage=USAGE,
            backend="chat",
            model="smollm2-135m",
            timings=TIMINGS,
            notices=[v.Notice(code="truncated", message="2 of 5 messages were left out")],
            text="Hello",
            logprobs=PROBABLE,
        ),
    )


def _infer_v2() -> Iterator[tuple[str, str, Any]]:
    yield from _every_socket()
    yield from _infer_both()
    yield "generate, smallest", "client", m.GenerateV2(id=1, messages=[V2_USER])
    yield (
        "generate, every v2 field and every block",
        "client",
        m.GenerateV2(
            id=2,
            messages=[
                v.MessageV2(role="system", content=[v.TextBlock(text="Be brief.")]),
                v.MessageV2(
                    role="user",
                    content=[v.TextBlock(text="See and hear"), v.ImageBlock(attachment=0), v.AudioBlock(attachment=1)],
                ),
                v.MessageV2(
                    role="assistant",
                    content=[
                        v.ThinkingBlock(text="I need the weather."),
                        v.ToolUseBlock(call_id="call_1", name="weather", input={"city": "Rome", "days": 2}),
                    ],
                ),
                v.MessageV2(
                    role="user",
                    content=[v.ToolResultBlock(call_id="call_1", content="no such city", is_error=True)],
                ),
            ],
            tools=[TOOL],
            tool_choice="required",
            thinking="low",
            attachments=[PIXEL, CLICK],
            max_tokens=128,
        ),
    )
    yield (
        "generate, one tool forced",
        "client",
        m.GenerateV2(id=3, messages=[V2_USER], tools=[TOOL], tool_choice=v.NamedTool(name="weather")),
    )
    yield "count", "client", m.CountV2(id=4, messages=[V2_USER], model="smollm2-135m", tools=[TOOL])
    yield "text", "daemon", m.Text(id=1, delta="Hel")
    yield "text with probabilities", "daemon", m.Text(id=1, delta="Hel", logprobs=PROBABLE)
    yield "thinking", "daemon", m.ThinkingDelta(id=1, delta="The user greets.")
    yield "tool_use", "daemon", m.ToolUse(id=1, call_id="call_1", name="weather", input={"city": "Rome"})
    yield (
        "done, not streamed",
        "daemon",
        m.Done(
            id=2,
            stop_reason="tool_use",
            usage=USAGE,
            backend="chat",
            model="smollm2-135m",
            timings=TIMINGS,
            content=[
                v.TextBlock(text="Let me see."),
                v.ToolUseBlock(call_id="call_1", name="weather", input={"city": "Rome"}),
            ],
        ),
    )


def _embed() -> Iterator[tuple[str, str, Any]]:
    yield from _every_socket()
    yield "cancel", "client", m.Cancel(id=1)
    yield "embed, smallest", "client", m.Embed(id=1, input=["A man is eating food."])
    yield (
        "embed, every field",
        "client",
        m.Embed(id=2, input=["a", ""], model="minilm-l6-v2", dimensions=2, task="search_query", normalize=False),
    )
    yield (
        "embeddings",
        "daemon",
        m.Embeddings(
            id=2,
            count=2,
            dimensions=2,
            dtype="f32le",
            data=bytes.fromhex("0000803f000000000000003f000080bf"),
            usage=v.Usage(input_tokens=4),
            model="minilm-l6-v2",
            backend="vectors",
        ),
    )
    yield (
        "embeddings, made by two backends, one of which took over from a third",
        "daemon",
        m.Embeddings(
            id=2,
            count=2,
            dimensions=1,
            dtype="f32le",
            data=bytes.fromhex("0000803f000080bf"),
            usage=v.Usage(input_tokens=4),
            model="minilm-l6-v2",
            backend="vectors",
            parts=[m.EmbedPart(backend="vectors", count=1), m.EmbedPart(backend="more-vectors", count=1)],
            notices=[v.Notice(code="retried", message="1 text again on more-vectors: worse-vectors: backend_crashed")],
        ),
    )
    yield (
        "done, cancelled",
        "daemon",
        m.Done(id=1, stop_reason="cancelled", usage=NOTHING, backend="vectors", model="minilm-l6-v2", timings=TIMINGS),
    )
    yield (
        "error, terminal frame of a request",
        "daemon",
        m.Error(
            id=1,
            code="model_not_found",
            message="no backend serves model `bge`",
            retryable=False,
            details={"model": "bge", "models": ["minilm-l6-v2"]},
        ),
    )


def _vectors(socket: str, version: int | None, made: Iterable[tuple[str, str, Any]]) -> list[Json]:
    vectors = []
    for name, direction, message in made:
        data = framed(msgspec.msgpack.encode(message))
        loose = to_json(msgspec.msgpack.decode(data[PREFIX.size :]))
        vectors.append(_vector(name, socket, version, direction, loose, data, encodes=True))
    return vectors


def _vector(
    name: str, socket: str, version: int | None, direction: str, message: Json, data: bytes, *, encodes: bool
) -> Json:
    return {
        "name": name,
        "socket": socket,
        "version": version,
        "direction": direction,
        "encodes": encodes,
        "message": message,
        "bytes": data.hex(),
    }


def _foreign() -> list[Json]:
    """Other encodings of the same messages: legal to send, and read all the same."""

    def made(name: str, socket: str, version: int | None, direction: str, message: Json, payload: str) -> Json:
        return _vector(name, socket, version, direction, message, framed(bytes.fromhex(payload)), encodes=False)

    ping = {"type": "ping", "nonce": 7}
    return [
        made("keys in another order", "infer", 1, "client", ping, "82a56e6f6e636507a474797065a470696e67"),
        made("int as uint64", "infer", 1, "client", ping, "82a474797065a470696e67a56e6f6e6365cf0000000000000007"),
        made("int as int16", "infer", 1, "client", ping, "82a474797065a470696e67a56e6f6e6365d10007"),
        made("map32, str8 keys", "embed", 1, "client", ping, "df00000002d90474797065d90470696e67d9056e6f6e636507"),
        made("unknown key", "admin", 1, "client", ping, "83a474797065a470696e67a56e6f6e636507a56c61746572c3"),
        made(
            "unknown key that holds an extension",
            "infer",
            1,
            "client",
            ping,
            "83a474797065a470696e67a56e6f6e636507a56c61746572d40500",
        ),
        made(
            "float32, and an int where a float is meant",
            "infer",
            1,
            "client",
            {
                "type": "generate",
                "id": 1,
                "messages": [{"role": "user", "content": "Hi"}],
                "temperature": 0.5,
                "top_p": 1,
            },
            "85a474797065a867656e6572617465a2696401a86d6573736167657391"
            "82a4726f6c65a475736572a7636f6e74656e74a24869"
            "ab74656d7065726174757265ca3f000000a5746f705f7001",
        ),
        made(
            "options at their defaults, spelled out",
            "infer",
            1,
            "client",
            {
                "type": "generate",
                "id": 1,
                "messages": [{"role": "user", "content": "Hi"}],
                "stream": True,
                "model": None,
                "stop": [],
            },
            "86a474797065a867656e6572617465a2696401a86d6573736167657391"
            "82a4726f6c65a475736572a7636f6e74656e74a24869"
            "a673747265616dc3a56d6f64656cc0a473746f7090",
        ),
        made(
            "token with an unknown key",
            "infer",
            1,
            "daemon",
            {"type": "token", "id": 1, "text": "Hi"},
            "84a474797065a5746f6b656ea2696401a474657874a24869a5786c6f676dcb3fe0000000000000",
        ),
    ]

"""Vectors of what each side must not send, and what the other makes of it."""

from __future__ import annotations

from typing import Any

import msgspec

from vectors.parts import LIMITS, TIMINGS, USAGE, USER, V2_USER, Json, framed, to_json
from vestal import messages as m
from vestal.framing import HANDSHAKE_FRAME_LIMIT, MAX_FRAME_LIMIT, PREFIX

__all__ = ["error_vectors", "violation_vectors"]

_GENERATE: Json = {"type": "generate", "id": 1, "messages": [{"role": "user", "content": "Hi"}]}


def _v2(blocks: list[Any], role: str = "user", **fields: Any) -> Json:
    return {"type": "generate", "id": 1, "messages": [{"role": role, "content": blocks}], **fields}


_TEXT: Json = {"type": "text", "text": "Hi"}


def error_vectors() -> list[Json]:
    """Bytes a client should not send, and what the daemon answers."""
    vectors: list[Json] = []

    def add(
        name: str,
        where: str,
        sent: Any,
        code: str,
        *,
        field: str | None = None,
        id: int | None = None,
        closes: bool = False,
        accepted: tuple[str, ...] = (),
        eof: bool = False,
    ) -> None:
        parts = sent if isinstance(sent, list) else [sent]
        runs = [part if isinstance(part, tuple) else (_bytes_of(part), 1) for part in parts]
        socket, _, version = where.partition(" v")
        vectors.append(
            {
                "name": name,
                "socket": socket,
                "version": int(version) if version else None,
                "bytes": [[data.hex(), times] for data, times in runs],
                "eof": eof,
                "accepted": list(accepted),
                "error": {"code": code, "field": field, "id": id},
                "closes": closes,
            }
        )

    _framing_errors(add)
    _handshake_errors(add)
    _request_errors(add)
    _v2_errors(add)
    _other_socket_errors(add)
    return vectors


def _bytes_of(part: Any) -> bytes:
    return part if isinstance(part, bytes) else framed(part)


def _framing_errors(add: Any) -> None:
    over, most = PREFIX.pack(HANDSHAKE_FRAME_LIMIT + 1), PREFIX.pack(MAX_FRAME_LIMIT + 1)
    add("prefix over 64 KiB before the welcome", "infer", over, "frame_too_large", closes=True)
    add("prefix over 64 MiB", "infer v1", most, "frame_too_large", closes=True)
    add("all ones for a prefix", "embed v1", b"\xff" * 4, "frame_too_large", closes=True)
    add("HTTP instead of a frame", "infer", b"GET / HTTP/1.1\r\n\r\n", "frame_too_large", closes=True)
    add("end inside the prefix", "infer", b"\x00\x00", "malformed_frame", closes=True, eof=True)
    add("end inside the payload", "infer v1", framed(_GENERATE)[:-1], "malformed_frame", closes=True, eof=True)
    for where in ("infer", "infer v1", "infer v2", "embed v1", "admin v1"):
        add(f"empty payload ({where})", where, framed(b""), "malformed_frame", closes=True)
    add("a byte that MessagePack never uses", "infer v1", framed(b"\xc1"), "malformed_frame", closes=True)
    whole = msgspec.msgpack.encode(_GENERATE)
    add("trailing byte inside the frame", "infer v1", framed(whole + b"\xc0"), "malformed_frame", closes=True)
    add("value cut short inside the frame", "infer v1", framed(whole[:-1]), "malformed_frame", closes=True)
    add("two maps in one frame", "infer v1", framed(whole + whole), "malformed_frame", closes=True)
    add("an array, not a map", "infer v1", framed(["generate", 1]), "malformed_frame", closes=True)
    add("an integer, not a map", "infer v1", framed(b"\x05"), "malformed_frame", closes=True)
    add(
        "JSON instead of MessagePack",
        "infer v1",
        framed(b'{"type":"ping"}'),
        "malformed_frame",
        closes=True,
    )
    add("a map without `type`", "infer v1", {"id": 1}, "malformed_frame", closes=True)
    add("a `type` that is no string", "infer v1", {"type": 3, "id": 1}, "malformed_frame", closes=True)
    add("a `type` that is bin", "infer v1", {"type": b"ping", "nonce": 1}, "malformed_frame", closes=True)
    add("keys that are no strings", "infer v1", {1: 2}, "malformed_frame", closes=True)
    bad_text = whole[:-2] + b"\xff\xfe"
    add("invalid UTF-8 in a str", "infer v1", framed(bad_text), "malformed_frame", closes=True)
    depth = 200_000
    head = b"\x83\xa4type\xa4ping\xa5nonce\x07\xa5later"
    size = PREFIX.pack(len(head) + depth + 1)
    nested = [size + head, (b"\x91", depth), b"\xc0"]
    add("nested 200000 deep under an unknown key", "infer v1", nested, "malformed_frame", closes=True)


def _handshake_errors(add: Any) -> None:
    hello = {"type": "hello", "versions": [1]}
    add("generate before the hello", "infer", _GENERATE, "unknown_message", id=1)
    add("ping before the hello", "admin", {"type": "ping", "nonce": 1}, "unknown_message")
    add("a second hello", "infer v1", hello, "unknown_message")
    add("a hello without `type`", "infer", {"versions": [1]}, "malformed_frame", closes=True)
    add("a hello without versions", "infer", {"type": "hello"}, "invalid_request", field="versions")
    add("no versions at all", "infer", {"type": "hello", "versions": []}, "invalid_request", field="versions")
    add(
        "a version as text",
        "infer",
        {"type": "hello", "versions": ["1"]},
        "invalid_request",
        field="versions[0]",
    )
    add("17 versions", "infer", {"type": "hello", "versions": list(range(17))}, "invalid_request", field="versions")
    add("a client name of 129 characters", "infer", {**hello, "client": "x" * 129}, "invalid_request", field="client")
    add("no common version", "infer", {"type": "hello", "versions": [3, 7]}, "version_unsupported", closes=True)
    add("no common version (admin)", "admin", {"type": "hello", "versions": [0]}, "version_unsupported", closes=True)
    add("a capability no backend has", "infer", {**hello, "require": ["vision"]}, "capability_missing", closes=True)
    add(
        "capabilities no single backend has",
        "infer",
        {**hello, "require": ["tools", "embed"]},
        "capability_missing",
        closes=True,
    )
    add("a capability nobody knows", "embed", {**hello, "require": ["telepathy"]}, "capability_missing", closes=True)


def _request_errors(add: Any) -> None:
    def bad(name: str, field: str, answered: int | None = 1, **fields: Any) -> None:
        add(name, "infer v1", {**_GENERATE, **fields}, "invalid_request", field=field, id=answered)

    add("an unknown type", "infer v1", {"type": "summon", "id": 5}, "unknown_message", id=5)
    add("an unknown type with an id in flight", "infer v1", [_GENERATE, {"type": "summon", "id": 1}],
        "unknown_message", accepted=("generate",))  # fmt: skip
    add("a daemon's message", "infer v1", {"type": "token", "id": 5, "text": "x"}, "unknown_message", id=5)
    add("an id in flight, again", "infer v1", [_GENERATE, _GENERATE], "duplicate_id", accepted=("generate",))
    add("an id in flight, again for a count", "infer v1", [_GENERATE, {**_GENERATE, "type": "count"}],
        "duplicate_id", accepted=("generate",))  # fmt: skip
    add("a bad request with an id in flight", "infer v1", [_GENERATE, {**_GENERATE, "messages": []}],
        "invalid_request", field="messages", accepted=("generate",))  # fmt: skip
    add("no id", "infer v1", {"type": "generate", "messages": _GENERATE["messages"]}, "invalid_request", field="id")
    bad("a negative id", "id", None, id=-1)
    bad("an id of 2^63", "id", None, id=2**63)
    bad("an id that is a string", "id", None, id="1")
    bad("an id that is a float", "id", None, id=1.0)
    bad("an id that is a bool", "id", None, id=True)
    add("no messages", "infer v1", {"type": "generate", "id": 1}, "invalid_request", field="messages", id=1)
    bad("empty messages", "messages", messages=[])
    bad("messages that is a map", "messages", messages={})
    bad("a message that is a string", "messages[0]", messages=["Hi"])
    bad("a role that is none", "messages[0].role", messages=[{"role": "robot", "content": "Hi"}])
    bad("a message without content", "messages[0].content", messages=[{"role": "user"}])
    bad("content that is bin", "messages[0].content", messages=[{"role": "user", "content": b"Hi"}])
    bad("v2 content on version 1", "messages[0].content", messages=[{"role": "user", "content": [_TEXT]}])
    bad("negative max_tokens", "max_tokens", max_tokens=-1)
    bad("max_tokens of 0", "max_tokens", max_tokens=0)
    bad("max_tokens that is a float", "max_tokens", max_tokens=64.5)
    bad("NaN temperature", "temperature", temperature=float("nan"))
    bad("NaN presence_penalty", "presence_penalty", presence_penalty=float("nan"))
    bad("infinite repeat_penalty", "repeat_penalty", repeat_penalty=float("inf"))
    bad("temperature of 5.5", "temperature", temperature=5.5)
    bad("top_p of 0", "top_p", top_p=0)
    bad("temperature as text", "temperature", temperature="0.7")
    bad("seed of 2^32-1", "seed", seed=2**32 - 1)
    bad("stop that is a string", "stop", stop="END")
    bad("an empty stop string", "stop[1]", stop=["END", ""])
    bad("17 stop strings", "stop", stop=[str(number) for number in range(17)])
    bad("stream that is an integer", "stream", stream=1)
    bad("an empty model name", "model", model="")
    bad("a context policy that is none", "context_policy", context_policy="shrug")
    bad("a priority that is none", "priority", priority="urgent")
    bad("timeout_ms of 0", "timeout_ms", timeout_ms=0)
    bad("an empty grammar", "grammar", grammar="")
    umlaut, times = "ü".encode(), 32769
    head, tail = framed({**_GENERATE, "grammar": "ü" * times}).split(umlaut * times)
    add("a grammar of 65538 bytes", "infer v1", [head, (umlaut, times), tail], "invalid_request", field="grammar", id=1)
    bad("a response format that is none", "response_format.type", response_format={"type": "xml", "schema": {}})
    bad("a response format without a schema", "response_format.schema", response_format={"type": "json_schema"})
    bad(
        "a schema that holds bin",
        "response_format.schema",
        response_format={"type": "json_schema", "schema": {"a": b""}},
    )
    bad("a grammar and a response format", "response_format", grammar='root ::= "a"',
        response_format={"type": "json_schema", "schema": {}})  # fmt: skip
    add("a ping without a nonce", "infer v1", {"type": "ping", "id": 1}, "invalid_request", field="nonce")
    add("a cancel without an id", "infer v1", {"type": "cancel"}, "invalid_request", field="id")


def _v2_errors(add: Any) -> None:
    def bad(name: str, field: str, blocks: list[Any], role: str = "user", **fields: Any) -> None:
        add(name, "infer v2", _v2(blocks, role, **fields), "invalid_request", field=field, id=1)

    content, block, pointer = "messages[0].content", "messages[0].content[0]", "messages[0].content[0].attachment"
    picture = {"kind": "image", "media_type": "image/png", "data": b"\x89PNG"}
    tool = {"name": "weather", "input_schema": {}}
    nested: Any = {}
    for _ in range(64):
        nested = {"a": nested}
    add("v1 content on version 2", "infer v2", _GENERATE, "invalid_request", field=content, id=1)
    bad("empty content", content, [])
    bad("a block type that is none", f"{block}.type", [{"type": "video", "attachment": 0}])
    bad("a block without a type", f"{block}.type", [{"text": "Hi"}])
    bad("a text block without text", f"{block}.text", [{"type": "text"}])
    bad("a user message that thinks", block, [{"type": "thinking", "text": "Hm"}])
    bad("a system message with an image", block, [{"type": "image", "attachment": 0}], "system", attachments=[picture])
    bad("an image without attachments", pointer, [{"type": "image", "attachment": 0}])
    bad(
        "an image beyond the attachments",
        pointer,
        [{"type": "image", "attachment": 1}],
        attachments=[picture],
    )
    bad(
        "an audio block that names an image",
        pointer,
        [{"type": "audio", "attachment": 0}],
        attachments=[picture],
    )
    bad("attachment 32", pointer, [{"type": "image", "attachment": 32}])
    bad("an attachment as base64 text", "attachments[0].data", [_TEXT], attachments=[{**picture, "data": "iVBORw=="}])
    bad("an attachment kind that is none", "attachments[0].kind", [_TEXT], attachments=[{**picture, "kind": "video"}])
    bad("33 attachments", "attachments", [_TEXT], attachments=[picture] * 33)
    bad("a tool name with a space", "tools[0].name", [_TEXT], tools=[{**tool, "name": "the weather"}])
    bad("a tool without a schema", "tools[0].input_schema", [_TEXT], tools=[{"name": "weather"}])
    bad("a tool schema that holds bin", "tools[0].input_schema", [_TEXT], tools=[{**tool, "input_schema": {"a": b""}}])
    bad("a tool schema 65 levels deep", "tools[0].input_schema", [_TEXT], tools=[{**tool, "input_schema": nested}])
    bad("two tools of one name", "tools", [_TEXT], tools=[tool, tool])
    bad("a tool_choice that is none", "tool_choice", [_TEXT], tools=[tool], tool_choice="perhaps")
    bad("a tool_choice that is an integer", "tool_choice", [_TEXT], tools=[tool], tool_choice=1)
    bad("a tool_choice without a name", "tool_choice.name", [_TEXT], tools=[tool], tool_choice={})
    bad("a tool_choice nobody offers", "tool_choice", [_TEXT], tools=[tool], tool_choice={"name": "stocks"})
    bad("tool_choice required without tools", "tool_choice", [_TEXT], tool_choice="required")
    bad("a thinking level that is none", "thinking", [_TEXT], thinking="hard")
    bad(
        "a tool_use block whose input is a string",
        f"{block}.input",
        [{"type": "tool_use", "call_id": "1", "name": "weather", "input": "{}"}],
        "assistant",
    )


def _other_socket_errors(add: Any) -> None:
    add("generate on embed", "embed v1", _GENERATE, "unknown_message", id=1)
    add("no input", "embed v1", {"type": "embed", "id": 1}, "invalid_request", field="input", id=1)
    add("empty input", "embed v2", {"type": "embed", "id": 1, "input": []}, "invalid_request", field="input", id=1)
    add(
        "input that is one string",
        "embed v1",
        {"type": "embed", "id": 1, "input": "a"},
        "invalid_request",
        field="input",
        id=1,
    )
    add("an input that is no string", "embed v1", {"type": "embed", "id": 1, "input": ["a", 2]},
        "invalid_request", field="input[1]", id=1)  # fmt: skip
    add("0 dimensions", "embed v1", {"type": "embed", "id": 1, "input": ["a"], "dimensions": 0},
        "invalid_request", field="dimensions", id=1)  # fmt: skip
    add("an embed id in flight, again", "embed v1", [{"type": "embed", "id": 1, "input": ["a"]}] * 2,
        "duplicate_id", accepted=("embed",))  # fmt: skip
    add("embed on admin", "admin v1", {"type": "embed", "id": 1, "input": ["a"]}, "unknown_message", id=1)
    add("a status without an id", "admin v1", {"type": "status"}, "invalid_request", field="id")
    add("a negative stop deadline", "admin v2", {"type": "stop", "id": 1, "deadline_ms": -1},
        "invalid_request", field="deadline_ms", id=1)  # fmt: skip
    add("restart of a backend without a name", "admin v1", {"type": "restart_backend", "id": 1, "backend": ""},
        "invalid_request", field="backend", id=1)  # fmt: skip
    add("a route to explain on another socket", "admin v1", {"type": "explain_route", "id": 1, "socket": "admin"},
        "invalid_request", field="socket", id=1)  # fmt: skip
    add("a removal with a negative deadline", "admin v1",
        {"type": "remove_backend", "id": 1, "backend": "chat", "deadline_ms": -1},
        "invalid_request", field="deadline_ms", id=1)  # fmt: skip
    add("a second subscribe with the id in flight", "admin v1", [{"type": "subscribe", "id": 1}] * 2,
        "duplicate_id", accepted=("subscribe",))  # fmt: skip


# --- what a client must not accept ----------------------------------------------------------------------------


def violation_vectors() -> list[Json]:
    """Bytes a daemon must never send. A client that gets them gives the connection up."""
    hello = {"versions": [1], "features": []}
    welcome = _welcome(1, [])
    request = m.Generate(id=1, messages=[USER])
    token = m.Token(id=1, text="Hi")
    done = m.Done(id=1, stop_reason="end", usage=USAGE, backend="chat", model="smollm2-135m", timings=TIMINGS)
    error = m.Error(id=1, code="internal", message="a bug", retryable=False)
    queued = m.Queued(id=1, position=1, depth=1)
    started, text = m.Started(id=1, backend="chat", model="m"), m.Text(id=1, delta="Hi")
    both = {"versions": [2, 1], "features": ["queue_events"]}
    full = _welcome(2, ["queue_events"])
    v2 = m.GenerateV2(id=1, messages=[V2_USER])
    counted = m.Counted(id=1, input_tokens=3)
    cases: list[tuple[str, Json, list[Any], list[Any], Any]] = [
        ("a welcome of a version that was not offered", hello, [], [], _welcome(2, [])),
        ("a welcome with a feature that was not offered", hello, [], [], full),
        ("a token before the welcome", hello, [], [], token),
        ("a frame over 64 KiB before the welcome", hello, [], [], PREFIX.pack(HANDSHAKE_FRAME_LIMIT + 1)),
        ("a second welcome", hello, [], [welcome], welcome),
        ("a frame over 64 MiB", hello, [], [welcome], PREFIX.pack(MAX_FRAME_LIMIT + 1)),
        ("bytes that are no MessagePack", hello, [], [welcome], framed(b"\xc1")),
        ("a type that the version does not have", hello, [], [welcome], {"type": "later", "id": 1}),
        ("a token without a text", hello, [request], [welcome], {"type": "token", "id": 1}),
        ("a token for an id that was never sent", hello, [], [welcome], token),
        ("a token after done", hello, [request], [welcome, token, done], token),
        ("done twice", hello, [request], [welcome, done], done),
        ("an answer to another kind of request", hello, [request], [welcome], counted),
        ("queued without the feature", hello, [request], [welcome], queued),
        ("a v2 frame on version 1", hello, [request], [welcome], m.Text(id=1, delta="Hi")),
        ("a v1 frame on version 2", both, [v2], [full], token),
        ("queued after text", both, [v2], [full, queued, started, text], queued),
        ("started after text", both, [v2], [full, queued, started, queued, started, text], started),
        ("text while queued", both, [v2], [full, queued], text),
        ("text while queued again", both, [v2], [full, queued, started, queued], text),
        ("done after error", hello, [request], [welcome, error], done),
    ]
    return [
        {
            "name": name,
            "socket": "infer",
            "hello": said,
            "requests": [to_json(msgspec.to_builtins(message)) for message in requests],
            "legal": [_bytes_of_message(message).hex() for message in legal],
            "illegal": _bytes_of_message(illegal).hex(),
        }
        for name, said, requests, legal, illegal in cases
    ]


def _welcome(version: int, features: list[str]) -> m.Welcome:
    return m.Welcome(
        version=version, server="vestald/0.1.0", session="5e55104e", features=features, limits=LIMITS, backends=[]
    )


def _bytes_of_message(message: Any) -> bytes:
    return message if isinstance(message, bytes) else framed(message)

"""A small server with Anthropic's API, as strict as the real one: an echo that thinks, calls tools and counts."""

from __future__ import annotations

import json
from typing import Any

from tests.adapters.remote.echoing import echoed
from tests.adapters.remote.web import Asked, sse

__all__ = ["CONTEXT", "ENTRY", "SIGNATURE", "begin", "block", "delta", "finish", "message_like", "serve", "stop"]

CONTEXT = 64  # words
SIGNATURE = "c2lnbmVk"
_YES, _NO = {"supported": True}, {"supported": False}
ENTRY: dict[str, Any] = {
    "type": "model",
    "id": "small",
    "max_input_tokens": CONTEXT,
    "max_tokens": 40_000,
    "capabilities": {
        "image_input": _YES,
        "structured_outputs": _YES,
        "thinking": {"supported": True, "types": {"enabled": _YES, "adaptive": _NO}},
        "effort": {"supported": False, "low": _NO, "medium": _NO, "high": _NO, "max": _NO},
    },
}
_TAKEN = {
    "model", "messages", "system", "max_tokens", "stream", "stop_sequences", "temperature", "top_p", "top_k", "tools",
    "tool_choice", "thinking", "output_config",
}  # fmt: skip


# --- events of a message --------------------------------------------------------------------------------------


def begin(tokens: int = 7, **usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"usage": {"input_tokens": tokens, "output_tokens": 1} | usage}}


def block(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind} | fields}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finish(reason: str | None = "end_turn", tokens: int = 2) -> list[dict[str, Any]]:
    """The reason and the count, and the end."""
    told = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": tokens}}
    return [told, {"type": "message_stop"}]


# --- the server -----------------------------------------------------------------------------------------------


async def serve(asked: Asked) -> None:
    """Every path that a backend asks for."""
    if asked.headers.get("anthropic-version") != "2023-06-01":
        await _refuse(asked, "anthropic-version: header is required")
    elif asked.path == "/v1/models/small":
        await asked.reply(ENTRY)
    elif asked.path == "/v1/messages/count_tokens":
        await asked.reply({"input_tokens": _size(asked.json)})
    elif asked.path == "/v1/messages":
        await _answer(asked, asked.json)
    else:
        await asked.reply({"type": "error", "error": {"type": "not_found_error", "message": asked.path}}, 404)


def message_like(answer: Any) -> Any:
    """`serve`, but `answer` answers messages."""

    async def like(asked: Asked) -> None:
        await (answer if asked.path == "/v1/messages" else serve)(asked)

    return like


async def _answer(asked: Asked, body: dict[str, Any]) -> None:
    if (wrong := _wrong(body)) is not None:
        await _refuse(asked, wrong)
        return
    if (size := _size(body)) > CONTEXT:
        await _refuse(asked, f"prompt is too long: {size} tokens > {CONTEXT} maximum")
        return
    await asked.stream(sse(begin(size), {"type": "ping"}))
    await asked.one_by_one(sse(event) for event in _said(body))


async def _refuse(asked: Asked, message: str) -> None:
    await asked.reply({"type": "error", "error": {"type": "invalid_request_error", "message": message}}, 400)


def _wrong(body: dict[str, Any]) -> str | None:
    """What the real one refuses."""
    if "max_tokens" not in body or not body["messages"]:
        return "max_tokens, messages: Field required"
    if extra := set(body) - _TAKEN:
        return f"{sorted(extra)}: Extra inputs are not permitted"
    for number, turn in enumerate(body["messages"]):
        if turn["role"] not in ("user", "assistant"):
            return f"messages.{number}.role: use the top-level `system` parameter"
        for piece in turn["content"]:
            if piece["type"] == "text" and not piece["text"]:
                return "text content blocks must be non-empty"
            if piece["type"] == "thinking" and piece["signature"] != SIGNATURE:
                return "Invalid `signature` in `thinking` block"
    if (body.get("thinking") or {}).get("budget_tokens", 0) >= body["max_tokens"]:
        return "max_tokens must be greater than thinking.budget_tokens"
    return None


def _said(body: dict[str, Any]) -> list[dict[str, Any]]:
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        call = block(0, "tool_use", id="toolu_1", name=body["tools"][0]["name"], input={})
        halves = [delta(0, partial_json=half) for half in ("", '{"on":', " true}")]
        return [call, *halves, stop(0), *finish("tool_use", 3)]
    thought: list[dict[str, Any]] = []
    if (body.get("thinking") or {"type": "disabled"})["type"] != "disabled":
        signed = delta(0, type="signature_delta", signature=SIGNATURE)
        thought = [block(0, "thinking", thinking=""), delta(0, thinking="hm"), delta(0, thinking="m"), signed, stop(0)]
    if "format" in body.get("output_config", {}):
        words, reason = [json.dumps({"ok": True})], "end"
    else:
        words, reason = echoed(_text(body["messages"][-1:]), body.get("stop_sequences"), body["max_tokens"])
    told = {"end": "end_turn", "stop": "stop_sequence", "length": "max_tokens"}[reason]
    at = 1 if thought else 0
    text = [block(at, "text", text=""), *(delta(at, text=word) for word in words), stop(at)]
    return [*thought, *text, *finish(told, len(words) + len(thought))]


def _size(body: dict[str, Any]) -> int:
    return len(_text(body["messages"]).split()) + len(str(body.get("tools", "")).split())


def _text(turns: list[dict[str, Any]]) -> str:
    return "".join(piece.get("text", "") for turn in turns for piece in turn["content"])

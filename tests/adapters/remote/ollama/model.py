"""A small server with Ollama's own API: an echo with a context that it is told, and that cuts prompts if it may."""

from __future__ import annotations

import json
from typing import Any

from tests.adapters.remote.echoing import echoed
from tests.adapters.remote.web import Asked

__all__ = ["CONTEXT", "SHOWN", "VECTORS", "chat_like", "done", "line", "lines", "serve", "stream"]

CONTEXT = 64  # words
SHOWN: dict[str, Any] = {
    "parameters": f'stop "<|im_end|>"\nnum_ctx                        {CONTEXT}',
    "details": {"family": "qwen3"},
    "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
    "capabilities": ["completion", "tools", "thinking", "vision"],
}
VECTORS: dict[str, Any] = {
    "model_info": {"general.architecture": "bert", "bert.context_length": 512},
    "capabilities": ["embedding"],
}
_KIND = "application/x-ndjson"


def line(content: str = "", **fields: Any) -> dict[str, Any]:
    return {"model": "small:latest", "message": {"role": "assistant", "content": content} | fields, "done": False}


def done(reason: str | None = "stop", prompt: int | None = 7, output: int | None = 2) -> dict[str, Any]:
    counts = {"prompt_eval_count": prompt, "eval_count": output, "done_reason": reason}
    return line() | {"done": True} | {name: count for name, count in counts.items() if count is not None}


def lines(*said: object) -> bytes:
    return "".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in said).encode()


async def serve(
    asked: Asked, *, shown: dict[str, Any] = SHOWN, version: str = "0.12.6", names: tuple[str, ...] = ("small:latest",)
) -> None:
    """Every path that a backend asks for."""
    if asked.path == "/api/version":
        await asked.reply({"version": version})
    elif asked.path == "/api/tags":
        await asked.reply({"models": [{"name": name, "size": 1} for name in names]})
    elif asked.path == "/api/show":
        await asked.reply(shown)
    elif asked.path == "/api/embed":
        await _embed(asked, asked.json)
    elif asked.path == "/api/chat" and not asked.json["messages"]:
        await asked.reply(line() | {"done": True, "done_reason": "load"})
    elif asked.path == "/api/chat":
        await _chat(asked, asked.json)
    else:
        await asked.reply(b"404 page not found", 404, "text/plain")


def chat_like(answer: Any, **how: Any) -> Any:
    """`serve`, but `answer` answers chats, unless it is `None`."""

    async def like(asked: Asked) -> None:
        if answer is not None and asked.path == "/api/chat" and asked.json["messages"]:
            await answer(asked)
        else:
            await serve(asked, **how)

    return like


async def stream(asked: Asked, *said: object) -> None:
    """A whole answer."""
    await asked.stream(lines(*said), kind=_KIND)
    await asked.end_stream()


async def _embed(asked: Asked, body: dict[str, Any]) -> None:
    assert body["truncate"] is False
    if any(len(text.split()) > body["options"]["num_ctx"] for text in body["input"]):
        await asked.reply({"error": "the input length exceeds the context length"}, 400)
        return
    rows = [[float(len(text)), 3.0] for text in body["input"]]
    await asked.reply({"model": body["model"], "embeddings": rows, "prompt_eval_count": 5})


async def _chat(asked: Asked, body: dict[str, Any]) -> None:
    words = " ".join(turn["content"] for turn in body["messages"]).split()
    if len(words) > body["options"]["num_ctx"] and not body.get("truncate", True):
        await asked.reply({"error": "the input length exceeds the context length"}, 400)
        return
    prompt = min(len(words), body["options"]["num_ctx"])
    pieces, reason = _said(body)
    await asked.stream(kind=_KIND)
    await asked.one_by_one(lines(piece) for piece in [*pieces, done(reason, prompt, len(pieces))])


def _said(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    thought = [line(thinking="hmm")] if body.get("think") else []
    if "format" in body:
        return [*thought, line(json.dumps({"ok": True}))], "stop"
    options = body["options"]
    words, reason = echoed(body["messages"][-1]["content"], options.get("stop"), options.get("num_predict"))
    return [*thought, *map(line, words)], "length" if reason == "length" else "stop"

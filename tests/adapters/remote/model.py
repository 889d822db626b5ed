"""A small server with OpenAI's API that does what it is asked: an echo with limits, stop strings, schemas, tools."""

from __future__ import annotations

import json
from typing import Any

from tests.adapters.remote.echoing import echoed
from tests.adapters.remote.web import Asked, chunk, done, sse

__all__ = ["CONTEXT", "serve"]

CONTEXT = 64  # words
_LISTED = {"data": [{"id": "small", "max_model_len": CONTEXT}]}


async def serve(asked: Asked) -> None:
    """Every path that a backend asks for."""
    if asked.path == "/health":
        await asked.reply(b"")
    elif asked.path == "/v1/models":
        await asked.reply(_LISTED)
    elif asked.path == "/v1/embeddings":
        await asked.reply(_vectors(asked.json))
    elif asked.path == "/v1/chat/completions":
        await _chat(asked, asked.json)
    else:
        await asked.reply({"error": {"message": "Not Found"}}, 404)


async def _chat(asked: Asked, body: dict[str, Any]) -> None:
    prompt = len(str(body["messages"]).split())
    if prompt > CONTEXT:
        message = f"This model's maximum context length is {CONTEXT} tokens, you asked for {prompt}"
        await asked.reply({"error": {"message": message, "code": "context_length_exceeded"}}, 400)
        return
    pieces, finish = _said(body)
    await asked.stream(sse(chunk(role="assistant")))
    end = [chunk(finish=finish), *done(prompt, len(pieces))]
    await asked.one_by_one(sse(piece) for piece in [*pieces, *end])


def _said(body: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    if body.get("tools") and body["tool_choice"] == "required":
        call = {"name": body["tools"][0]["function"]["name"], "arguments": ""}
        halves = ['{"on":', " true}"]
        first = chunk(tool_calls=[{"index": 0, "id": "c1", "function": call}])
        rest = [chunk(tool_calls=[{"index": 0, "function": {"arguments": half}}]) for half in halves]
        return [first, *rest], "tool_calls"
    if "response_format" in body:
        return [chunk(json.dumps({"ok": True}))], "stop"
    limit = body.get("max_tokens", body.get("max_completion_tokens"))
    words, reason = echoed(_last(body), body.get("stop"), limit)
    pieces = [chunk(word) for word in words]
    if "logprobs" in body:
        for word, piece in zip(words, pieces, strict=True):
            piece["choices"][0]["logprobs"] = {"content": [{"token": word, "logprob": -0.5, "top_logprobs": []}]}
    return pieces, "length" if reason == "length" else "stop"


def _last(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _vectors(body: dict[str, Any]) -> dict[str, Any]:
    rows = [{"index": index, "embedding": [float(len(text)), 3.0]} for index, text in enumerate(body["input"])]
    return {"data": rows[::-1], "usage": {"prompt_tokens": 5}}

"""A streamed chat completion, sans I/O: the data of server-sent events in, the port's events out.

The stream has ended well only after `[DONE]`, a reason to finish and whole calls; anything less is an error or a
notice. An error inside a stream that began with 200 is an error. What these servers' reasons to finish mean is in
one table, and one that is not in it is told as it came.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from vestal.backend import EndEvent, TextEvent, TokenEventV2, ToolUseEvent
from vestal.errors import BackendRefused, WireError
from vestal.values import StopReason, TokenLogprob, TopLogprob, Usage
from vestal_adapters.remote.streamed import Call, StreamedAnswer

__all__ = ["ChatAnswer"]

_DONE = "[DONE]"
_REASONS: dict[str, StopReason] = {
    "stop": "end", "length": "length", "tool_calls": "tool_use", "function_call": "tool_use",
    "content_filter": "refused",
}  # fmt: skip
_FAILURES = ("error", "abort")  # reasons to finish that are none

Count = Annotated[int, Meta(ge=0)]


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _Top(Struct):
    token: str
    logprob: float
    bytes: list[Annotated[int, Meta(ge=0, le=255)]] | None = None


class _Token(_Top):
    top_logprobs: list[_Top] = []


class _Logprobs(Struct):
    content: list[_Token] | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None  # vLLM: the stop string that was met
    logprobs: _Logprobs | None = None


class _Cached(Struct):
    cached_tokens: Count | None = None


class _Usage(Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: _Cached | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class ChatAnswer(StreamedAnswer):
    """One answer."""

    _met_stop = False
    _refused = False
    _usage: _Usage | None = None

    def feed(self, data: str) -> list[TokenEventV2]:
        if data.strip() == _DONE:
            self.ended = True
            return self._end()
        chunk = self._decoded(data, _Chunk)
        if chunk.error is not None:
            raise self._failed(chunk.error)
        self._usage = chunk.usage or self._usage
        events: list[TokenEventV2] = []
        for choice in chunk.choices or ():
            self._reason = choice.finish_reason or self._reason
            self._met_stop |= isinstance(choice.stop_reason, str)
            if choice.delta is not None:
                events += self._said(choice.delta, choice.logprobs)
        return events

    def cut_off(self) -> WireError:
        """llama_cpp.server answers with 200 and nothing more when a prompt does not fit."""
        if not self._pieces and self._reason is None:
            return BackendRefused(
                f"the server of backend {self._backend!r} ended its answer before it began",
                hint="its log may say why; some servers do so when the prompt does not fit their context",
                details={"backend": self._backend},
            )
        return super().cut_off()

    # --- pieces -----------------------------------------------------------------------------------------------

    def _said(self, delta: _Delta, logprobs: _Logprobs | None) -> list[TokenEventV2]:
        events: list[TokenEventV2] = []
        if thought := delta.reasoning_content or delta.reasoning:
            events += self._thought(thought)
        if delta.refusal:
            self._refused = True
        if text := (delta.content or "") + (delta.refusal or ""):
            tokens = _logprobs(logprobs)
            count = len(tokens) or 1
            self._pieces += count
            events.append(TextEvent(text, count, tokens))
        for piece in delta.tool_calls or ():
            self._add(piece)
        return events

    def _add(self, piece: _CallPiece) -> None:
        call = self._calls.setdefault(piece.index, Call())
        call.pieces += 1
        self._pieces += 1
        call.id = piece.id or call.id
        if piece.function is not None:
            call.name = piece.function.name or call.name
            call.arguments += piece.function.arguments or ""

    # --- the end ----------------------------------------------------------------------------------------------

    def _end(self) -> list[TokenEventV2]:
        if self._reason is None:
            raise self.cut_off()
        if self._reason in _FAILURES:
            raise self._failed({"message": f"the answer finished with {self._reason!r}"})
        events: list[TokenEventV2] = [self._whole(call) for _, call in sorted(self._calls.items())]
        called = any(isinstance(event, ToolUseEvent) for event in events)
        return [*events, EndEvent(self._stop_reason(called), self._used(), self._notices)]

    def _stop_reason(self, called: bool) -> StopReason:
        """`called` decides about tools: some servers say `stop` after a call, and a broken call is none."""
        reason = self._meaning(_REASONS)
        if called and reason != "length":
            return "tool_use"
        if self._refused:
            return "refused"
        if reason == "end" and self._met_stop:
            return "stop_sequence"
        return reason if reason not in (None, "tool_use") else "end"

    def _used(self) -> Usage:
        if self._usage is None:
            return self._estimated()
        told = self._usage
        cached = told.prompt_tokens_details.cached_tokens if told.prompt_tokens_details else None
        return Usage(told.prompt_tokens, min(cached or 0, told.prompt_tokens), told.completion_tokens)


def _logprobs(told: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    if told is None or told.content is None:
        return ()
    return tuple(
        TokenLogprob(
            _bytes(token), token.logprob, tuple(TopLogprob(_bytes(top), top.logprob) for top in token.top_logprobs)
        )
        for token in told.content
    )


def _bytes(token: _Top) -> bytes:
    return token.token.encode() if token.bytes is None else bytes(token.bytes)

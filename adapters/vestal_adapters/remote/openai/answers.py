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
from vestal.values import Notice, StopReason, TokenLogprob, TopLogprob, Usage
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.streamed import Call, Count, StreamedAnswer

__all__ = ["ChatAnswer"]

_DONE = "[DONE]"
_REASONS: dict[str, StopReason] = {
    "stop": "end", "length": "length", "tool_calls": "tool_use", "function_call": "tool_use",
    "content_filter": "refused",
}  # fmt: skip
_LOGPROB = 16  # characters that a token's probability counts for
_STATUSES = {  # that an error has where it comes before the answer
    "context_length_exceeded": 400, "invalid_request_error": 400, "invalid_api_key": 401, "model_not_found": 404,
    "rate_limit_exceeded": 429,
}  # fmt: skip
_FAILURES = ("error", "abort")  # reasons to finish that are none


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(Struct):
    index: int | None = None
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
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
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

    def __init__(
        self,
        backend: str,
        *,
        v2: bool,
        prompt_size: int,
        notices: list[Notice] | None = None,
        key: Key | None = None,
    ) -> None:
        super().__init__(backend, v2=v2, prompt_size=prompt_size, notices=notices, key=key)
        self._numbered: dict[int, list[Call]] = {}

    def feed(self, data: str) -> list[TokenEventV2]:
        if data.strip() == _DONE:
            self.ended = True
            return self._end()
        chunk = self._decoded(data, _Chunk)
        if chunk.error is not None:
            raise self._failed(chunk.error, _STATUSES)
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
            self._say(len(text) + _LOGPROB * sum(1 + len(token.top) for token in tokens))
            count = len(tokens) or 1
            self._pieces += count
            events.append(TextEvent(text, count, tokens))
        for piece in delta.tool_calls or ():
            self._add(piece)
        return events

    def _add(self, piece: _CallPiece) -> None:
        told = piece.function or _Function()
        call = self._going_on(piece)
        call.pieces += 1
        self._pieces += 1
        call.id = piece.id or call.id
        call.name = told.name or call.name
        if told.arguments:
            self._keep(len(told.arguments))
            call.arguments.append(told.arguments)

    def _going_on(self, piece: _CallPiece) -> Call:
        """The call that the piece belongs to."""
        calls = self._numbered.setdefault(piece.index or 0, [])
        if not calls or _another(calls[-1], piece):
            calls.append(self._begin(len(self._calls), Call()))
        return calls[-1]

    # --- the end ----------------------------------------------------------------------------------------------

    def _end(self) -> list[TokenEventV2]:
        if self._reason is None:
            raise self.cut_off()
        if self._reason in _FAILURES:
            raise self._failed({"message": f"the answer finished with {self._reason!r}"})
        calls = [call for _, numbered in sorted(self._numbered.items()) for call in numbered]
        events: list[TokenEventV2] = [self._whole(call) for call in calls]
        called = any(isinstance(event, ToolUseEvent) for event in events)
        return [*events, EndEvent(self._stop_reason(called), self._used(), self._notices)]

    def _stop_reason(self, called: bool) -> StopReason:
        """`called` decides about tools: some servers say `stop` after a call, and a broken call is none."""
        reason = self._meaning(_REASONS)
        if called and reason not in ("length", "refused"):
            return "tool_use"
        if self._refused:
            return "refused"
        if reason == "end" and self._met_stop:
            return "stop_sequence"
        return reason if reason not in (None, "tool_use") else "end"

    def _used(self) -> Usage:
        told = self._usage
        if told is None or told.prompt_tokens is None or told.completion_tokens is None:
            return self._estimated()
        cached = told.prompt_tokens_details.cached_tokens if told.prompt_tokens_details else None
        return Usage(told.prompt_tokens, min(cached or 0, told.prompt_tokens), told.completion_tokens)


def _another(call: Call, piece: _CallPiece) -> bool:
    """Whether it begins a call of its own, where a server numbers all of them 0, or none.

    An id alone does not say so: some give every piece of one call an id of its own.
    """
    told = piece.function
    if told is None or not told.name:
        return False
    other = bool(piece.id and call.id) and piece.id != call.id and told.name != call.name
    same = bool(piece.id) and piece.id == call.id
    begins = not same and (told.arguments or "").lstrip().startswith("{")
    return other or (begins and call.pieces == 1 and call.is_whole)


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

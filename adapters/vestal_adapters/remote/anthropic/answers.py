"""A streamed message, sans I/O: the data of server-sent events in, the port's events out.

A message is a list of blocks, each begun, continued in deltas and ended; then its reason to stop and its usage, then
`message_stop`, without which it has not ended. A call becomes whole at the end of its block. An `error` event may come
at any time after the 200: its type stands for the status it would have had before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, structs

from vestal.backend import EndEvent, TokenEventV2, ToolUseEvent
from vestal.values import Notice, StopReason, Usage
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.refusals import one_line
from vestal_adapters.remote.streamed import BEGUN, Call, Count, StreamedAnswer

__all__ = ["STATUSES", "MessageAnswer"]

_REASONS: Mapping[str, StopReason] = {
    "end_turn": "end", "stop_sequence": "stop_sequence", "tool_use": "tool_use", "max_tokens": "length",
    "model_context_window_exceeded": "length", "refusal": "refused",
}  # fmt: skip
STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500,
    "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip
_CONTEXT_FULL = Notice("context_full", "the answer ended because the context was full, not because of max_tokens")
_IN_CIPHER = Notice("thinking_left_out", "some of the model's thinking came in cipher; it was left out")


class _Usage(Struct, frozen=True):
    """Counts so far; input that was read from or written to a cache is not in `input_tokens`."""

    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    output_tokens: Count | None = None


class _Message(Struct):
    usage: _Usage | None = None


class _Block(Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class _Delta(Struct):
    """Of a block, or of the message."""

    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Event(Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


class _Open(Struct):
    """What is kept of a block until it ends."""

    thinking: list[str] = []
    signature: list[str] = []


class MessageAnswer(StreamedAnswer):
    """One answer. `signed` is called with each whole thinking and its signature.

    `chosen_limit` is the limit that was sent because the caller set none, 0 if the caller set one.
    """

    def __init__(
        self,
        backend: str,
        *,
        v2: bool,
        prompt_size: int,
        notices: list[Notice] | None = None,
        key: Key | None = None,
        chosen_limit: int = 0,
        signed: Callable[[str, str], None] = lambda thinking, signature: None,
    ) -> None:
        super().__init__(backend, v2=v2, prompt_size=prompt_size, notices=notices, key=key)
        self._chosen_limit = chosen_limit
        self._signed = signed
        self._open: dict[int, _Open] = {}
        self._called = False
        self._counts = _Usage()

    def feed(self, data: str) -> list[TokenEventV2]:
        event = self._decoded(data, _Event)
        if event.type == "error" or event.error is not None:
            raise self._failed(event.error, STATUSES)
        for usage in (event.message.usage if event.message else None, event.usage):
            self._count(usage)
        if event.content_block is not None:
            return self._begun(event.index, event.content_block)
        if event.type == "content_block_delta" and event.delta is not None:
            return self._continued(event.index, event.delta)
        if event.type == "content_block_stop":
            return self._ended(event.index)
        if event.delta is not None:
            self._reason = event.delta.stop_reason or self._reason
        return self._end() if event.type == "message_stop" else []

    def _count(self, usage: _Usage | None) -> None:
        """Each count replaces the one before: those of `message_delta` are of the whole message."""
        if usage is not None:
            told = {name: count for name, count in structs.asdict(usage).items() if count is not None}
            self._counts = structs.replace(self._counts, **told)

    # --- blocks -----------------------------------------------------------------------------------------------

    def _begun(self, index: int, block: _Block) -> list[TokenEventV2]:
        self._open[index] = _Open()
        self._keep(BEGUN)
        if block.type in ("text", "thinking"):
            return self._continued(index, _Delta(block.text, block.thinking, block.signature))
        self._pieces += 1
        if block.type == "tool_use":
            whole = [msgspec.json.encode(block.input).decode()] if block.input else []  # usually it comes in deltas
            self._begin(index, Call(block.id, block.name, whole, 1))
        elif block.type == "redacted_thinking":
            self._note(_IN_CIPHER)
        else:
            self._note(Notice("content_left_out", f"a block of type {one_line(block.type, 64)!r} was left out"))
        return []

    def _continued(self, index: int, delta: _Delta) -> list[TokenEventV2]:
        block = self._open.get(index)
        if block is None or (delta.partial_json and index not in self._calls):
            raise self._broken("went on with a block that it had not begun")
        self._keep(len(delta.signature) + len(delta.thinking) + len(delta.partial_json))
        if delta.signature:
            block.signature.append(delta.signature)
        if delta.partial_json:
            self._calls[index].arguments.append(delta.partial_json)
            self._calls[index].pieces += 1
            self._pieces += 1
        if delta.thinking:
            block.thinking.append(delta.thinking)
            return self._thought(delta.thinking)
        return self._text(delta.text) if delta.text else []

    def _ended(self, index: int) -> list[TokenEventV2]:
        block = self._open.pop(index, None)
        if block is None:
            raise self._broken("ended a block that it had not begun")
        if block.signature and block.thinking:
            self._signed("".join(block.thinking), "".join(block.signature))
        elif block.signature:
            self._note(_IN_CIPHER)  # the newest models show no thinking that was not asked for
        if index not in self._calls:
            return []
        event = self._whole(self._calls[index])
        self._called |= isinstance(event, ToolUseEvent)
        return [event]

    # --- the end ----------------------------------------------------------------------------------------------

    def _end(self) -> list[TokenEventV2]:
        if self._reason is None or self._open:
            raise self.cut_off()
        self.ended = True
        return [EndEvent(self._stop_reason(), self._used(), self._notices)]

    def _stop_reason(self) -> StopReason:
        """A call that could not be read is none."""
        reason = self._meaning(_REASONS)
        if self._reason == "model_context_window_exceeded":
            self._note(_CONTEXT_FULL)
        elif reason == "length" and self._chosen_limit:
            why = f"the request set no max_tokens, which this API needs: {self._chosen_limit} was sent, and reached"
            self._note(Notice("max_tokens_chosen", why))
        if self._called and reason not in ("length", "refused"):
            return "tool_use"
        return reason if reason not in (None, "tool_use") else "end"

    def _used(self) -> Usage:
        told = self._counts
        if told.input_tokens is None or told.output_tokens is None:
            return self._estimated()
        cached = told.cache_read_input_tokens or 0
        return Usage(told.input_tokens + (told.cache_creation_input_tokens or 0) + cached, cached, told.output_tokens)

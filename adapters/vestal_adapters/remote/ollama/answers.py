"""A streamed chat of Ollama, sans I/O: lines of JSON in, the port's events out.

Each line holds a piece of the message, the last one `done`, with the reason and the counts. A call comes whole. A
line may be an error, with nothing but its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from vestal.backend import EndEvent, TokenEventV2, ToolUseEvent
from vestal.values import StopReason, Usage
from vestal_adapters.remote.streamed import Call, Count, StreamedAnswer

__all__ = ["LineAnswer"]

_REASONS: Mapping[str, StopReason] = {"stop": "end", "length": "length"}


class _Function(Struct):
    name: str = ""
    arguments: Any = None


class _Called(Struct):
    function: _Function
    id: str = ""


class _Message(Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_Called] | None = None


class _Line(Struct):
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Count | None = None
    eval_count: Count | None = None
    error: Any = None


class LineAnswer(StreamedAnswer):
    """One answer."""

    def feed(self, data: str) -> list[TokenEventV2]:
        line = self._decoded(data, _Line)
        if line.error is not None:
            raise self._failed(line.error)
        events = self._said(line.message) if line.message is not None else []
        if not line.done:
            return events
        self._reason = line.done_reason
        self.ended = True
        return [*events, EndEvent(self._stop_reason(), self._used(line), self._notices)]

    def _said(self, message: _Message) -> list[TokenEventV2]:
        events = self._thought(message.thinking) if message.thinking else []
        events += self._text(message.content) if message.content else []
        return events + [self._call(told) for told in message.tool_calls or ()]

    def _call(self, told: _Called) -> TokenEventV2:
        """Older versions give a call no id: its number makes one, for two calls of one tool are two."""
        self._pieces += 1
        number, name = len(self._calls), told.function.name
        arguments = [] if told.function.arguments is None else [msgspec.json.encode(told.function.arguments).decode()]
        event = self._whole(Call(told.id or f"call_{number}_{name}", name, arguments, 1))
        if isinstance(event, ToolUseEvent):
            self._begin(number, Call(event.call_id, name))
        return event

    def _stop_reason(self) -> StopReason:
        reason = self._meaning(_REASONS)
        if self._calls and reason != "length":
            return "tool_use"
        return reason or "end"

    def _used(self, line: _Line) -> Usage:
        """The prompt's count is left out by versions that found all of it in their cache."""
        if line.prompt_eval_count is None or line.eval_count is None:
            return self._estimated()
        return Usage(line.prompt_eval_count, 0, line.eval_count)

"""A streamed answer whatever API it comes in, sans I/O: pieces of a stream in, the port's events out.

An API adds what its pieces look like and what its reasons to finish mean. What holds for all of them is here: what
cannot be read is an error of the wire, an error inside a stream is an error, thinking is left out of a v1 answer and
that is said, a call is whole or text, and what the server did not tell is told as not told.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from vestal.backend import TextEvent, ThinkingEvent, TokenEventV2, ToolUseEvent
from vestal.errors import BackendCrashed, WireError
from vestal.values import Notice, StopReason, Usage
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.refusals import Refusal, one_line, refused, words_of

__all__ = ["Call", "StreamedAnswer"]

T = TypeVar("T")

_CHARS_PER_TOKEN = 4
_THINKING_LEFT_OUT = Notice("thinking_left_out", "the model thought before it answered; its thinking was left out")
_ESTIMATED = Notice(
    "usage_estimated",
    "the server told no usage: output tokens are the pieces it sent, input tokens a quarter of the characters",
)


class Call(Struct):
    """A call of a tool whose pieces are still coming."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    pieces: int = 0


class StreamedAnswer(ABC):
    """One answer. `ended` once there is nothing more to come; `cut_off` is the error if the stream ends before."""

    def __init__(
        self,
        backend: str,
        *,
        v2: bool,
        prompt_size: int,
        notices: list[Notice] | None = None,
        key: Key | None = None,
    ) -> None:
        self._backend = backend
        self._v2 = v2
        self._prompt_size = prompt_size
        self._notices = list(notices or ())
        self._key = key
        self._reason: str | None = None
        self._calls: dict[int, Call] = {}
        self._pieces = 0
        self.ended = False

    @abstractmethod
    def feed(self, data: str) -> list[TokenEventV2]:
        """The events that one event of the stream makes. Raises `WireError`."""

    def cut_off(self) -> WireError:
        """The error for a stream that came to an orderly end here."""
        return BackendCrashed(
            f"the server of backend {self._backend!r} ended its answer without the end marker, "
            f"after {self._pieces} pieces",
            details={"backend": self._backend},
        )

    # --- for the APIs -----------------------------------------------------------------------------------------

    def _decoded(self, data: str, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=shape)
        except (msgspec.DecodeError, RecursionError) as exc:
            raise self._broken(f"sent what is not a chunk of an answer: {self._shown(str(exc))}") from None

    def _text(self, text: str) -> list[TokenEventV2]:
        self._pieces += 1
        return [TextEvent(text)]

    def _thought(self, text: str) -> list[TokenEventV2]:
        self._pieces += 1
        if self._v2:
            return [ThinkingEvent(text)]
        self._note(_THINKING_LEFT_OUT)
        return []

    def _whole(self, call: Call) -> TokenEventV2:
        """The call, or its text if it was cut off or makes no sense: nobody guesses at arguments."""
        try:
            arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            arguments = None
        if arguments is not None and 0 < len(call.name) <= 256:
            return ToolUseEvent((call.id or f"call_{call.name}")[:256], call.name, arguments, call.pieces)
        why = "the model began a call of a tool that could not be read, which is in the text"
        self._notices.append(Notice("tool_call_malformed", why))
        return TextEvent(f"{call.name}({call.arguments})", call.pieces)

    def _meaning(self, reasons: Mapping[str, StopReason]) -> StopReason | None:
        """What the reason to finish means; one that nobody knows is told as it came."""
        known = reasons.get(str(self._reason))
        if known is None:
            told = one_line(str(self._reason), 64)
            self._notices.append(Notice("unknown_stop_reason", f"the server finished with {told!r}, shown as end"))
        return known

    def _estimated(self) -> Usage:
        self._notices.append(_ESTIMATED)
        return Usage(max(1, self._prompt_size // _CHARS_PER_TOKEN), 0, self._pieces)

    def _note(self, notice: Notice) -> None:
        if notice not in self._notices:
            self._notices.append(notice)

    def _failed(self, error: Any, statuses: Mapping[str, int] | None = None) -> WireError:
        """An error that came after the answer had begun with 200; `statuses` are those of the API's own codes."""
        message, code = words_of(error)
        told = int(code) if code.isdigit() and 400 <= int(code) < 600 else 500
        status = (statuses or {}).get(code, told)
        return refused(Refusal(status, self._shown(message), one_line(code, 64)), self._backend, self._key)

    def _broken(self, how: str) -> BackendCrashed:
        """It broke the rules of its API: doing the same again will not help."""
        return BackendCrashed(
            f"the server of backend {self._backend!r} {how}", details={"backend": self._backend}, retryable=False
        )

    def _shown(self, text: str) -> str:
        return one_line(self._key.masked(text) if self._key else text)

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<{type(self).__name__} {state}, {self._pieces} pieces, {len(self._calls)} calls, {self._reason!r}>"

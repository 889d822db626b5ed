"""A streamed answer whatever API it comes in, sans I/O: pieces of a stream in, the port's events out.

An API adds what its pieces look like and what its reasons to finish mean. What holds for all of them is here: what
cannot be read is an error of the wire, an error inside a stream is an error, thinking is left out of a v1 answer and
that is said, a call is whole or text, and what the server did not tell is told as not told. What is kept until it is
whole is bounded: nobody reads it meanwhile, so nobody's slowness holds the server back. So is the answer: who wants it
whole has it kept in the daemon.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from vestal.backend import TextEvent, ThinkingEvent, TokenEventV2, ToolUseEvent
from vestal.errors import BackendCrashed, WireError
from vestal.values import Notice, StopReason, Usage, check_json
from vestal_adapters.remote.key import Key
from vestal_adapters.remote.refusals import Refusal, one_line, refused, words_of
from vestal_adapters.remote.sse import MAX_EVENT

__all__ = ["BEGUN", "MAX_KEPT", "MAX_SAID", "Call", "Count", "StreamedAnswer"]

T = TypeVar("T")
Count = Annotated[int, Meta(ge=0, le=2**53)]
"""Tokens, as a server tells them. What JSON can say and a frame cannot is no count."""

MAX_SAID = 64 << 20  # characters of text and thinking: a frame holds no longer answer
MAX_KEPT = MAX_EVENT  # characters of calls, signatures and signed thinking that one answer may have
BEGUN = 64  # characters that a call or block counts for beside its text: a million empty ones take memory too
_MOST_NOTED = 16  # notices of what a server sends; one that needs more has made them up
_CHARS_PER_TOKEN = 4
_THINKING_LEFT_OUT = Notice("thinking_left_out", "the model thought before it answered; its thinking was left out")
_ESTIMATED = Notice(
    "usage_estimated",
    "the server told no usage: output tokens are the pieces it sent, input tokens a quarter of the characters",
)


class Call(Struct):
    """A call of a tool whose pieces are still coming. A list, as a text that grows is copied for each of them."""

    id: str = ""
    name: str = ""
    arguments: list[str] = []
    pieces: int = 0

    @property
    def text(self) -> str:
        return "".join(self.arguments)

    @property
    def is_whole(self) -> bool:
        """Whether more arguments would be too many."""
        return bool(self.arguments) and _read(self.text) is not None


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
        self._kept = 0
        self._length = 0
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
        self._say(len(text))
        self._pieces += 1
        return [TextEvent(text)]

    def _say(self, size: int) -> None:
        """Count `size` characters more of the answer. Raises `BackendCrashed` for too many."""
        self._length += size
        if self._length > MAX_SAID:
            raise self._broken(f"sent more than {MAX_SAID} characters in one answer")

    def _thought(self, text: str) -> list[TokenEventV2]:
        self._say(len(text))
        self._pieces += 1
        if self._v2:
            return [ThinkingEvent(text)]
        self._note(_THINKING_LEFT_OUT)
        return []

    def _begin(self, number: int, call: Call) -> Call:
        self._keep(BEGUN + len(call.text))
        self._calls[number] = call
        return call

    def _keep(self, size: int) -> None:
        """Count `size` characters more that are kept. Raises `BackendCrashed` for too many."""
        self._kept += size
        if self._kept > MAX_KEPT:
            raise self._broken(f"sent calls and signatures of more than {MAX_KEPT} characters in one answer")

    def _whole(self, call: Call) -> TokenEventV2:
        """The call, or its text if it was cut off or makes no sense: nobody guesses at arguments."""
        arguments = _read(call.text)
        if arguments is not None and 0 < len(call.name) <= 256:
            return ToolUseEvent((call.id or f"call_{call.name}")[:256], call.name, arguments, call.pieces)
        why = "the model began a call of a tool that could not be read, which is in the text"
        self._note(Notice("tool_call_malformed", why))
        return TextEvent(f"{call.name}({call.text})", call.pieces)

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
        if notice not in self._notices and len(self._notices) < _MOST_NOTED:
            self._notices.append(notice)

    def _failed(self, error: Any, statuses: Mapping[str, int] | None = None) -> WireError:
        """An error that came after the answer had begun with 200; `statuses` are those of the API's own codes."""
        message, code = words_of(error)
        told = int(code) if re.fullmatch(r"[45][0-9]{2}", code) else 500
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


def _read(arguments: str) -> dict[str, Any] | None:
    """A call's arguments; `None` for what is no object, or more than a frame can say."""
    try:
        told = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
        check_json(told, "arguments")
        msgspec.msgpack.encode(told)  # JSON has integers of any size
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        return None
    return told

"""What the daemon's side and a worker say to each other, and the bounds both hold each other to.

Frames are those of `vestal.framing` on a socketpair; each payload is one tagged struct below. Jobs carry the
host's numbers. The worker is not trusted: it runs native code on untrusted input, so whatever it sends is
checked against these types *and* against `check_event`, and anything else ends it.

    host → child   Configure, then Submit | SubmitV2 | Embed | Count | Cancel | Ping in any order, then Stop
    child → host   Progress+, then Loaded | LoadFailed; then Outputs | Embedded | Counted | Failed | Pong

The first `Progress` comes at once: it is the handshake. Every job but a cancelled one ends in exactly one of: an
`EndEvent` in `Outputs`, `Embedded`, `Counted`, `Failed`. A cancelled job may still be spoken of by what was already
under way; the host ignores that.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from vestal.backend import (
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    PromptEvent,
    TextEvent,
    ThinkingEvent,
    ToolUseEvent,
)
from vestal.errors import ERROR_CLASSES, InternalError, WireError
from vestal.framing import MAX_FRAME_LIMIT, frame
from vestal.values import Capabilities, TokenLogprob
from vestal_adapters.worker.sandbox import OFF, Confinement, SandboxMode

__all__ = [
    "MAX_CONTROL",
    "MAX_FRAME",
    "Cancel",
    "ChildMessage",
    "Configure",
    "Count",
    "Counted",
    "Embed",
    "Embedded",
    "Failed",
    "HostMessage",
    "JobEvent",
    "LoadFailed",
    "Loaded",
    "Outputs",
    "Ping",
    "Pong",
    "Progress",
    "Stop",
    "Submit",
    "SubmitV2",
    "check_event",
    "decode_child",
    "decode_host",
    "encode",
    "encode_failure",
    "exception_of",
    "load_failed",
]

# A request that fitted a client's frame must fit here too, and is longer: defaults left out there are spelled
# out here (a `tool_result` block grows by a fifth).
MAX_FRAME = 2 * MAX_FRAME_LIMIT
MAX_TEXT = 4096  # characters of a message, hint or detail meant for people
MAX_CONTROL = 64 * 1024  # bytes of a child's message that holds neither events nor vectors
MAX_NAMES = 256
MAX_SLOTS = 4096
MAX_COUNT = 2**53  # what a double holds exactly: a count past it would change on its way through JSON or Lua

# What an engine may blame. The other codes speak of queues and connections, which are not its business; some
# of them end a client's connection.
_ENGINE_CODES = frozenset(
    {"invalid_request", "unsupported", "context_overflow", "backend_unavailable", "backend_refused", "internal"}
)

JobNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
HumanText = Annotated[str, Meta(max_length=MAX_TEXT)]
JobEvent = PromptEvent | TextEvent | ThinkingEvent | ToolUseEvent | EndEvent


# --- host → child ---------------------------------------------------------------------------------------------


class Configure(Struct, frozen=True, tag="configure"):
    """First and once: which engine ("module:Class"), and its `Options`, still encoded for their own type.

    `sandbox` is put on before the model is read, and `memory_limit` with it.
    """

    engine: str
    options: Raw
    sandbox: SandboxMode = "required"
    memory_limit: int | None = None


class Submit(Struct, frozen=True, tag="submit"):
    job: JobNumber
    request: GenerateRequest


class SubmitV2(Struct, frozen=True, tag="submit_v2"):
    job: JobNumber
    request: GenerateRequestV2


class Embed(Struct, frozen=True, tag="embed"):
    job: JobNumber
    request: EmbedRequest


class Count(Struct, frozen=True, tag="count"):
    job: JobNumber
    request: CountRequest


class Cancel(Struct, frozen=True, tag="cancel"):
    """Forget a job; no effect on one that has ended."""

    job: JobNumber


class Ping(Struct, frozen=True, tag="ping"):
    """Answered between two steps: a stuck engine does not answer."""

    nonce: JobNumber


class Stop(Struct, frozen=True, tag="stop"):
    """Free the model and exit with status 0. Jobs still running are forgotten."""


HostMessage = Configure | Submit | SubmitV2 | Embed | Count | Cancel | Ping | Stop


# --- child → host ---------------------------------------------------------------------------------------------


class Progress(Struct, frozen=True, tag="progress"):
    percent: float
    detail: HumanText = ""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:  # NaN too
            raise ValueError(f"percent: {self.percent}, expected 0 to 100")


class Loaded(Struct, frozen=True, tag="loaded"):
    capabilities: Capabilities
    confinement: Confinement = OFF

    def __post_init__(self) -> None:
        if sum(map(len, (*self.confinement.layers, *self.confinement.missing))) > MAX_TEXT:
            raise ValueError(f"confinement: more than {MAX_TEXT} characters")
        if self.capabilities.slots > MAX_SLOTS:
            raise ValueError(f"slots: {self.capabilities.slots}, at most {MAX_SLOTS}")
        capabilities = self.capabilities
        names = (*capabilities.options, *(capabilities.embedding_tasks or ()), capabilities.model, capabilities.family)
        if sum(map(len, names)) > MAX_TEXT or len(names) > MAX_NAMES:  # they must fit a `welcome`
            raise ValueError(f"names: more than {MAX_NAMES}, or than {MAX_TEXT} characters")


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The engine cannot be loaded, and a restart would not help by itself. The child exits."""

    message: HumanText
    hint: HumanText | None = None


class Outputs(Struct, frozen=True, tag="outputs", gc=False):
    """All that one step brought for generations, in order: one frame, however many jobs."""

    events: list[tuple[JobNumber, JobEvent]]


class Embedded(Struct, frozen=True, tag="embedded"):
    job: JobNumber
    result: EmbedResult

    def __post_init__(self) -> None:
        result = self.result
        if min(result.count, result.dimensions, result.input_tokens) < 0:
            raise ValueError("result: a negative number")
        if result.input_tokens > MAX_COUNT:
            raise ValueError(f"result: of {result.input_tokens} tokens")
        if len(result.data) != result.count * result.dimensions * 4:
            raise ValueError(f"result: {len(result.data)} bytes for {result.count} x {result.dimensions} floats")


class Counted(Struct, frozen=True, tag="counted"):
    job: JobNumber
    tokens: Tokens


class Failed(Struct, frozen=True, tag="failed"):
    """One `WireError` of one job."""

    job: JobNumber
    code: HumanText
    message: HumanText
    hint: HumanText | None = None
    details: dict[str, Any] = {}
    retryable: bool = False
    retry_after_ms: Tokens | None = None


class Pong(Struct, frozen=True, tag="pong"):
    nonce: JobNumber


ChildMessage = Progress | Loaded | LoadFailed | Outputs | Embedded | Counted | Failed | Pong


# --- bytes ----------------------------------------------------------------------------------------------------

decode_host = msgspec.msgpack.Decoder(HostMessage).decode
decode_child = msgspec.msgpack.Decoder(ChildMessage).decode
_encoder = msgspec.msgpack.Encoder()


def encode(message: HostMessage | ChildMessage) -> bytes:
    """One frame. Raises `FrameTooLarge`, and what msgspec raises for a value MessagePack cannot carry."""
    return frame(_encoder.encode(message), MAX_FRAME)


def check_event(event: JobEvent) -> None:
    """Raise `ValueError` for numbers no engine can mean. Their types were checked when they were decoded."""
    match event:
        case PromptEvent():
            if not 0 <= event.cached_tokens <= event.input_tokens <= MAX_COUNT:
                raise ValueError(f"prompt: {event.cached_tokens} cached of {event.input_tokens} tokens")
            if not 0 <= event.prefill_ms < math.inf:  # NaN fails both
                raise ValueError(f"prompt: prefill took {event.prefill_ms} ms")
        case EndEvent(usage=usage):
            if not 0 <= usage.cached_tokens <= usage.input_tokens <= MAX_COUNT:
                raise ValueError(f"end: {usage.cached_tokens} cached of {usage.input_tokens} tokens")
            if not 0 <= usage.output_tokens <= MAX_COUNT:
                raise ValueError(f"end: {usage.output_tokens} output tokens")
        case TextEvent(logprobs=logprobs) if logprobs:
            _check_logprobs(event.tokens, logprobs)
        case _:
            if not 0 <= event.tokens <= MAX_COUNT:
                raise ValueError(f"{type(event).__name__}: {event.tokens} tokens")


def _check_logprobs(tokens: int, logprobs: tuple[TokenLogprob, ...]) -> None:
    if len(logprobs) != tokens:
        raise ValueError(f"text: {len(logprobs)} logprobs for {tokens} tokens")
    for token in logprobs:
        if not all(logprob < math.inf for logprob in (token.logprob, *(top.logprob for top in token.top))):  # NaN too
            raise ValueError("text: a logprob that is none")


def encode_failure(job: int, error: WireError) -> bytes:
    """One frame that tells of `error`; details that are too many, or that MessagePack cannot carry, are left out."""
    try:
        data = encode(_failed(job, error, error.details))
    except Exception:  # an engine may put anything there
        data = b""
    return data if 0 < len(data) <= MAX_CONTROL else encode(_failed(job, error, {}))


def _failed(job: int, error: WireError, details: dict[str, Any]) -> Failed:
    return Failed(
        job=job,
        code=error.code,
        message=_clipped(error.message),
        hint=None if error.hint is None else _clipped(error.hint),
        details=details,
        retryable=error.retryable,
        retry_after_ms=error.retry_after_ms,
    )


def load_failed(message: str, hint: str | None = None) -> LoadFailed:
    return LoadFailed(message=_clipped(message), hint=None if hint is None else _clipped(hint))


def exception_of(message: Failed) -> WireError:
    """The exception of a job's failure; a code that is not an engine's to use becomes `internal`."""
    cls = ERROR_CLASSES[message.code] if message.code in _ENGINE_CODES else InternalError
    return cls(
        message.message,
        hint=message.hint,
        details=message.details,
        retryable=message.retryable,
        retry_after_ms=message.retry_after_ms,
    )


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"

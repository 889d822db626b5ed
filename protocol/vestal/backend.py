"""The port: what the daemon asks of whatever runs a model, and what it gets back.

An adapter subclasses `Backend`, names its options in `Options` (a msgspec Struct, unknown fields forbidden) and
is found by the entry point group `vestal.backends`. The port knows nothing of sockets, request ids or the
daemon. The daemon promises never to run `generate`, `generate_v2` more than `capabilities.slots` times at once.

Errors. Raise a `vestal.errors.WireError`: before the first event it becomes the request's only frame, after it
the stream ends with the error and without `done`. Anything else that escapes is `internal`. An iterator that
ends without `EndEvent` is an error too: a stream cut short is never a success.

Cancellation is task cancellation followed by the iterator's `aclose()`; both must release the engine's work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar, Literal

from msgspec import Struct

from vestal.errors import Unsupported
from vestal.explain import shown
from vestal.findings import Finding
from vestal.values import (
    FLAGS,
    Attachment,
    Capabilities,
    GenerateOptions,
    Message,
    MessageV2,
    Notice,
    StopReason,
    Thinking,
    TokenLogprob,
    Tool,
    ToolChoice,
    Usage,
)

__all__ = [
    "Backend",
    "BackendOptions",
    "CountRequest",
    "EmbedRequest",
    "EmbedResult",
    "EndEvent",
    "GenerateRequest",
    "GenerateRequestV2",
    "Health",
    "Loading",
    "PromptEvent",
    "Ready",
    "Report",
    "TextEvent",
    "ThinkingEvent",
    "TokenEvent",
    "TokenEventV2",
    "ToolUseEvent",
    "Unavailable",
    "check_embed",
    "check_supported",
    "honours",
    "unsaid_of_embed",
]


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """A v1 request, resolved: checked against the schema and the backend's capabilities.

    `cache_scope` names whose cached prefixes this request may see and feed (the caller's uid); `None` is nobody's.
    """

    messages: list[Message]
    options: GenerateOptions = GenerateOptions()
    cache_scope: str | None = None


class GenerateRequestV2(Struct, frozen=True, kw_only=True):
    """A v2 request, resolved."""

    messages: list[MessageV2]
    options: GenerateOptions = GenerateOptions()
    tools: list[Tool] = []
    tool_choice: ToolChoice = "auto"
    thinking: Thinking = "auto"
    attachments: list[Attachment] = []
    cache_scope: str | None = None


class CountRequest(Struct, frozen=True, kw_only=True):
    """Exactly one of `messages` (v1) and `messages_v2` is given."""

    messages: list[Message] | None = None
    messages_v2: list[MessageV2] | None = None
    tools: list[Tool] = []


class EmbedRequest(Struct, frozen=True, kw_only=True):
    input: list[str]
    dimensions: int | None = None
    task: str | None = None
    normalize: bool = True


class EmbedResult(Struct, frozen=True, kw_only=True):
    """`data` is count x dimensions little-endian float32, row-major, in input order."""

    count: int
    dimensions: int
    data: bytes
    input_tokens: int


class PromptEvent(Struct, frozen=True, tag="prompt"):
    """The prompt is prefilled. Optional; at most once, before any output. `prefill_ms` is the engine's own time."""

    input_tokens: int
    cached_tokens: int = 0
    prefill_ms: float = 0.0


class TextEvent(Struct, frozen=True, tag="text", gc=False):
    """The next piece of answer text; `tokens` is how many output tokens it took to make it.

    `logprobs` has an entry for each of them, if the request asked for that.
    """

    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


class ThinkingEvent(Struct, frozen=True, tag="thinking", gc=False):
    """The next piece of thinking text (v2)."""

    text: str
    tokens: int = 1


class ToolUseEvent(Struct, frozen=True, tag="tool_use"):
    """One whole tool call (v2)."""

    call_id: str
    name: str
    input: dict[str, Any]
    tokens: int = 0


class EndEvent(Struct, frozen=True, tag="end"):
    """Last event of every stream that did not fail."""

    stop_reason: StopReason
    usage: Usage
    notices: list[Notice] = []


TokenEvent = PromptEvent | TextEvent | EndEvent
TokenEventV2 = PromptEvent | TextEvent | ThinkingEvent | ToolUseEvent | EndEvent


class Loading(Struct, frozen=True):
    """Loading goes on: `percent` 0 to 100, never falling, and what is being done."""

    percent: float
    detail: str = ""


class Ready(Struct, frozen=True):
    """The backend serves (again). `renewed`: by a new engine, to which the failures of the old one say nothing."""

    renewed: bool = False


class Unavailable(Struct, frozen=True):
    """The backend stopped serving; `recovering` says whether it is working on coming back by itself."""

    reason: str
    recovering: bool = True


Report = Callable[[Loading | Ready | Unavailable], None]
"""Handed to `start`; valid until `stop` returns. Call it from the event loop's thread only."""


class Health(Struct, frozen=True, kw_only=True):
    """A snapshot for operators. `pid` where a process of its own runs the model, `restarts` how often it died.

    `sandbox` names the layers that confine that process, `unsandboxed` those that are missing, with the reason.
    """

    state: Literal["ok", "loading", "unavailable", "stopped"]
    detail: str = ""
    pid: int | None = None
    restarts: int = 0
    sandbox: tuple[str, ...] = ()
    unsandboxed: tuple[str, ...] = ()


class BackendOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of an adapter's options: what a `[[backend]]` table may hold beside `name` and `adapter`.

    `vestal.options` says how they are declared, so that they have flags, variables, help and a place in the schema.
    """


class Backend(ABC):
    """One configured backend. `capabilities` is valid once `ready`."""

    Options: ClassVar[type[BackendOptions]] = BackendOptions

    def __init__(self, name: str, options: BackendOptions) -> None:
        self.name = name
        self.capabilities = Capabilities()

    @classmethod
    def examine(cls, options: BackendOptions, *, running: bool, thorough: bool) -> list[Finding]:
        """What on this machine would help or hinder a backend with these options; for `vestal doctor`.

        Starts nothing and changes nothing. `running` says that it serves now, so what it takes is taken already;
        without `thorough` nothing is done that takes seconds.
        """
        return []

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether requests can be run now."""

    @abstractmethod
    async def start(self, report: Report) -> None:
        """Load, calling `report(Loading(...))` on the way; return when ready, raise `VestalError` when it cannot be.

        After it returned, a backend that loses and regains its engine says so with `report(Unavailable(...))`
        and `report(Ready())`.
        """

    @abstractmethod
    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        """Run one v1 request."""

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        """Run one v2 request."""
        raise Unsupported(
            f"backend {self.name!r} does not speak v2",
            hint="negotiate version 1, or name a model whose capabilities say v2",
            details={"option": "version", "backend": self.name},
        )

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Compute one vector per text."""
        raise Unsupported(f"backend {self.name!r} does not embed", details={"option": "embed", "backend": self.name})

    async def count(self, request: CountRequest) -> int:
        """Input tokens the conversation takes, the template's own included."""
        raise Unsupported(
            f"backend {self.name!r} does not count tokens", details={"option": "count", "backend": self.name}
        )

    async def health(self) -> Health:
        """A snapshot for operators; never raises."""
        return Health(state="ok" if self.ready else "unavailable")

    @abstractmethod
    async def stop(self, timeout: float) -> None:
        """Release everything within `timeout` seconds. Idempotent; legal at any time, during `start` too."""

    def __repr__(self) -> str:
        state = "ready" if self.ready else "not ready"
        return f"<{type(self).__name__} {self.name!r} {state}, slots={self.capabilities.slots}>"


# Options that the daemon itself honours, whatever the backend; of `cache` it hands over the scope.
_DAEMON_OPTIONS = frozenset({"model", "stream", "priority", "queue_timeout_ms", "timeout_ms", "cache"})
# Options that are a capability of their own.
_FLAG_OF_OPTION = {"grammar": "grammar", "response_format": "json_schema", "logprobs": "logprobs"}
# Content blocks that only some models can be shown.
_FLAG_OF_BLOCK = {"image": "vision", "audio": "audio", "tool_use": "tools", "tool_result": "tools"}
# Values that ask for nothing: every backend honours them.
_NEUTRAL: dict[str, Any] = {"context_policy": "error", "stop": []}


def check_supported(request: GenerateRequest | GenerateRequestV2, capabilities: Capabilities) -> None:
    """Raise `Unsupported`, naming the option, if the backend cannot honour something the request asks for."""
    for option, value in _asked(request.options):
        if not honours(capabilities, option):
            _refuse(option, option if option in _FLAG_OF_OPTION else f"{option}={shown(repr(value))}", capabilities)
    if isinstance(request, GenerateRequestV2):
        _check_v2(request, capabilities)


def honours(capabilities: Capabilities, option: str) -> bool:
    """Whether a backend takes note of a generate option at all."""
    flag = _FLAG_OF_OPTION.get(option)
    if flag is not None:
        return bool(getattr(capabilities, flag))
    return option in _DAEMON_OPTIONS or option in capabilities.options


def check_embed(request: EmbedRequest, capabilities: Capabilities) -> None:
    """Raise `Unsupported`, naming the option, if the backend says that it cannot honour what the request asks for."""
    model, tasks = capabilities.model, capabilities.embedding_tasks
    if request.task is not None and tasks is not None and request.task not in tasks:
        raise Unsupported(
            f"model {model!r} cannot honour task={shown(repr(request.task))}: it knows {', '.join(tasks) or 'none'}",
            hint="leave task out, or name a model that knows it; of a llamacpp backend its table's `task_prefixes` do",
            details={"option": "task", "model": model, "tasks": list(tasks)},
        )
    if (asked := _other_dimensions(request, capabilities)) is not None:
        shortest, longest = capabilities.embedding_shortest, capabilities.embedding_longest
        if (shortest is not None and asked < shortest) or (longest is not None and asked > longest):
            raise Unsupported(
                f"model {model!r} cannot honour dimensions={asked}: its vectors have {_range(shortest, longest)}",
                hint="leave dimensions out; of a llamacpp model that was trained for it (Matryoshka), its table's"
                " `cut_dimensions` allows fewer",
                details={"option": "dimensions", "model": model, "shortest": shortest, "longest": longest},
            )
    if not request.normalize and capabilities.embedding_raw is False:
        raise Unsupported(
            f"model {model!r} cannot honour normalize=False: its vectors may have been scaled before",
            hint="leave normalize out, or name a model that can",
            details={"option": "normalize", "model": model},
        )


def unsaid_of_embed(request: EmbedRequest, capabilities: Capabilities) -> list[str]:
    """The options of a request of which a backend does not say whether it honours them."""
    ends = (capabilities.embedding_shortest, capabilities.embedding_longest)
    open_questions = {
        "task": request.task is not None and capabilities.embedding_tasks is None,
        "dimensions": _other_dimensions(request, capabilities) is not None and None in ends,
        "normalize": not request.normalize and capabilities.embedding_raw is None,
    }
    return [option for option, is_open in open_questions.items() if is_open]


def _other_dimensions(request: EmbedRequest, capabilities: Capabilities) -> int | None:
    """The dimensions asked for, unless they are those that the vectors have anyway."""
    return request.dimensions if request.dimensions != capabilities.embedding_dimensions else None


def _range(shortest: int | None, longest: int | None) -> str:
    if shortest == longest:
        return f"{longest}"
    return f"{shortest or 'fewer'} to {longest or 'more'}"


def _asked(options: GenerateOptions) -> list[tuple[str, Any]]:
    asked = []
    for option in GenerateOptions.__struct_fields__:
        value = getattr(options, option)
        if option in _DAEMON_OPTIONS or value is None or value == _NEUTRAL.get(option):
            continue
        asked.append((option, value))
    return asked


def _check_v2(request: GenerateRequestV2, capabilities: Capabilities) -> None:
    if not capabilities.v2:
        _refuse("version", "version 2", capabilities)
    if request.tools and not capabilities.tools:
        _refuse("tools", "tools", capabilities)
    if request.thinking not in ("auto", "off") and not capabilities.thinking:  # one that cannot think is off
        _refuse("thinking", f"thinking={request.thinking!r}", capabilities)
    for number, message in enumerate(request.messages):
        for index, block in enumerate(message.content):
            kind = str(type(block).__struct_config__.tag)
            flag = _FLAG_OF_BLOCK.get(kind)
            if flag is not None and not getattr(capabilities, flag):
                _refuse(f"messages[{number}].content[{index}]", f"{kind} blocks", capabilities)


def _refuse(option: str, asked: str, capabilities: Capabilities) -> None:
    can = [flag for flag in FLAGS if getattr(capabilities, flag)]
    raise Unsupported(
        f"model {capabilities.model!r} cannot honour {asked}",
        hint="leave the option out, or name a model that can: the welcome lists each backend's capabilities",
        details={"option": option, "model": capabilities.model, "capabilities": can, "options": capabilities.options},
    )

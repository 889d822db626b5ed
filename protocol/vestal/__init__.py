"""Talk to `vestald`, the daemon that keeps language models warm for every app on the machine.

    import vestal

    with vestal.Client() as client:
        print(client.generate("Why is the sky blue?", max_tokens=64).text)

Everything in `__all__` is loaded when it is first named: backends in sandboxed workers import parts of this
package too, and must not pay for sockets and clients; no blocking program pays for asyncio.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vestal.aio import AsyncAdminClient, AsyncClient, AsyncEmbedClient
    from vestal.aio_streams import AsyncEventStream, AsyncStream, AsyncSubscription
    from vestal.client import AdminClient, Client, EmbedClient
    from vestal.errors import (
        BackendCrashed,
        BackendRefused,
        BackendUnavailable,
        CapabilityMissing,
        ConnectionFailed,
        ConnectionLost,
        ContextOverflow,
        DaemonNotReady,
        DaemonNotRunning,
        DaemonNotStarted,
        DeadlineExceeded,
        DuplicateId,
        FrameTooLarge,
        InternalError,
        InvalidRequest,
        LocalProtocolError,
        MalformedFrame,
        ModelError,
        ModelNotFound,
        NotAuthorized,
        PermissionRefused,
        ProtocolError,
        QueueFull,
        QueueTimeout,
        QuotaExceeded,
        RemoteProtocolError,
        ShuttingDown,
        SlowConsumer,
        UnknownMessage,
        Unsupported,
        VersionUnsupported,
        VestalError,
        WireError,
    )
    from vestal.messages import (
        Counted,
        Done,
        EmbedPart,
        Event,
        Goaway,
        Queued,
        RouteCandidate,
        RouteReport,
        Snapshot,
        Started,
        Text,
        ThinkingDelta,
        Token,
        ToolUse,
        Welcome,
    )
    from vestal.readiness import Progress
    from vestal.requests import MessageLike, Options, Prompt
    from vestal.results import Embeddings, GenerateEvent, Result
    from vestal.streams import EventStream, Stream, Subscription
    from vestal.values import (
        Attachment,
        AudioBlock,
        Capabilities,
        ContentBlock,
        ImageBlock,
        Message,
        MessageV2,
        NamedTool,
        Notice,
        ResponseFormat,
        TextBlock,
        ThinkingBlock,
        Timings,
        TokenLogprob,
        Tool,
        ToolResultBlock,
        ToolUseBlock,
        TopLogprob,
        Usage,
    )

_HOMES: dict[str, str] = {
    "vestal.aio": "AsyncAdminClient AsyncClient AsyncEmbedClient",
    "vestal.aio_streams": "AsyncEventStream AsyncStream AsyncSubscription",
    "vestal.client": "AdminClient Client EmbedClient",
    "vestal.errors": (
        "BackendCrashed BackendRefused BackendUnavailable CapabilityMissing ConnectionFailed ConnectionLost "
        "ContextOverflow DaemonNotReady DaemonNotRunning DaemonNotStarted DeadlineExceeded DuplicateId FrameTooLarge "
        "InternalError InvalidRequest LocalProtocolError MalformedFrame ModelError ModelNotFound NotAuthorized "
        "PermissionRefused ProtocolError QueueFull QueueTimeout QuotaExceeded RemoteProtocolError ShuttingDown "
        "SlowConsumer UnknownMessage Unsupported VersionUnsupported VestalError WireError"
    ),
    "vestal.messages": (
        "Counted Done EmbedPart Event Goaway Queued RouteCandidate RouteReport Snapshot Started Text ThinkingDelta "
        "Token ToolUse Welcome"
    ),
    "vestal.readiness": "Progress",
    "vestal.requests": "MessageLike Options Prompt",
    "vestal.results": "Embeddings GenerateEvent Result",
    "vestal.streams": "EventStream Stream Subscription",
    "vestal.values": (
        "Attachment AudioBlock Capabilities ContentBlock ImageBlock Message MessageV2 NamedTool Notice "
        "ResponseFormat TextBlock ThinkingBlock Timings TokenLogprob Tool ToolResultBlock ToolUseBlock TopLogprob Usage"
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AdminClient",
    "AsyncAdminClient",
    "AsyncClient",
    "AsyncEmbedClient",
    "AsyncEventStream",
    "AsyncStream",
    "AsyncSubscription",
    "Attachment",
    "AudioBlock",
    "BackendCrashed",
    "BackendRefused",
    "BackendUnavailable",
    "Capabilities",
    "CapabilityMissing",
    "Client",
    "ConnectionFailed",
    "ConnectionLost",
    "ContentBlock",
    "ContextOverflow",
    "Counted",
    "DaemonNotReady",
    "DaemonNotRunning",
    "DaemonNotStarted",
    "DeadlineExceeded",
    "Done",
    "DuplicateId",
    "EmbedClient",
    "EmbedPart",
    "Embeddings",
    "Event",
    "EventStream",
    "FrameTooLarge",
    "GenerateEvent",
    "Goaway",
    "ImageBlock",
    "InternalError",
    "InvalidRequest",
    "LocalProtocolError",
    "MalformedFrame",
    "Message",
    "MessageLike",
    "MessageV2",
    "ModelError",
    "ModelNotFound",
    "NamedTool",
    "NotAuthorized",
    "Notice",
    "Options",
    "PermissionRefused",
    "Progress",
    "Prompt",
    "ProtocolError",
    "QueueFull",
    "QueueTimeout",
    "Queued",
    "QuotaExceeded",
    "RemoteProtocolError",
    "ResponseFormat",
    "Result",
    "RouteCandidate",
    "RouteReport",
    "ShuttingDown",
    "SlowConsumer",
    "Snapshot",
    "Started",
    "Stream",
    "Subscription",
    "Text",
    "TextBlock",
    "ThinkingBlock",
    "ThinkingDelta",
    "Timings",
    "Token",
    "TokenLogprob",
    "Tool",
    "ToolResultBlock",
    "ToolUse",
    "ToolUseBlock",
    "TopLogprob",
    "UnknownMessage",
    "Unsupported",
    "Usage",
    "VersionUnsupported",
    "VestalError",
    "Welcome",
    "WireError",
    "__version__",
]


if not TYPE_CHECKING:  # to a type checker, a module with __getattr__ has every name, the misspelt ones too

    def __getattr__(name: str) -> object:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

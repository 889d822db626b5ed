"""A backend whose engine is a server elsewhere: a request goes out as its API has it, and comes back as events.

Ready means that the server was asked, and serves the model: that is `presence`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import ClassVar, TypeVar

from msgspec.structs import replace

from vestal.backend import (
    Backend,
    BackendOptions,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Health,
    Report,
    TokenEvent,
    TokenEventV2,
    ToolUseEvent,
)
from vestal.errors import Unsupported, WireError
from vestal.values import Capabilities
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.key import Key, as_bearer
from vestal_adapters.remote.options import RemoteOptions
from vestal_adapters.remote.presence import Presence
from vestal_adapters.remote.requests import NOT_CALLED, forces_a_call
from vestal_adapters.remote.sse import Event
from vestal_adapters.remote.streamed import StreamedAnswer

__all__ = ["RemoteBackend", "if_there"]

T = TypeVar("T")

_ABSENT = (404, 405, 501)  # a page that this server does not have


class RemoteBackend(Backend):
    """Subclasses say how to probe, and what to ask."""

    Options: ClassVar[type[BackendOptions]] = RemoteOptions
    doubts: ClassVar[bool] = True
    """Whether a failed request is a reason to ask again, and so is silence."""

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        if not isinstance(options, RemoteOptions):
            raise TypeError(f"backend {name!r}: expected RemoteOptions, got {type(options).__name__}")
        self.remote = options
        self._presence = Presence(name, self.probe, self._adopt, one_at_a_time=options.slots == 1, doubts=self.doubts)

    def headers(self, key: Key | None) -> dict[str, str]:
        """What every request carries beside its body."""
        return as_bearer(key)

    @abstractmethod
    async def probe(self, upstream: Upstream) -> Capabilities:
        """Ask whether the server serves the model, and what it can do. Raises `VestalError` saying why not.

        What costs the operator money is for the first time only, while `loading`.
        """

    @property
    def ready(self) -> bool:
        return self._presence.state == "ready"

    @property
    def loading(self) -> bool:
        return self._presence.state == "loading"

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self, report: Report) -> None:
        await self._presence.begin(Upstream(self.name, self.remote, self.headers), report)

    async def stop(self, timeout: float) -> None:
        await self._presence.end()

    async def health(self) -> Health:
        return await self._presence.health()

    def _adopt(self, said: Capabilities) -> None:
        self.capabilities = said

    # --- requests ---------------------------------------------------------------------------------------------

    def asking(self, *, in_turn: bool = True) -> AbstractAsyncContextManager[Upstream]:
        """The server, for one request. If nobody is there any more, the daemon hears of it; if in doubt, it asks."""
        return self._presence.asking(in_turn=in_turn)

    @abstractmethod
    def asked(
        self, upstream: Upstream, request: GenerateRequest | GenerateRequestV2
    ) -> tuple[AsyncGenerator[Event], StreamedAnswer]:
        """What comes for a request, and what makes sense of it. Raises `WireError` for what cannot be asked."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return self._stream(request)  # type: ignore[return-value]  # v1 answers hold no event of v2

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self._stream(request)

    async def _stream(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        """The events of one answer; a stream that ends before its answer does is an error."""
        if not self.capabilities.generate:
            raise Unsupported(f"backend {self.name!r} does not generate", details={"option": "generate"})
        async with self.asking() as upstream:
            pieces, answer = self.asked(upstream, request)
            must_call = forces_a_call(request)
            async with aclosing(pieces):
                async for piece in pieces:
                    for event in answer.feed(piece.data):
                        must_call &= not isinstance(event, ToolUseEvent)
                        yield _without_a_call(event) if must_call and isinstance(event, EndEvent) else event
                    if answer.ended:
                        return
            raise answer.cut_off()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self._presence.state}, slots={self.capabilities.slots}>"


def _without_a_call(end: EndEvent) -> EndEvent:
    """The end of an answer in which a call had to be; one that was cut off, or refused, may have had a reason."""
    ended = end.stop_reason in ("end", "stop_sequence")
    return replace(end, notices=[*end.notices, NOT_CALLED]) if ended else end


async def if_there(asking: Awaitable[T], absent: T) -> T:
    """What a page says that not every server with this API has."""
    try:
        return await asking
    except WireError as exc:
        if exc.details.get("status") in _ABSENT:
            return absent
        raise

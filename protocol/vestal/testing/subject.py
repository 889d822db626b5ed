"""A backend under test, asked as the daemon asks: behind the gate of `check_supported`, with a deadline on everything.

`Subject.answer` reads one stream to its end and holds it to the grammar of the port's events; the checks then look
at what it said. Whatever is not as promised is `Broken`, in words for the author of the adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from vestal.backend import (
    Backend,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    PromptEvent,
    Ready,
    TextEvent,
    ThinkingEvent,
    TokenEventV2,
    ToolUseEvent,
    Unavailable,
    check_supported,
)
from vestal.errors import Unsupported, WireError
from vestal.values import Capabilities, GenerateOptions, Message, MessageV2, TextBlock, Tool

__all__ = ["Answer", "Broken", "Inapplicable", "Outage", "Subject"]

T = TypeVar("T")
Outage = Callable[[Backend], AbstractAsyncContextManager[None]]
"""Takes the engine of a backend that serves away on entry; after its exit there must be a way for it to come back."""

_EVENTS_V1 = (PromptEvent, TextEvent, EndEvent)
_EVENTS_V2 = (*_EVENTS_V1, ThinkingEvent, ToolUseEvent)
_SCOPE = "0"  # the uid whose cache the requests of a check see


class Broken(AssertionError):
    """A promise of the port that the backend does not keep."""


class Inapplicable(Exception):
    """The check does not concern this backend; the message says why."""


class Answer(Struct, frozen=True):
    """A stream that was read to its end."""

    events: tuple[TokenEventV2, ...]
    end: EndEvent

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextEvent))

    @property
    def tool_uses(self) -> list[ToolUseEvent]:
        return [event for event in self.events if isinstance(event, ToolUseEvent)]


class Subject:
    """How to make the backend, what to ask it, and how long to wait for anything."""

    def __init__(
        self,
        make: Callable[[], Backend],
        prompt: str,
        patience: float,
        stop_timeout: float,
        outage: Outage | None = None,
    ) -> None:
        self.make = make
        self.prompt = prompt
        self.patience = patience
        self.stop_timeout = stop_timeout
        self.outage = outage

    async def within(self, what: str, work: Awaitable[T]) -> T:
        """Await `work`; taking longer than `patience` is `Broken`."""
        try:
            async with asyncio.timeout(self.patience):
                return await work
        except TimeoutError:
            raise Broken(f"{what} did not end within {self.patience:g} s") from None

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self, backend: Backend) -> list[Loading | Ready | Unavailable]:
        """Start it; what it reported meanwhile."""
        reports: list[Loading | Ready | Unavailable] = []
        try:
            await self.within("start()", backend.start(reports.append))
        except Broken:
            raise
        except Exception as exc:  # an adapter may raise anything, and its author must see what
            raise Broken(f"start() raised {exc!r}") from exc
        return reports

    async def stop(self, backend: Backend) -> None:
        """Stop it; longer than the timeout it was given, or an exception, is `Broken`."""
        try:
            async with asyncio.timeout(self.stop_timeout + 1):
                await backend.stop(self.stop_timeout)
        except TimeoutError:
            raise Broken(f"stop({self.stop_timeout:g}) did not return in that time") from None
        except Exception as exc:  # the port says that stop is legal at any time
            raise Broken(f"stop() raised {exc!r}") from exc

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Backend]:
        """A backend of its own, started, and stopped at the end."""
        backend = self.make()
        try:
            await self.start(backend)
            yield backend
        finally:
            await self.stop(backend)

    # --- requests ---------------------------------------------------------------------------------------------

    def request(self, backend: Backend, prompt: str | None = None, **options: Any) -> GenerateRequest:
        """A v1 request for a few tokens; `options` go before what keeps the answer short."""
        return GenerateRequest(
            messages=[Message("user", self.prompt if prompt is None else prompt)],
            options=_short(backend.capabilities, options),
            cache_scope=_SCOPE,
        )

    def request_v2(self, backend: Backend, tools: list[Tool] | None = None, **fields: Any) -> GenerateRequestV2:
        request = GenerateRequestV2(
            messages=[MessageV2("user", [TextBlock(self.prompt)])],
            options=_short(backend.capabilities, {}),
            tools=tools or [],
            cache_scope=_SCOPE,
        )
        return replace(request, **fields)

    def stream(
        self, backend: Backend, request: GenerateRequest | GenerateRequestV2
    ) -> AsyncGenerator[TokenEventV2, None]:
        """The backend's iterator. Raises `Unsupported` where the daemon would not ask."""
        check_supported(request, backend.capabilities)
        stream: object = (
            backend.generate_v2(request) if isinstance(request, GenerateRequestV2) else backend.generate(request)
        )
        if not isinstance(stream, AsyncIterator) or not hasattr(stream, "aclose"):
            raise Broken(f"generate returned {type(stream).__name__}: no async iterator with `aclose()`")
        return stream  # type: ignore[return-value]  # duck-typed: iteration and aclose are all that is promised

    async def answer(self, backend: Backend, request: GenerateRequest | GenerateRequestV2) -> Answer:
        """The whole stream, which must keep to the port. Raises `WireError` if the backend refused before it began."""
        stream = self.stream(backend, request)
        try:
            return await self.within("a request", _read(stream, isinstance(request, GenerateRequestV2)))
        finally:
            await self.within("aclose()", stream.aclose())

    async def served(self, backend: Backend, request: GenerateRequest | GenerateRequestV2) -> Answer:
        """The same for a request that nothing is wrong with: a refusal is `Broken`."""
        try:
            return await self.answer(backend, request)
        except WireError as exc:
            raise Broken(f"an ordinary request was refused: {exc!r}") from exc


def _short(capabilities: Capabilities, options: dict[str, Any]) -> GenerateOptions:
    default = {"max_tokens": 24} if "max_tokens" in capabilities.options else {}
    return GenerateOptions(**(default | options))


async def _read(stream: AsyncIterator[TokenEventV2], v2: bool) -> Answer:
    events: list[TokenEventV2] = []
    try:
        async for event in stream:
            _check_place(event, events, _EVENTS_V2 if v2 else _EVENTS_V1)
            events.append(event)
    except (Broken, WireError) as exc:
        if isinstance(exc, WireError) and events:
            raise Broken(f"a request failed after {len(events)} events: {exc!r}") from exc
        raise
    except Exception as exc:  # what is foreign must be translated at the adapter's edge
        raise Broken(f"{type(exc).__name__} leaked out of the stream instead of a WireError: {exc}") from exc
    if not events or not isinstance(events[-1], EndEvent):
        raise Broken(f"the stream ended after {len(events)} events without an EndEvent")
    _check_usage(events, events[-1])
    return Answer(tuple(events), events[-1])


def _check_place(event: TokenEventV2, before: list[TokenEventV2], allowed: tuple[type, ...]) -> None:
    if not isinstance(event, allowed):
        raise Broken(f"{type(event).__name__} is no event of this version")
    if before and isinstance(before[-1], EndEvent):
        raise Broken(f"{type(event).__name__} came after the EndEvent")
    if isinstance(event, PromptEvent) and before:
        raise Broken("PromptEvent may come once, and before everything else")


def _check_usage(events: list[TokenEventV2], end: EndEvent) -> None:
    usage = end.usage
    told = sum(event.tokens for event in events if isinstance(event, (TextEvent, ThinkingEvent, ToolUseEvent)))
    if usage.input_tokens < 1:
        raise Broken(f"usage.input_tokens is {usage.input_tokens}: the prompt took at least one")
    if not 0 <= usage.cached_tokens <= usage.input_tokens:
        raise Broken(f"usage.cached_tokens is {usage.cached_tokens} of {usage.input_tokens} input tokens")
    if told > usage.output_tokens:
        raise Broken(f"the events say {told} tokens, usage.output_tokens says {usage.output_tokens}")
    if isinstance(first := events[0], PromptEvent) and first.input_tokens != usage.input_tokens:
        raise Broken(f"PromptEvent says {first.input_tokens} input tokens, usage says {usage.input_tokens}")
    called = any(isinstance(event, ToolUseEvent) for event in events)
    if called and end.stop_reason not in ("tool_use", "length"):
        raise Broken(f"stop_reason is {end.stop_reason!r} with a ToolUseEvent")
    if end.stop_reason == "tool_use" and not called:
        raise Broken("stop_reason is 'tool_use' without a ToolUseEvent")


def refusal_names(error: Unsupported, option: str) -> bool:
    """Whether a refusal tells which option it is about."""
    return str(error.details.get("option", "")).startswith(option)

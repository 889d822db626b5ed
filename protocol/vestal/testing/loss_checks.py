"""The check of an engine that goes away while it serves: one error for what ran in it, the truth, and its return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from vestal.backend import Backend, EndEvent, Loading, Ready, TextEvent, TokenEventV2, Unavailable
from vestal.errors import WireError
from vestal.testing.subject import Broken, Inapplicable, Subject

__all__ = ["loss"]

T = TypeVar("T")

_LONG = 200  # tokens: it must not be over before its engine is gone


class _Listener:
    """What the backend reports, each with whether it was ready at that moment."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._news: asyncio.Queue[tuple[Loading | Ready | Unavailable, bool]] = asyncio.Queue()

    def __call__(self, event: Loading | Ready | Unavailable) -> None:
        self._news.put_nowait((event, self._backend.ready))

    async def until(self, kind: type[T]) -> tuple[T, bool]:
        while True:
            event, ready = await self._news.get()
            if isinstance(event, kind):
                return event, ready


async def loss(subject: Subject) -> None:
    """An engine that goes costs what runs in it one error, is told of at once, and again when it is back."""
    if subject.outage is None:
        raise Inapplicable("nobody has said how to take its engine away: check_backend(..., outage=...)")
    backend = subject.make()
    listener = _Listener(backend)
    try:
        await subject.within("start()", backend.start(listener))
        stream = await _begun(subject, backend)
        async with subject.outage(backend):
            if stream is not None:
                await subject.within("an answer whose engine is gone", _must_fail(stream))
            lost = await _lost(subject, backend, listener)
        if lost.recovering:
            await _regained(subject, backend, listener)
    finally:
        await subject.stop(backend)


async def _begun(subject: Subject, backend: Backend) -> AsyncGenerator[TokenEventV2, None] | None:
    """An answer in its middle, if it generates."""
    if not backend.capabilities.generate:
        return None
    limit: dict[str, Any] = {"max_tokens": _LONG} if "max_tokens" in backend.capabilities.options else {}
    stream = subject.stream(backend, subject.request(backend, **limit))
    while not isinstance(await subject.within("the first text", anext(stream)), TextEvent):
        pass
    return stream


async def _must_fail(stream: AsyncGenerator[TokenEventV2, None]) -> None:
    try:
        async for event in stream:
            if isinstance(event, EndEvent):
                raise Broken("an answer whose engine is gone ended as if it were whole (or was, of a short prompt)")
    except WireError:
        return
    except Broken:
        raise
    except Exception as exc:  # what is foreign must be translated at the adapter's edge
        raise Broken(f"{type(exc).__name__} leaked out of the stream instead of a WireError: {exc}") from exc
    finally:
        await stream.aclose()
    raise Broken("an answer whose engine is gone ended without an error")


async def _lost(subject: Subject, backend: Backend, listener: _Listener) -> Unavailable:
    """It is told, although nobody asks for it."""
    lost, ready = await subject.within("the report that its engine is gone", listener.until(Unavailable))
    if ready:
        raise Broken(f"it was ready while it reported {lost!r}")
    await _must_agree(subject, backend)
    return lost


async def _must_agree(subject: Subject, backend: Backend) -> None:
    """health() and `ready` say the same, unless it came back between the two."""
    before = backend.ready
    told = await subject.within("health()", backend.health())
    if before == backend.ready != (told.state == "ok"):
        raise Broken(f"health() says {told.state!r} of a backend whose engine is gone, and `ready` is {before}")


async def _regained(subject: Subject, backend: Backend, listener: _Listener) -> None:
    await subject.within("the report that its engine is back", listener.until(Ready))
    if not backend.ready:
        raise Broken("it reported Ready() and is not")
    if backend.capabilities.generate:
        await subject.served(backend, subject.request(backend))

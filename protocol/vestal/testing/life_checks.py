"""Checks of a backend's life: loading, readiness, health, restart, and a stop at any time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from vestal.backend import Backend, Loading, Ready, Unavailable
from vestal.errors import VestalError, WireError
from vestal.testing.subject import Broken, Inapplicable, Subject
from vestal.values import Capabilities, GenerateOptions

__all__ = ["capabilities", "health", "readiness", "restart", "stop_while_running", "stop_while_starting"]

_FLAG_NEEDS_V2 = ("tools", "thinking", "vision", "audio")
_OF_EMBED = ("embedding_batch", "embedding_tasks", "embedding_shortest", "embedding_longest", "embedding_raw")


async def readiness(subject: Subject) -> None:
    """Not ready before start() has returned, ready after it, not ready after stop(); progress never falls."""
    backend = subject.make()
    _must_not_be_ready(backend, "it is ready before start() was called")
    seen: list[tuple[Loading | Ready | Unavailable, bool]] = []
    try:
        async with asyncio.timeout(subject.patience):
            await backend.start(lambda report: seen.append((report, backend.ready)))
        _must_be_ready(backend, "it is not ready although start() returned")
        _check_progress(seen)
    except TimeoutError:
        raise Broken(f"start() did not return within {subject.patience:g} s") from None
    finally:
        await subject.stop(backend)
    _must_not_be_ready(backend, "it is ready although it was stopped")
    if (await subject.within("health()", backend.health())).state == "ok":
        raise Broken("health() says 'ok' of a backend that was stopped")
    await subject.stop(backend)
    await _refuses(subject, backend)


def _must_be_ready(backend: Backend, broken: str) -> None:
    if not backend.ready:
        raise Broken(broken)


def _must_not_be_ready(backend: Backend, broken: str) -> None:
    if backend.ready:
        raise Broken(broken)


def _check_progress(seen: list[tuple[Loading | Ready | Unavailable, bool]]) -> None:
    last = 0.0
    for report, ready in seen:
        if isinstance(report, Unavailable):
            raise Broken(f"start() returned, and had reported {report!r}")
        if not isinstance(report, Loading):
            continue
        if ready:
            raise Broken(f"it was ready while it reported {report!r}")
        if not last <= report.percent <= 100:
            raise Broken(f"it reported {report.percent} % after {last} %")
        last = report.percent


async def _refuses(subject: Subject, backend: Backend) -> None:
    """A stopped backend fails with an error of the port, before the first event."""
    if not backend.capabilities.generate:
        return
    try:
        await subject.answer(backend, subject.request(backend))
    except WireError:
        return
    raise Broken("a stopped backend answered a request")


async def capabilities(_subject: Subject, backend: Backend) -> None:
    """Capabilities are valid and agree with themselves."""
    told = backend.capabilities
    try:
        msgspec.convert(msgspec.to_builtins(told), Capabilities)
    except msgspec.ValidationError as exc:
        raise Broken(f"capabilities are not valid: {exc}") from None
    if not told.model:
        raise Broken("capabilities.model is empty: clients choose by it")
    if not (told.generate or told.embed):
        raise Broken("it neither generates nor embeds")
    if told.embed and told.embedding_dimensions is None:
        raise Broken("it embeds, and embedding_dimensions is not known")
    if not told.embed and (said := [name for name in _OF_EMBED if getattr(told, name) is not None]):
        raise Broken(f"it does not embed, and says {', '.join(said)}")
    own, shortest, longest = told.embedding_dimensions, told.embedding_shortest, told.embedding_longest
    if own is not None and not (shortest or own) <= own <= (longest or own):
        raise Broken(f"its vectors have {own} dimensions, and it says that it can make {shortest} to {longest}")
    if unknown := set(told.options) - set(GenerateOptions.__struct_fields__):
        raise Broken(f"capabilities.options names what is no option: {', '.join(sorted(unknown))}")
    if not told.v2 and (flags := [flag for flag in _FLAG_NEEDS_V2 if getattr(told, flag)]):
        raise Broken(f"{', '.join(flags)} cannot be asked for without v2")


async def health(subject: Subject, backend: Backend) -> None:
    """health() never raises, and does not say `ok` of what is not ready."""
    unstarted = subject.make()
    for state, which in (("serving", backend), ("not started", unstarted)):
        try:
            told = await subject.within("health()", which.health())
        except Broken:
            raise
        except Exception as exc:  # whatever it is, the port forbids it
            raise Broken(f"health() raised {exc!r} of a backend that is {state}") from exc
        if (told.state == "ok") != (which is backend):
            raise Broken(f"health() says {told.state!r} of a backend that is {state}")
    await subject.stop(unstarted)


async def restart(subject: Subject) -> None:
    """start() after stop() serves again."""
    backend = subject.make()
    try:
        for _ in range(2):
            await subject.start(backend)
            _must_be_ready(backend, "it is not ready although start() returned")
            if backend.capabilities.generate:
                await subject.served(backend, subject.request(backend))
            await subject.stop(backend)
    finally:
        await subject.stop(backend)


async def stop_while_starting(subject: Subject) -> None:
    """stop() during start() returns in time, ends the start, and leaves nothing ready."""
    backend = subject.make()
    begun = asyncio.Event()
    starting = asyncio.create_task(_start(backend, begun))
    first = asyncio.create_task(begun.wait())
    try:
        async with asyncio.timeout(subject.patience):
            await asyncio.wait({starting, first}, return_when=asyncio.FIRST_COMPLETED)
        await subject.stop(backend)
        await asyncio.wait({starting}, timeout=subject.patience)
        if not starting.done():
            raise Broken(f"start() did not end within {subject.patience:g} s of stop()")
        if not starting.cancelled() and (fault := starting.exception()) is not None:
            raise Broken(f"start(), stopped on its way, raised {fault!r} instead of a VestalError") from fault
        _must_not_be_ready(backend, "it was stopped while it started, and is ready")
    finally:
        for task in (starting, first):
            task.cancel()
        await asyncio.wait({starting, first}, timeout=subject.patience)
        await subject.stop(backend)


async def _start(backend: Backend, begun: asyncio.Event) -> None:
    with suppress(VestalError):  # what a start that is stopped should raise
        await backend.start(lambda _report: begun.set())


async def stop_while_running(subject: Subject) -> None:
    """stop() ends the answers that are under way with an error of the port, or lets them end."""
    async with subject.serving() as backend:
        if not backend.capabilities.generate:
            raise Inapplicable("it does not generate")
        stream = subject.stream(backend, subject.request(backend))
        await subject.within("the first event", anext(stream))
        await subject.stop(backend)
        try:
            await subject.within("a request, after stop(),", _exhaust(stream))
        except WireError:
            pass
        except Broken:
            raise
        except Exception as exc:  # what is foreign must be translated at the adapter's edge
            raise Broken(f"{type(exc).__name__} leaked out of a stream that was stopped: {exc}") from exc
        finally:
            await stream.aclose()


async def _exhaust(stream: object) -> None:
    async for _ in stream:  # type: ignore[attr-defined]  # an AsyncIterator, as the subject has checked
        pass

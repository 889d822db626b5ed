"""Checks of answers: events and usage, the token limit, cancellation, concurrency, prompts that do not fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from vestal.backend import Backend
from vestal.errors import Unsupported, WireError
from vestal.testing.subject import Broken, Inapplicable, Subject

__all__ = ["cancelling", "closing", "concurrency", "context_overflow", "generate", "generate_v2", "max_tokens"]

_MOST_AT_ONCE = 16  # slots that are tried: a backend may have thousands
_LONGEST_CONTEXT = 1 << 17  # tokens: past it the prompt of the check would be the larger problem


async def generate(subject: Subject, backend: Backend) -> None:
    """A v1 answer: its events in order, one end, and a usage that adds up."""
    if backend.capabilities.generate:
        answer = await subject.served(backend, subject.request(backend))
        if not answer.text:
            raise Broken("the answer to an ordinary prompt is empty")
        return
    try:
        await subject.answer(backend, subject.request(backend))
    except WireError:
        return
    raise Broken("its capabilities say that it does not generate, and it does")


async def generate_v2(subject: Subject, backend: Backend) -> None:
    """A v2 answer, where v2 is promised; `Unsupported` where it is not."""
    if backend.capabilities.v2:
        await subject.served(backend, subject.request_v2(backend))
        return
    try:
        await anext(backend.generate_v2(subject.request_v2(backend)))
    except Unsupported:
        return
    except (WireError, StopAsyncIteration) as exc:
        raise Broken(f"it does not speak v2, and says so with {exc!r} instead of Unsupported") from exc
    raise Broken("its capabilities say that it does not speak v2, and it does")


async def max_tokens(subject: Subject, backend: Backend) -> None:
    """An answer that reached max_tokens is not longer, and says `length`."""
    _must_generate(backend)
    if "max_tokens" not in backend.capabilities.options:
        raise Inapplicable("it does not take max_tokens")
    answer = await subject.served(backend, subject.request(backend, max_tokens=1))
    if answer.end.usage.output_tokens > 1:
        raise Broken(f"max_tokens=1 made {answer.end.usage.output_tokens} tokens")
    if answer.end.stop_reason != "length":
        raise Broken(f"max_tokens=1 ended with stop_reason {answer.end.stop_reason!r} instead of 'length'")


async def closing(subject: Subject, backend: Backend) -> None:
    """aclose() of a stream under way gives its slot back."""
    _must_generate(backend)
    for _ in range(_slots(backend) + 1):
        stream = subject.stream(backend, subject.request(backend))
        try:
            await subject.within("the first event after others were closed", anext(stream))
        except WireError as exc:
            raise Broken(f"after others were closed, a request was refused: {exc!r}") from exc
        finally:
            await subject.within("aclose()", stream.aclose())
    await subject.served(backend, subject.request(backend))


async def cancelling(subject: Subject, backend: Backend) -> None:
    """Cancelling the task that reads a stream ends it, and gives its slot back."""
    _must_generate(backend)
    for _ in range(_slots(backend) + 1):
        await _cancel_one(subject, backend)
    await subject.served(backend, subject.request(backend))


async def _cancel_one(subject: Subject, backend: Backend) -> None:
    begun = asyncio.Event()
    stream = subject.stream(backend, subject.request(backend))
    reading = asyncio.create_task(_read(stream, begun))
    first = asyncio.create_task(begun.wait())
    try:
        await subject.within(
            "the first event after others were cancelled",
            asyncio.wait({reading, first}, return_when=asyncio.FIRST_COMPLETED),
        )
        cancelled = reading.cancel()  # false if it ended already: too quick to be cancelled
        done, _ = await asyncio.wait({reading}, timeout=subject.patience)
        if not done:
            raise Broken(f"a cancelled request did not end within {subject.patience:g} s")
        if cancelled and not reading.cancelled():
            raise Broken(f"a stream swallowed its cancellation, and ended with {reading.exception()!r}")
    finally:
        for task in (first, reading):
            task.cancel()
        await asyncio.wait({first, reading}, timeout=subject.patience)
        await subject.within("aclose()", stream.aclose())


async def _read(stream: AsyncIterator[object], begun: asyncio.Event) -> None:
    async for _ in stream:
        begun.set()


async def concurrency(subject: Subject, backend: Backend) -> None:
    """As many requests at once as it has slots are all answered."""
    _must_generate(backend)
    slots = _slots(backend)
    asked = [subject.served(backend, subject.request(backend)) for _ in range(slots)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    if failed := [answer for answer in answers if isinstance(answer, BaseException)]:
        raise Broken(f"{len(failed)} of {slots} requests at once failed: {failed[0]}") from failed[0]


async def context_overflow(subject: Subject, backend: Backend) -> None:
    """A prompt longer than the context is refused before the first event, never cut short in silence."""
    _must_generate(backend)
    context = backend.capabilities.context_length
    if context is None or context > _LONGEST_CONTEXT:
        raise Inapplicable("no context length is known" if context is None else f"its context is {context} tokens")
    try:
        answer = await subject.answer(backend, subject.request(backend, "word " * (context + 16)))
    except WireError as exc:
        if exc.retryable:
            raise Broken(f"a prompt that cannot fit was refused as if it could later: {exc!r}") from exc
        return
    raise Broken(
        f"{context + 16} words were answered, at {answer.end.usage.input_tokens} input tokens, "
        f"in a context of {context}: something was cut off in silence"
    )


def _slots(backend: Backend) -> int:
    return min(backend.capabilities.slots, _MOST_AT_ONCE)


def _must_generate(backend: Backend) -> None:
    if not backend.capabilities.generate:
        raise Inapplicable("it does not generate")

"""Running one request, from frame to terminal frame: `generate` and `embed`.

The order is fixed: choose a backend, check that it can do what is asked, wait for a slot, run, end. However it
ends, exactly one terminal frame leaves, and for a cancel it leaves before the backend's iterator is closed: the
client does not wait for the engine to let go, only the slot does.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Protocol

from vestal import messages as m
from vestal.backend import (
    EmbedRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    TextEvent,
    check_supported,
)
from vestal.errors import DeadlineExceeded, InternalError, InvalidRequest, WireError
from vestal.framing import MAX_FRAME_LIMIT
from vestal.values import GenerateOptions, Usage
from vestald.admission import Ticket
from vestald.answer import Answer, Terminal, internal_error
from vestald.dispatcher import Dispatcher
from vestald.job import Job
from vestald.router import choose_embedder, choose_generator
from vestald.session import Session
from vestald.supervisor import Unit

__all__ = ["Embedding", "Generation", "Services"]

_CHARS_PER_TOKEN = 4  # a guess for the estimate on entry; the true cost corrects it
_OUTPUT_GUESS = 256  # tokens, where the client names no max_tokens
_FRAME_MARGIN = 64 * 1024  # bytes of an `embeddings` frame that are not vectors


class Services(Protocol):
    """What running a request needs of the daemon around it."""

    generating: Dispatcher
    embedding: Dispatcher

    def candidates(self) -> list[Unit]: ...
    def refuse_new_work(self) -> None: ...
    def ended(self, job: Job, outcome: str, usage: Usage) -> None: ...


class _Work(ABC):
    """What both kinds share: every way to end leads through `terminal`."""

    terminal: Terminal

    def __init__(self, session: Session, job: Job, services: Services) -> None:
        self.session = session
        self.job = job
        self.services = services

    @abstractmethod
    async def _serve(self) -> None:
        """Do the work and send the terminal frame, or raise."""

    async def run(self) -> None:
        """Run to the terminal frame; raises only what is a bug in the daemon."""
        self.job.interrupt = self.terminal.interrupted
        try:
            if self.job.ended is None:
                await self._serve()
        except asyncio.CancelledError as fault:
            if self.job.ended is None:
                if _is_cancelled():
                    raise
                self.terminal.fail(internal_error(self.job.backend, fault))  # the backend's own, not ours
        except WireError as error:
            self.terminal.fail(error)
        except Exception as fault:  # a backend may raise anything; its request pays with `internal`, nobody else
            self.terminal.fail(internal_error(self.job.backend, fault))
        if self.job.ended is not None:
            self.terminal.interrupted(self.job.ended)

    def _ticket(self, unit: Unit, cost: float, wait_ms: int | None = None) -> Ticket:
        self.job.backend = unit.name
        self.job.ticket = Ticket(
            self.job.number,
            unit.name,
            self.session.peer.uid,
            self.session.session_id,
            cost=cost,
            priority=self.job.priority,
            queue_deadline=None if wait_ms is None else self.job.accepted + wait_ms / 1000,
        )
        return self.job.ticket


class Generation(_Work):
    """One `generate`."""

    def __init__(self, session: Session, message: m.Generate | m.GenerateV2, job: Job, services: Services) -> None:
        super().__init__(session, job, services)
        self.message = message
        self.terminal: Answer = Answer(session, job, services.ended, stream=message.stream)

    async def _serve(self) -> None:
        timeout_ms = self.message.timeout_ms
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000) as scope:
                await self._admit()
        except TimeoutError:
            if not scope.expired():  # it is the backend's
                raise
            raise DeadlineExceeded(
                f"not finished within timeout_ms = {timeout_ms}; {self.job.output_tokens} tokens were made",
                hint="allow a longer timeout_ms, or ask for less with max_tokens",
                details={"timeout_ms": timeout_ms, "output_tokens": self.job.output_tokens},
            ) from None

    async def _admit(self) -> None:
        self.services.refuse_new_work()
        message, session = self.message, self.session
        unit = choose_generator(message.model, session.conn.version, self.services.candidates())
        request = _resolve(message, session.peer.uid)
        check_supported(request, unit.capabilities)
        self.terminal.model = model = unit.capabilities.model or unit.name
        cost = _size(message) / _CHARS_PER_TOKEN + (message.max_tokens or _OUTPUT_GUESS)
        ticket = self._ticket(unit, cost, message.queue_timeout_ms)
        watch = self._queued if "queue_events" in session.conn.features else None
        async with self.services.generating.slot(ticket, watch):
            self.terminal.started = time.monotonic()
            if watch is not None and session.alive:
                session.send(m.Started(id=message.id, backend=unit.name, model=model))
            await self._stream(unit, request, ticket)

    async def _stream(self, unit: Unit, request: GenerateRequest | GenerateRequestV2, ticket: Ticket) -> None:
        backend = unit.backend
        stream: AsyncIterator[Any] = (
            backend.generate(request) if isinstance(request, GenerateRequest) else backend.generate_v2(request)
        )
        try:
            self.terminal.finish(await self._pump(stream))
        finally:
            used = self.terminal.usage()
            ticket.used = float(used.input_tokens - used.cached_tokens + used.output_tokens)
            if (aclose := getattr(stream, "aclose", None)) is not None:
                await aclose()

    async def _pump(self, stream: AsyncIterator[Any]) -> EndEvent:
        """Relay every event. The hot path: once a token."""
        session, add = self.session, self.terminal.add
        async for event in stream:
            if type(event) is not TextEvent and isinstance(event, EndEvent):
                return event
            add(event)
            if session.congested:
                await session.room()
        raise InternalError(
            f"backend {self.job.backend!r} ended its stream without an end event after {self.job.output_tokens} tokens",
            hint="this is a fault in the adapter",
        )

    def _queued(self, position: int, depth: int, eta_ms: int | None) -> None:
        if self.session.alive and not self.terminal.sent:
            self.session.send(m.Queued(id=self.message.id, position=position, depth=depth, eta_ms=eta_ms))


class Embedding(_Work):
    """One `embed`."""

    def __init__(self, session: Session, message: m.Embed, job: Job, services: Services) -> None:
        super().__init__(session, job, services)
        self.message = message
        self.terminal = Terminal(session, job, services.ended)

    async def _serve(self) -> None:
        self.services.refuse_new_work()
        message = self.message
        unit = choose_embedder(message.model, self.services.candidates())
        self.terminal.model = model = unit.capabilities.model or unit.name
        self._check_size(unit.capabilities.embedding_dimensions or 0)
        cost = sum(map(len, message.input)) / _CHARS_PER_TOKEN
        request = EmbedRequest(
            input=message.input, dimensions=message.dimensions, task=message.task, normalize=message.normalize
        )
        async with self.services.embedding.slot(self._ticket(unit, cost)) as ticket:
            self.terminal.started = time.monotonic()
            result = await unit.backend.embed(request)
            ticket.used = float(result.input_tokens)
        if self.session.congested:  # vectors are many times what was asked with: they are no exception
            await self.session.room()
        usage = Usage(input_tokens=result.input_tokens)
        frame = m.Embeddings(
            id=message.id,
            count=result.count,
            dimensions=result.dimensions,
            dtype="f32le",
            data=result.data,
            usage=usage,
            model=model,
            backend=unit.name,
        )
        self.terminal.end(frame, "end", usage)

    def _check_size(self, dimensions: int) -> None:
        row = 4 * (self.message.dimensions or dimensions)
        most = (MAX_FRAME_LIMIT - _FRAME_MARGIN) // row if row else len(self.message.input)
        if len(self.message.input) > most:
            raise InvalidRequest(
                f"embed.input: {len(self.message.input)} texts of {row} bytes a vector do not fit one frame",
                hint=f"ask for at most {most} texts a request",
                details={"field": "input", "count": len(self.message.input), "limit": most},
            )


def _is_cancelled() -> bool:
    """Whether somebody asked for the end of this task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _resolve(message: m.Generate | m.GenerateV2, uid: int) -> GenerateRequest | GenerateRequestV2:
    """The port's request: the wire message without what only the wire needs."""
    options = GenerateOptions(**{name: getattr(message, name) for name in GenerateOptions.__struct_fields__})
    scope = None if message.cache == "none" else str(uid)
    if isinstance(message, m.Generate):
        return GenerateRequest(messages=message.messages, options=options, cache_scope=scope)
    return GenerateRequestV2(
        messages=message.messages,
        options=options,
        tools=message.tools,
        tool_choice=message.tool_choice,
        thinking=message.thinking,
        attachments=message.attachments,
        cache_scope=scope,
    )


def _size(message: m.Generate | m.GenerateV2) -> int:
    """Characters of text in a conversation."""
    if isinstance(message, m.Generate):
        return sum(len(turn.content) for turn in message.messages)
    return sum(len(getattr(block, "text", "")) for turn in message.messages for block in turn.content)

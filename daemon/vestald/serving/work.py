"""Running one request, from frame to terminal frame: what every kind of work shares, and `generate`.

The order is fixed: choose a backend, check that it can do what is asked, wait for a slot, run, end. However it
ends, exactly one terminal frame leaves, and for a cancel it leaves before the backend's iterator is closed: the
client does not wait for the engine to let go, only the slot does.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Protocol

from vestal import messages as m
from vestal.backend import (
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    TextEvent,
    check_supported,
)
from vestal.errors import BackendCrashed, BackendUnavailable, DeadlineExceeded, InternalError, SlowConsumer, WireError
from vestal.values import GenerateOptions, Priority, Usage
from vestald.admission.deadlines import Deadlines
from vestald.admission.dispatcher import Dispatcher
from vestald.admission.estimate import Spent
from vestald.admission.ticket import Ticket
from vestald.backends.unit import Unit
from vestald.metrics.meter import Meter
from vestald.routing.blame import internal_error
from vestald.routing.board import Board
from vestald.routing.breaker import counts
from vestald.routing.route import Ask
from vestald.serving.answer import Answer, Terminal
from vestald.serving.job import Job
from vestald.serving.session import Session

__all__ = ["CHARS_PER_TOKEN", "Generation", "Services", "Work"]

CHARS_PER_TOKEN = 4  # a guess for the estimate on entry; the true cost corrects it


class Services(Protocol):
    """What running a request needs of the daemon around it."""

    generating: Dispatcher
    embedding: Dispatcher
    deadlines: Deadlines

    @property
    def routes(self) -> Board: ...
    def refuse_new_work(self) -> None: ...
    def check_class(self, uid: int, priority: Priority) -> None: ...
    def meter(self, backend: str) -> Meter: ...
    def ended(self, job: Job, outcome: str, usage: Usage) -> None: ...


class Work(ABC):
    """What all kinds share: every way to end leads through `terminal`."""

    terminal: Terminal
    asked_ms: int | None  # its own timeout_ms

    def __init__(self, session: Session, job: Job, services: Services) -> None:
        self.session = session
        self.job = job
        self.services = services
        self._timer: asyncio.TimerHandle | None = None
        self._late = False

    @abstractmethod
    async def _serve(self, whole: float | None) -> None:
        """Do the work and send the terminal frame, or raise; `whole` is the seconds it may take."""

    async def run(self) -> None:
        """Run to the terminal frame; raises only what is a bug in the daemon."""
        self.job.interrupt = self.terminal.interrupted
        try:
            if self.job.ended is None:
                await self._serve(self._set_deadline())
        except asyncio.CancelledError as fault:
            if self.job.ended is None and not self._late:
                if _is_cancelled():
                    raise
                self.terminal.fail(internal_error(self.job.backend, fault))  # the backend's own, not ours
        except WireError as error:
            self.terminal.fail(error)
        except Exception as fault:  # a backend may raise anything; its request pays with `internal`, nobody else
            self.terminal.fail(internal_error(self.job.backend, fault))
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self.job.ended is not None:
            self.terminal.interrupted(self.job.ended)

    def _set_deadline(self) -> float | None:
        whole = self.services.deadlines.whole(self.asked_ms)
        if whole is not None:
            left = self.job.accepted + whole - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left), self._out_of_time, whole)
        return whole

    def _out_of_time(self, whole: float) -> None:
        """The terminal frame leaves now; the slot is free when the engine has let go."""
        if self.terminal.sent or self.job.task is None:
            return
        self._late = True
        whose = "timeout_ms" if self.asked_ms is not None else "admission.timeout, the default of timeout_ms,"
        self.terminal.fail(
            DeadlineExceeded(
                f"not finished within {whose} = {round(1000 * whole)}; {self.job.output_tokens} tokens were made",
                hint="allow a longer timeout_ms, or ask for less with max_tokens",
                details={"timeout_ms": round(1000 * whole), "output_tokens": self.job.output_tokens},
            )
        )
        self.job.task.cancel()

    def _ticket(self, unit: Unit, prompt: float, output: float, wait: float | None, whole: float | None) -> Ticket:
        ticket = Ticket(
            self.job.number,
            unit.name,
            self.session.peer.uid,
            self.session.session_id,
            cost=prompt + output,
            output=output,
            priority=self.job.priority,
            accepted=self.job.accepted,
            queue_timeout=wait,
            timeout=whole,
        )
        self.job.tickets.append(ticket)
        return ticket


class _Changed(Exception):  # no error: the request goes on
    """While a request waited for it, a backend became one that the request does not mean, or that cannot do it."""


class Generation(Work):
    """One `generate`."""

    def __init__(self, session: Session, message: m.Generate | m.GenerateV2, job: Job, services: Services) -> None:
        super().__init__(session, job, services)
        self.message = message
        self.terminal: Answer = Answer(session, job, services.ended, stream=message.stream)
        self._handed_over = False
        self._retried = 0
        self._waited_for: set[Unit] = set()  # and not served
        self.asked_ms = message.timeout_ms

    async def _serve(self, whole: float | None) -> None:
        self.services.refuse_new_work()
        self.services.check_class(self.session.peer.uid, self.job.priority)
        request = _resolve(self.message, self.session.peer.uid)
        ask = Ask(
            version=self.session.conn.version,
            model=self.message.model,
            check=partial(check_supported, request),
        )
        unit = self.services.routes.choose(ask)
        while True:
            try:
                await self._attempt(unit, ask, request, whole)
                return
            except _Changed:
                unit = self.services.routes.choose(ask)
            except WireError as error:
                if (other := self._another(unit, error, ask)) is None:
                    raise
                unit = other

    def _another(self, unit: Unit, error: WireError, ask: Ask) -> Unit | None:
        """Who is asked after `unit`, which gave up those who waited for it, or failed before any output came.

        The first is no retry: nobody had the request. The second is one, so it is the operator's to allow, and told;
        a backend that crashed on the request does not get it again.
        """
        routes = self.services.routes
        if not self._handed_over:
            waited_in_vain = isinstance(error, BackendUnavailable) and unit not in self._waited_for
            self._waited_for.add(unit)
            other = routes.another(ask, but=unit) if waited_in_vain else None
            return other if other is not unit else None
        if self._retried >= routes.retries or not counts(error) or not self.terminal.empty:
            return None
        other = routes.another(ask, but=unit)
        if other is None or (other is unit and (isinstance(error, BackendCrashed) or not error.retryable)):
            return None
        self._retried += 1
        self._handed_over = False
        self.terminal.retried(unit.name, error, other.name)
        return other

    async def _attempt(
        self, unit: Unit, ask: Ask, request: GenerateRequest | GenerateRequestV2, whole: float | None
    ) -> None:
        """Raises `_Changed` if it waited for what is not there any more."""
        message, session = self.message, self.session
        self.job.backend, self.terminal.model = unit.name, unit.capabilities.model or unit.name
        wait = self.services.deadlines.waiting(message.queue_timeout_ms)
        output = self.services.generating.pace(unit.name).expected_output(message.max_tokens)
        ticket = self._ticket(unit, _size(message) / CHARS_PER_TOKEN, output, wait, whole)
        watch = self._queued if "queue_events" in session.conn.features else None
        async with self.services.generating.slot(ticket, watch):
            if ticket.started > ticket.entered and not self.services.routes.fits(unit, ask):
                ticket.used = 0.0
                raise _Changed
            self.terminal.started = time.monotonic()
            self.terminal.meter = self.services.meter(unit.name)
            self.terminal.model = model = unit.capabilities.model or unit.name
            if watch is not None and session.alive:
                session.send(m.Started(id=message.id, backend=unit.name, model=model))
            self._handed_over = True
            with self.services.routes.trial(unit):
                await self._stream(unit, request, ticket)

    async def _stream(self, unit: Unit, request: GenerateRequest | GenerateRequestV2, ticket: Ticket) -> None:
        backend = unit.backend
        stream: AsyncIterator[Any] = (
            backend.generate(request) if isinstance(request, GenerateRequest) else backend.generate_v2(request)
        )
        own_end = False
        try:
            end = await self._pump(stream)
            own_end = end.stop_reason != "length"
            self.terminal.finish(end)
        except SlowConsumer as error:  # told now: the stream may take its time to close
            self.terminal.fail(error)
            raise
        finally:
            ticket.spent = self._spent(self.terminal.usage(), own_end)
            ticket.used = ticket.spent.read + ticket.spent.made
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

    def _spent(self, used: Usage, own_end: bool) -> Spent:
        times = self.terminal.timings()
        return Spent(
            read=float(used.input_tokens - used.cached_tokens),
            reading=max(0.0, times.first_token_ms - times.queue_ms) / 1000,
            made=float(used.output_tokens),
            making=times.decode_ms / 1000,
            own_end=own_end,
        )

    def _queued(self, position: int, depth: int, eta_ms: int | None) -> None:
        if self.session.alive and not self.terminal.sent:
            self.session.send(m.Queued(id=self.message.id, position=position, depth=depth, eta_ms=eta_ms))


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

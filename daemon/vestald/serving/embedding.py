"""Running one `embed`, from frame to terminal frame: on one backend, or divided among those that serve its model.

A request of more texts than its backend computes in one go is divided, as `routing.shares` says, and put together in
the order of its texts. Each part waits in the lane of its backend, so the request takes from each no more than its
share. A divided request needs several backends, and must not be likelier to fail for it: a part goes once to another
backend if its own fails, and to the one that was chosen if another refuses what that one may not. The client is told.
Any other end of a part is the end of all.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence

from msgspec import Struct

from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult
from vestal.errors import BackendCrashed, BackendUnavailable, InternalError, InvalidRequest, WireError
from vestal.framing import MAX_FRAME_LIMIT
from vestal.values import Usage
from vestald.admission.estimate import Spent
from vestald.admission.ticket import Ticket
from vestald.backends.unit import Unit
from vestald.routing.blame import internal_error
from vestald.routing.breaker import counts
from vestald.routing.shares import Share, Taker, divide
from vestald.serving.answer import Terminal
from vestald.serving.job import Job
from vestald.serving.session import Session
from vestald.serving.work import CHARS_PER_TOKEN, Services, Work

__all__ = ["BATCH", "Embedding"]

BATCH = 32
"""Texts that a backend which does not say is taken to compute in one go."""

_NUMBER = re.compile(r"\binput\[([0-9]+)\]")  # of a text, as errors name it
_FRAME_MARGIN = 64 * 1024  # bytes of an `embeddings` frame that are not vectors


class _Part(Struct, frozen=True):
    """Vectors in the order of their texts, and who computed them."""

    backend: str
    result: EmbedResult


class Embedding(Work):
    """One `embed`."""

    def __init__(self, session: Session, message: m.Embed, job: Job, services: Services) -> None:
        super().__init__(session, job, services)
        self.message = message
        self.terminal = Terminal(session, job, services.ended)
        self.asked_ms = None
        self._units: list[Unit] = []  # that can share the work, the chosen one first
        self._divided = False
        self._failures: set[str] = set()  # the backends that failed a part
        self._dimensions: int | None = None  # of every vector; None until the first is there, if nobody says

    async def _serve(self, whole: float | None) -> None:
        self.services.refuse_new_work()
        self._units = self.services.routes.embedders(self.message.model)
        capabilities = self._units[0].capabilities
        self.job.backend = self._units[0].name
        self.terminal.model = capabilities.model or self.job.backend
        self._dimensions = self.message.dimensions or capabilities.embedding_dimensions
        size = self._check_size(self._dimensions or 0)
        async with self.session.outbox.place(size):  # vectors are many times what was asked with
            parts = await self._all(_shares(len(self.message.input), self._units), whole)
            if self.session.congested:
                await self.session.room()
            self._answer(parts)

    async def _all(self, shares: Sequence[Share], whole: float | None) -> list[_Part]:
        """Compute all parts; the first that fails ends the others, and its error is the request's."""
        if len(shares) == 1:
            return [await self._part(shares[0], whole)]
        self._divided = True
        parts = [asyncio.ensure_future(self._part(share, whole)) for share in shares]
        try:  # no TaskGroup: it would keep a second cancel, which ends the wait for an engine, from its tasks
            return await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _part(self, share: Share, whole: float | None) -> _Part:
        """Compute one part. Its error is told at once: the others may take their time to let go."""
        try:
            return await self._tried(self._units[share.taker], share, whole)
        except WireError as error:
            self.terminal.fail(error)
            raise

    async def _tried(self, unit: Unit, share: Share, whole: float | None) -> _Part:
        ticket = self._place(unit, share, whole)
        try:
            return await self._compute(unit, share, ticket)
        except WireError as error:
            other = self._next(unit, share, ticket, error)
            if other is None:
                raise
            self.terminal.retried(unit.name, error, other.name)
        return await self._compute(other, share, self._place(other, share, whole))

    def _next(self, unit: Unit, share: Share, ticket: Ticket, error: WireError) -> Unit | None:
        """Who is asked after `unit`: another, if it failed; the chosen one, whose word counts, if it refused."""
        if not self._divided and not self.services.routes.retries:
            return None
        if _failed(ticket, error):
            again = ticket.started and error.retryable and not (self._divided or isinstance(error, BackendCrashed))
            return self._another(unit, share.count) or (unit if again else None)
        chosen = self._units[0]
        refused = ticket.started and unit is not chosen
        return chosen if refused and chosen.state == "ready" else None

    def _another(self, failed: Unit, count: int) -> Unit | None:
        """Who else can compute a part of `count` texts now; rather one that failed none, and has none in hand."""
        self._failures.add(failed.name)
        try:
            serving = self.services.routes.embedders(self.message.model)
        except WireError:
            return None
        able = [
            unit
            for unit in self._units
            if unit in serving and unit is not failed and unit.state == "ready" and _fits(count, unit)
        ]
        held = self.job.backends
        return min(able, key=lambda unit: (unit.name in self._failures, unit.name in held), default=None)

    def _texts(self, share: Share) -> list[str]:
        return self.message.input[share.start : share.stop]

    def _place(self, unit: Unit, share: Share, whole: float | None) -> Ticket:
        cost = sum(map(len, self._texts(share))) / CHARS_PER_TOKEN
        return self._ticket(unit, cost, 0.0, self.services.deadlines.waiting(None), whole)

    async def _compute(self, unit: Unit, share: Share, ticket: Ticket) -> _Part:
        whole = self.message
        request = EmbedRequest(
            input=self._texts(share), dimensions=whole.dimensions, task=whole.task, normalize=whole.normalize
        )
        try:
            async with self.services.embedding.slot(ticket):
                began = time.monotonic()
                if self.terminal.started is None:
                    self.terminal.started = began
                with self.services.routes.trial(unit):
                    result = await _asked(unit, request)
                    self._check(unit, result, share.count)
                ticket.used = float(result.input_tokens)
                ticket.spent = Spent(read=ticket.used, reading=time.monotonic() - began, made=0, making=0)
        except WireError as error:
            self.job.backend = unit.name  # whose error it is
            _count_from(share.start, error)
            raise
        return _Part(unit.name, result)

    def _check(self, unit: Unit, result: EmbedResult, count: int) -> None:
        """Raise `InternalError` unless there is a vector for each text, all of one length."""
        dimensions = self._dimensions or result.dimensions
        if (result.count, result.dimensions) != (count, dimensions):
            asked, got = f"{count} vectors of {dimensions}", f"{result.count} of {result.dimensions}"
        elif len(result.data) != 4 * count * dimensions:
            asked, got = f"{4 * count * dimensions} bytes", f"{len(result.data)}"
        else:
            self._dimensions = dimensions
            return
        raise InternalError(
            f"backend {unit.name!r} was to give {asked} and gave {got}",
            hint="this is a fault in the adapter, or its options say other dimensions than its model has",
            details={"backend": unit.name},
        )

    def _answer(self, parts: Sequence[_Part]) -> None:
        usage = Usage(input_tokens=sum(part.result.input_tokens for part in parts))
        self.job.backend = parts[0].backend
        for part in parts:
            self.job.read[part.backend] = self.job.read.get(part.backend, 0) + part.result.input_tokens
        frame = m.Embeddings(
            id=self.message.id,
            count=len(self.message.input),
            dimensions=parts[0].result.dimensions,
            dtype="f32le",
            data=b"".join(part.result.data for part in parts),
            usage=usage,
            model=self.terminal.model,
            backend=parts[0].backend,
            parts=[m.EmbedPart(backend=part.backend, count=part.result.count) for part in parts if len(parts) > 1],
            notices=self.terminal.notices,
        )
        self.terminal.end(frame, "end", usage)

    def _check_size(self, dimensions: int) -> int:
        """Bytes of the vectors. Raises `InvalidRequest` if they do not fit one frame."""
        row = 4 * dimensions
        most = (MAX_FRAME_LIMIT - _FRAME_MARGIN) // row if row else len(self.message.input)
        if len(self.message.input) > most:
            raise InvalidRequest(
                f"embed.input: {len(self.message.input)} texts of {row} bytes a vector do not fit one frame",
                hint=f"ask for at most {most} texts a request",
                details={"field": "input", "count": len(self.message.input), "limit": most},
            )
        return row * len(self.message.input)


def _shares(count: int, units: Sequence[Unit]) -> list[Share]:
    """Who computes which texts: the first of `units` all, if it can in one go, or if all together cannot."""
    takers = [Taker(_batch(unit), unit.capabilities.max_input_texts) for unit in units]
    room = [count if taker.limit is None else taker.limit for taker in takers]
    if count <= min(takers[0].weight, room[0]) or count > sum(room):
        return [Share(0, 0, count)]
    return divide(count, takers)


def _batch(unit: Unit) -> int:
    return unit.capabilities.embedding_batch or BATCH


def _fits(count: int, unit: Unit) -> bool:
    limit = unit.capabilities.max_input_texts
    return limit is None or count <= limit


def _failed(ticket: Ticket, error: WireError) -> bool:
    """Whether the backend failed: while it had the texts, or by going away for good while they waited for it."""
    return counts(error) if ticket.started else isinstance(error, BackendUnavailable)


def _count_from(start: int, error: WireError) -> None:
    """A backend counts the texts of its part; a client those of its request."""
    if start:
        error.message = _counted_from(start, error.message)
        if isinstance(field := error.details.get("field"), str):
            error.details["field"] = _counted_from(start, field)


def _counted_from(start: int, text: str) -> str:
    return _NUMBER.sub(lambda found: f"input[{start + int(found[1])}]", text)


async def _asked(unit: Unit, request: EmbedRequest) -> EmbedResult:
    try:
        return await unit.backend.embed(request)
    except asyncio.CancelledError as fault:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise internal_error(unit.name, fault) from None  # the backend's own, not ours

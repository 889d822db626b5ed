"""Running one `embed`, from frame to terminal frame: on one backend, or divided among those that serve its model.

A request of more texts than its backend computes in one go is divided, as `routing.shares` says, and put together in
the order of its texts. Each part waits in the lane of its backend, so the request takes from each no more than its
share. A divided request needs several backends, and must not be likelier to fail for it: a part goes once to another
backend if its own fails or is stopped, and to the one that was chosen if another refuses what that one may not. The
client is told. So it is of a backend that had not said whether it can do what is asked, and says no: another is chosen
without it. Any other end of a part is the end of all. What only waits goes elsewhere as often as its backend leaves
or becomes another, without a word; if nobody is left who gives such vectors, the whole request is chosen for anew.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from msgspec import Struct

from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult
from vestal.errors import BackendCrashed, BackendRefused, BackendUnavailable, Unsupported, WireError
from vestal.values import Usage
from vestald.admission.estimate import Spent
from vestald.admission.ticket import Ticket
from vestald.backends.unit import Unit
from vestald.routing.asking import ask_of_embed
from vestald.routing.blame import internal_error
from vestald.routing.breaker import counts
from vestald.routing.shares import Share, Taker, divide
from vestald.serving.answer import Terminal
from vestald.serving.job import Hold, Job
from vestald.serving.session import Session
from vestald.serving.vectors import Kind, check, kind_of, size_of
from vestald.serving.work import CHARS_PER_TOKEN, Services, Work

__all__ = ["BATCH", "Embedding"]

BATCH = 32
"""Texts that a backend which does not say is taken to compute in one go."""

_NUMBER = re.compile(r"\binput\[([0-9]+)\]")  # of a text, as errors name it


class _Part(Struct, frozen=True):
    """Vectors in the order of their texts, and who computed them."""

    backend: str
    result: EmbedResult


class _Held(Struct, eq=False):
    """Texts that a backend has. `last`: if it fails, nobody else is asked."""

    hold: Hold
    unit: Unit
    count: int
    last: bool


class _Changed(Exception):  # no error: the request goes on
    """While texts waited for it, a backend became one that does not give the vectors that were chosen."""


class Embedding(Work):
    """One `embed`."""

    def __init__(self, session: Session, message: m.Embed, job: Job, services: Services) -> None:
        super().__init__(session, job, services)
        self.message = message
        self.terminal = Terminal(session, job, services.ended)
        self.asked_ms = None
        job.spare = self._spare
        self._units: list[Unit] = []  # that can share the work, the chosen one first
        self._divided = False
        self._failures: set[str] = set()  # the backends that failed a part
        self._held: list[_Held] = []  # what backends compute now
        self._refused: dict[str, WireError] = {}  # backends that did not say before that they cannot do it
        self._ask = ask_of_embed(message, self._refused)  # which sees what comes into it
        self._kind = Kind("", None)  # that was chosen
        self._dimensions: int | None = None  # of every vector; None until the first is there, if nobody says

    async def _serve(self, whole: float | None) -> None:
        self.services.refuse_new_work()
        while not self.terminal.sent:
            with suppress(_Changed):  # nobody gives any more what was chosen: choose anew
                await self._serve_chosen(whole)
                return

    async def _serve_chosen(self, whole: float | None) -> None:
        size = self._choose()
        async with self.session.outbox.place(size):  # vectors are many times what was asked with
            parts = await self._all(_shares(len(self.message.input), self._units), whole)
            if self.session.congested:
                await self.session.room()
            self._answer(parts)

    def _choose(self) -> int:
        """Choose who computes the vectors, and so which; how many bytes they are, as far as that is known."""
        self._units = self.services.routes.embedders(self._ask)
        self._kind = kind_of(self._units[0])
        self.terminal.model, self.job.backend = self._kind.model, self._units[0].name
        self._dimensions = self.message.dimensions or self._kind.dimensions
        return size_of(len(self.message.input), self._dimensions or 0)

    async def _all(self, shares: Sequence[Share], whole: float | None) -> list[_Part]:
        """Compute all parts; the first that fails ends the others, and its error is the request's."""
        self._divided = len(shares) > 1
        if not self._divided:
            return [await self._part(shares[0], whole)]
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
        """Compute one part where that can be done. Raises `_Changed` if nobody gives such vectors any more."""
        left, retried = set[Unit](), False
        while True:
            ticket = self._place(unit, share, whole)
            try:
                return await self._compute(unit, share, ticket, last=retried)
            except _Changed:
                if (other := self._another(unit, share.count)) is None:
                    raise
            except WireError as error:
                if ticket.started:
                    other = None if retried else self._next(unit, share.count, error)
                else:
                    other = self._instead(unit, share.count, error) if unit not in left else None
                if other is None:
                    self._pass_on(unit, error)
                    raise
                if ticket.started:
                    self.terminal.retried(unit.name, error, other.name)
                    retried = True
            left.add(unit)
            unit = other

    def _next(self, unit: Unit, count: int, error: WireError) -> Unit | None:
        """Who is asked after `unit`: another, if it failed; the chosen one, whose word counts, if it refused."""
        if not (self._divided or self.services.routes.retries):
            return None
        if not counts(error):
            chosen = self._units[0]
            return chosen if unit is not chosen and self._serves(chosen) else None
        self._failures.add(unit.name)
        again = error.retryable and not (self._divided or isinstance(error, BackendCrashed))
        return self._another(unit, count) or (unit if again and self._serves(unit) else None)

    def _pass_on(self, unit: Unit, error: WireError) -> None:
        """Choose anew, without a backend that did not say whether it can, and cannot. Raises `_Changed`.

        Such a server refuses in its own words, so it may be for something else. Nothing that it may have computed is of
        use, and the client is told. Raises the `WireError` that the client hears if nobody is left.
        """
        if isinstance(error, Unsupported | BackendRefused) and self._ask.doubts(unit.capabilities):
            self._refused[unit.name] = error
            other = self.services.routes.choose(self._ask)
            self.terminal.retried(unit.name, error, other.name)
            raise _Changed

    def _instead(self, unit: Unit, count: int, error: WireError) -> Unit | None:
        """Who is asked in place of one that went away for good while texts waited for it. No retry: nobody had them."""
        return self._another(unit, count) if isinstance(error, BackendUnavailable) else None

    def _another(self, unit: Unit, count: int) -> Unit | None:
        """Who else can compute a part of `count` texts now; rather one that failed none, and has none in hand."""
        able = [other for other in self._units if other is not unit and self._serves(other) and _fits(count, other)]
        held = self.job.backends
        return min(able, key=lambda unit: (unit.name in self._failures, unit.name in held), default=None)

    def _serves(self, unit: Unit) -> bool:
        """Whether it could begin with texts of the request now."""
        return self._gives(unit) and self.services.routes.serving(unit, self._ask)

    def _gives(self, unit: Unit) -> bool:
        """Whether it still gives the vectors that were chosen: it may have become another, or be about to."""
        return unit.state == "ready" and kind_of(unit) == self._kind and self.services.routes.fits(unit, self._ask)

    def _spare(self, backend: str) -> bool:
        """End only what `backend` has, if others can compute that. What is about to be asked sees for itself."""
        held = [part for part in self._held if part.hold.backend == backend]
        if not all(self._can_go_on(part) for part in held):
            return False
        for part in held:
            part.hold.cut()
        return True

    def _can_go_on(self, part: _Held) -> bool:
        allowed = not part.last and (self._divided or self.services.routes.retries)
        return bool(allowed) and self._another(part.unit, part.count) is not None

    def _texts(self, share: Share) -> list[str]:
        return self.message.input[share.start : share.stop]

    def _place(self, unit: Unit, share: Share, whole: float | None) -> Ticket:
        if not self._divided:
            self.job.backend = unit.name
        cost = sum(map(len, self._texts(share))) / CHARS_PER_TOKEN
        return self._ticket(unit, cost, 0.0, self.services.deadlines.waiting(None), whole)

    async def _compute(self, unit: Unit, share: Share, ticket: Ticket, *, last: bool) -> _Part:
        whole = self.message
        request = EmbedRequest(
            input=self._texts(share), dimensions=whole.dimensions, task=whole.task, normalize=whole.normalize
        )
        try:
            async with self.services.embedding.slot(ticket):
                if not self._gives(unit):
                    ticket.used = 0.0
                    raise _Changed
                began = time.monotonic()
                if self.terminal.started is None:
                    self.terminal.started = began
                with self._in_hand(unit, share.count, last=last), self.services.routes.trial(unit):
                    result = await _asked(unit, request)
                    self._dimensions = check(unit, result, share.count, self._dimensions)
                ticket.used = float(result.input_tokens)
                ticket.spent = Spent(read=ticket.used, reading=time.monotonic() - began, made=0, making=0)
        except WireError as error:
            self.job.backend = unit.name  # whose error it is
            _count_from(share.start, error)
            raise
        return _Part(unit.name, result)

    @contextmanager
    def _in_hand(self, unit: Unit, count: int, *, last: bool) -> Iterator[None]:
        """The backend has the texts now: if an operator stops it, `_spare` may take them back."""
        held = _Held(Hold(unit.name), unit, count, last)
        self._held.append(held)
        try:
            with held.hold:
                yield
        finally:
            self._held.remove(held)

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

"""One request that the daemon has taken on: its task, its place in the queue, and why it was ended early.

A request that several backends compute can go on without one of them: what that one has of it is a `Hold`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from enum import Enum
from types import TracebackType
from typing import Any, Protocol

from vestal.errors import BackendUnavailable
from vestal.messages import QueueEntry
from vestal.values import Priority
from vestald.admission.ticket import Ticket, TicketState
from vestald.entrance.peer import Peer

__all__ = ["Ended", "Hold", "Job", "Jobs"]


class Ended(Enum):
    """Who ended a request before its backend did."""

    CLIENT = "the client cancelled it"
    OPERATOR = "an operator cancelled it"
    GONE = "the client's connection is gone"
    SHUTDOWN = "the daemon is stopping"
    STOPPED = "an operator stops its backend"


class Hold:
    """What one backend has of a request, for as long as the `with` lasts. `cut` ends that alone, in its task: it
    raises `BackendUnavailable` there, once the engine has let go."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._task: asyncio.Task[Any] | None = None
        self._is_cut = False

    def cut(self) -> None:
        if self._task is not None and not self._is_cut:
            self._is_cut = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()

    def __exit__(self, kind: type[BaseException] | None, _fault: object, _trace: TracebackType | None) -> None:
        task, self._task = self._task, None
        if task is None or not self._is_cut:
            return
        alone = task.uncancel() == 0  # if not, somebody wants the end of all of it
        if alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise BackendUnavailable(
                f"{Ended.STOPPED.value}, {self.backend!r}, and its time to finish is over",
                hint="ask again",
                details={"backend": self.backend},
            ) from None


class _Owner(Protocol):
    peer: Peer

    @property
    def client(self) -> str: ...


class Job:
    """Counts and handles of one `generate` or `embed`; never its content."""

    def __init__(self, number: int, id: int, owner: _Owner, accepted: float, priority: Priority = "normal") -> None:
        self.number = number
        self.id = id
        self.owner = owner
        self.accepted = accepted  # time.monotonic, seconds
        self.priority: Priority = priority
        self.tickets: list[Ticket] = []  # its places in the queue: one for each part of it, and for each try
        self.backend = ""  # that runs it; of several, the first
        self.read: dict[str, int] = {}  # input tokens by backend, where more than one may have read some
        self.output_tokens = 0
        self.details: Mapping[str, Any] | None = None  # of the error it ended with
        self.ended: Ended | None = None
        self.task: asyncio.Task[None] | None = None
        self.interrupt: Callable[[Ended], None] | None = None  # sends the terminal frame; set once the task has begun
        self.spare: Callable[[str], bool] | None = None  # ends only what a backend has of it, if others can do that

    def cancel(self, why: Ended) -> None:
        """End it early; the first reason counts. The terminal frame leaves now: how long the engine takes to let go
        is nothing to the client. A task that has not begun looks at `ended` when it does: cancelled before its
        first step it would never run, and never send that frame."""
        if self.ended is None:
            self.ended = why
            if self.interrupt is not None and self.task is not None:
                self.interrupt(why)
                self.task.cancel()

    def cut(self, backend: str) -> None:
        """End what runs of it in a backend that an operator stops: all of it, unless others can do that part."""
        if self.ended is None and (self.spare is None or not self.spare(backend)):
            self.backend = backend
            self.cancel(Ended.STOPPED)

    @property
    def let_in(self) -> bool:
        """Whether it was, in all its parts: into a slot, or to wait for one."""
        return bool(self.tickets) and all(ticket.state is not TicketState.NEW for ticket in self.tickets)

    @property
    def running(self) -> bool:
        return any(ticket.state is TicketState.RUNNING for ticket in self.tickets)

    def runs_in(self, backend: str) -> bool:
        """Whether it holds a slot of that backend: with all of it, or with a part."""
        return any(ticket.lane == backend and ticket.state is TicketState.RUNNING for ticket in self.tickets)

    @property
    def backends(self) -> set[str]:
        """Those that it waits for or holds a slot of."""
        return {ticket.lane for ticket in self.tickets if ticket.state is not TicketState.ENDED}

    @property
    def waited(self) -> float | None:
        """Seconds until the first of its tickets had its slot; None: none had."""
        return next((ticket.started - ticket.entered for ticket in self.tickets if ticket.started), None)

    def entry(self, now: float, position: int | None) -> QueueEntry:
        """The job as operators see it; `position` is that of what waits of it."""
        return QueueEntry(
            request=self.number,
            state="running" if self.running else "waiting",
            backend=self.backend,
            uid=self.owner.peer.uid,
            pid=self.owner.peer.pid,
            client=self.owner.client,
            age_ms=round(1000 * (now - self.accepted)),
            priority=self.priority,
            position=None if self.running else position,
            output_tokens=self.output_tokens,
        )

    def __repr__(self) -> str:
        return (
            f"<Job #{self.number} id={self.id} {'running' if self.running else 'waiting'} tokens={self.output_tokens}>"
        )


class Jobs:
    """Every job in flight, by its daemon-wide number."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def new(self, id: int, owner: _Owner, accepted: float, priority: Priority = "normal") -> Job:
        job = Job(next(self._numbers), id, owner, accepted, priority)
        self._jobs[job.number] = job
        self._idle.clear()
        return job

    def forget(self, job: Job) -> None:
        self._jobs.pop(job.number, None)
        if not self._jobs:
            self._idle.set()

    def get(self, number: int) -> Job | None:
        return self._jobs.get(number)

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    async def idle(self) -> None:
        """Return when no job is in flight."""
        await self._idle.wait()

    def __len__(self) -> int:
        return len(self._jobs)

"""One request's place in the scheduler: who asks, for which lane, what it is taken to cost, and until when."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

from vestal.values import Priority
from vestald.admission.estimate import Spent

__all__ = ["Ticket", "TicketState"]


class TicketState(Enum):
    NEW = "new"
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Ticket:
    """Costs are tokens: `cost` in all, `output` of them to be made. Times are seconds on one monotonic clock.

    `queue_timeout` bounds the wait and `timeout` the whole request, both from `accepted`, when it was read.
    """

    def __init__(
        self,
        number: int,
        lane: str,
        uid: int,
        connection: Hashable,
        *,
        cost: float = 1.0,
        output: float = 0.0,
        priority: Priority = "normal",
        accepted: float = 0.0,
        queue_timeout: float | None = None,
        timeout: float | None = None,
    ) -> None:
        self.number = number
        self.lane = lane
        self.uid = uid
        self.connection = connection
        self.cost = cost
        self.output = output
        self.priority: Priority = priority
        self.accepted = accepted
        self.queue_timeout = queue_timeout
        self.timeout = timeout
        self.state = TicketState.NEW
        self.entered = 0.0
        self.started = 0.0
        self.used: float | None = None  # tokens it really cost, once known
        self.spent: Spent | None = None  # where the time in its slot went, once known
        self.promised: float | None = None  # the first start it was told, on the same clock

    @property
    def waiting(self) -> bool:
        return self.state is TicketState.WAITING

    @property
    def queue_deadline(self) -> float | None:
        return None if self.queue_timeout is None else self.accepted + self.queue_timeout

    @property
    def keys(self) -> tuple[Hashable, Hashable]:
        """The path in the tree of shares."""
        return (self.uid, self.connection)

    def __repr__(self) -> str:
        return f"<Ticket #{self.number} {self.state.value} lane={self.lane} uid={self.uid} {self.priority}>"

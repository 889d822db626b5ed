"""The daemon's life and each backend's, as tables of legal transitions, and what admins may do when.

Theory. The daemon goes `starting → loading → ready ⇄ draining → stopping → stopped`; whatever goes wrong before
`ready` ends in `failed`, and a stop is legal from everywhere. A backend goes the same way without draining, and
may fall to `unavailable` and come back. Nothing else assigns a state: code asks for a transition, and one that
the table does not hold is a bug, raised where it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from vestal.values import BackendState, LifecycleState

__all__ = ["ADMIN_COMMANDS", "BACKEND", "DAEMON", "IllegalTransition", "Machine"]

S = TypeVar("S", bound=str)

DAEMON: Mapping[LifecycleState, frozenset[LifecycleState]] = {
    "starting": frozenset({"loading", "stopping", "failed"}),
    "loading": frozenset({"ready", "stopping", "failed"}),
    "ready": frozenset({"draining", "stopping", "failed"}),
    "draining": frozenset({"ready", "stopping", "failed"}),
    "stopping": frozenset({"stopped"}),
    "failed": frozenset({"stopped"}),
    "stopped": frozenset(),
}

BACKEND: Mapping[BackendState, frozenset[BackendState]] = {
    "starting": frozenset({"loading", "ready", "stopping", "failed"}),
    "loading": frozenset({"ready", "stopping", "failed"}),
    "ready": frozenset({"unavailable", "stopping"}),
    "unavailable": frozenset({"ready", "stopping"}),
    "stopping": frozenset({"stopped"}),
    "failed": frozenset({"starting", "stopping"}),
    "stopped": frozenset({"starting"}),
}

_EVERY: frozenset[LifecycleState] = frozenset(DAEMON)
_LOADED: frozenset[LifecycleState] = frozenset({"loading", "ready", "draining"})
_SERVING: frozenset[LifecycleState] = frozenset({"ready", "draining"})

ADMIN_COMMANDS: Mapping[str, frozenset[LifecycleState]] = {
    "ping": _EVERY,
    "status": _EVERY,
    "subscribe": _EVERY,
    "backends": _EVERY,
    "queue": _EVERY,
    "explain_route": _SERVING,
    "metrics": _EVERY,
    "cancel_request": _EVERY,
    "drain": frozenset({"ready"}),
    "undrain": frozenset({"draining"}),
    "add_backend": _LOADED,
    "remove_backend": _LOADED,
    "drain_backend": _LOADED,
    "undrain_backend": _LOADED,
    "restart_backend": _LOADED,
    "reload": frozenset({"starting", "loading", "ready", "draining"}),
    "stop": _EVERY,
}
"""In which lifecycle states each admin command is legal."""


class IllegalTransition(RuntimeError):
    """A bug: code asked for a transition that the table does not hold."""


class Machine(Generic[S]):
    """One state and its table. `changed(before, after)` is called after every transition."""

    def __init__(
        self,
        name: str,
        table: Mapping[S, frozenset[S]],
        initial: S,
        changed: Callable[[S, S], None] | None = None,
    ) -> None:
        self.name = name
        self.state: S = initial
        self._table = table
        self._changed = changed

    def may(self, state: S) -> bool:
        """Whether the table holds a step to `state`."""
        return state in self._table[self.state]

    def to(self, state: S) -> None:
        """Take the step; no step is taken to the state it is in."""
        if state == self.state:
            return
        if not self.may(state):
            raise IllegalTransition(f"{self.name}: {self.state} → {state} is not in the table")
        before, self.state = self.state, state
        if self._changed is not None:
            self._changed(before, state)

    def __repr__(self) -> str:
        return f"<Machine {self.name} {self.state}>"

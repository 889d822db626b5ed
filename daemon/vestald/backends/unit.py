"""One declared backend, its state machine, and what is known of it.

Only the supervisor moves its state; others ask, and an operator's command sets `draining`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from vestal.backend import Backend, Health
from vestal.values import BackendState, Capabilities
from vestald.backends.registry import Declared
from vestald.lifecycle import BACKEND, Machine

__all__ = ["Unit"]


class Unit:
    """One declared backend and what is known of it. `percent` counts while it loads."""

    def __init__(self, declared: Declared, changed: Callable[[Unit], None]) -> None:
        self.declared = declared
        self.percent = 0.0
        self.detail = ""
        self.given_up = False  # unavailable, and not trying to come back, until it is started again
        self.stuck = False  # it was to stop, and did not
        self.served = False  # it has been ready once
        self.life = 0  # counts the engines that have served: one that is started anew is another
        self.draining = False  # an operator keeps new requests away
        self.doubted = False  # unavailable because its health says so: it has reported nothing
        self.retrying = False  # a start of it has failed, and others will be tried
        self.told: str | None = None  # why its last start failed, if that did
        self.changes = 0  # of its state
        self.asking: asyncio.Future[Health] | None = None  # how it is: one question at a time
        self._before: Capabilities | None = None
        self.machine: Machine[BackendState] = Machine(
            f"backend {self.name}", BACKEND, "starting", lambda _before, _after: changed(self)
        )

    @property
    def name(self) -> str:
        return self.declared.table.name

    @property
    def adapter(self) -> str:
        return self.declared.table.adapter

    @property
    def aliases(self) -> Sequence[str]:
        return self.declared.keys.aliases

    @property
    def declared_model(self) -> str:
        """What its table calls its model: all that is known of it before it has served."""
        model = self.declared.table.options.get("model")
        return model if isinstance(model, str) else ""

    @property
    def required(self) -> bool:
        return self.declared.keys.required

    @property
    def backend(self) -> Backend:
        return self.declared.backend

    @property
    def progress(self) -> str:
        """Where it is, in words."""
        if self.state in ("starting", "loading"):
            return f"{self.state}, {self.percent:.0f} %"
        return f"{self.state}: {self.detail}" if self.detail else self.state

    @property
    def plight(self) -> str:
        """What there is to say of it; while it is started again, why that failed the last time too."""
        if not self.retrying or self.state == "failed" or self.told in (None, self.detail):
            return self.detail
        return f"{self.detail}; the last start failed: {self.told}"

    @property
    def here(self) -> bool:
        """Whether it serves, or is away for a moment: it has been ready, has not given up, and no start has failed."""
        return self.served and self.told is None and not self.given_up

    @property
    def started_again(self) -> bool:
        """Whether its last start has failed, and others are tried for ever: nobody knows whether one will succeed."""
        return self.told is not None and not self.required

    @property
    def remedy(self) -> str:
        """What there is to do about one that does not come back by itself."""
        if self.stuck:
            return f"an operator can try again to end it (vestal backend remove {self.name}), or restart the daemon"
        return f"an operator can restart it: vestal backend restart {self.name}"

    @property
    def state(self) -> BackendState:
        return self.machine.state

    @property
    def capabilities(self) -> Capabilities:
        """Between two backends of one name those of the first: the second does not know its own yet."""
        return self._before or self.backend.capabilities

    def replace(self, declared: Declared) -> None:
        """It is to be another backend at its next start."""
        self._before = self.capabilities if self.served else None
        self.declared, self.asking, self.retrying = declared, None, False

    def serves(self) -> None:
        """Its backend has become ready for the first time."""
        self.percent, self.detail, self.told = 100.0, "", None
        self.served, self.retrying, self._before = True, False, None
        self.life += 1

    def __repr__(self) -> str:
        percent = f" {self.percent:.0f} %" if self.state == "loading" else ""
        return f"<Unit {self.name} {self.state}{percent}>"

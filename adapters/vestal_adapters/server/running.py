"""One start of a server, from its directory to its last request: what runs, and when it was last heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vestal.errors import WireError
from vestal_adapters.remote.http import Upstream
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.server.home import Home
from vestal_adapters.server.process import ServerProcess
from vestal_adapters.worker.sandbox import OFF, Confinement
from vestal_adapters.worker.supervision import KILL_PATIENCE

__all__ = ["HEALTH_PAGE", "Running"]

HEALTH_PAGE = "/health"  # whatever it is answered with, somebody answers
_LEAST = 0.5  # seconds that a question is given however late it comes


class Running:
    """`inner` and `asking` are there once it is looked for; `why` once it is known to have ended."""

    def __init__(self, home: Home, process: ServerProcess, command: str) -> None:
        self.home = home
        self.process = process
        self.command = command
        self.confinement: Confinement = OFF
        self.requests = 0
        self.inner: OpenAIBackend | None = None
        self.asking: Upstream | None = None
        self.why: Callable[[], WireError] | None = None
        """The error of whatever runs in it."""
        self._now = asyncio.get_running_loop().time
        self._asked_at: float | None = None  # of the first request since which nothing was heard
        self._pinged_at: float | None = None  # of the first question between requests since then

    # --- is it there ------------------------------------------------------------------------------------------

    def asked(self) -> None:
        """A request goes to it."""
        if self._asked_at is None:
            self._asked_at = self._now()

    def heard(self) -> None:
        """It said something."""
        self._asked_at = self._pinged_at = None

    @property
    def silent(self) -> float:
        """For how many seconds requests have gone to it and nothing has come back."""
        return 0.0 if self._asked_at is None else self._now() - self._asked_at

    async def ping(self, timeout: float) -> float | None:
        """Seconds to its answer, whatever that is; `None` without one."""
        if self.asking is None:
            return None
        begun = self._now()
        try:
            await self.asking.alive(HEALTH_PAGE, timeout=timeout)
        except WireError as exc:
            if "status" not in exc.details:
                return None
        self.heard()
        return self._now() - begun

    async def answers_in_all(self, patience: float) -> bool:
        """Whether it answers within `patience` of the first such question: who asked it may have given up waiting."""
        if self._pinged_at is None:
            self._pinged_at = self._now()
        return await self.ping(max(self._pinged_at + patience - self._now(), _LEAST)) is not None

    # --- the end ----------------------------------------------------------------------------------------------

    async def let_go(self) -> None:
        """End what speaks to it, and remove its directory. Idempotent."""
        if self.inner is not None:
            await self.inner.stop(KILL_PATIENCE)
        if self.asking is not None:
            await self.asking.close()
        self.home.close()

    def __repr__(self) -> str:
        return f"<Running {self.process!r}, {self.requests} requests, silent for {self.silent:.1f} s>"

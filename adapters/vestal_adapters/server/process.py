"""A server's process: the launcher that becomes it, its group, and the signals that end it.

Its group is signalled, not it alone: a server may have made processes, and none may outlive it. A group's number is
its leader's, and stays so until the leader is reaped; so the last signal goes out between its end and that.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec

from vestal.errors import VestalError
from vestal_adapters.server.launch import Answer, Begun, Plan, Refused
from vestal_adapters.worker.process import PIPE_SIZE, Process, StderrTail
from vestal_adapters.worker.sandbox import Confinement

__all__ = ["LAUNCHER", "ServerProcess"]

LAUNCHER = "vestal_adapters.server.launch"


class ServerProcess(Process):
    """`on_end` is called once, from the event loop, when it was reaped. Raises `OSError`."""

    def __init__(self, output: StderrTail, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._over = False
        super().__init__([LAUNCHER], {})
        self.stderr = output

    async def begin(self, plan: Plan) -> Confinement | None:
        """Hand over what to run, and wait until it runs. `None` if it ended without a word. Raises `VestalError`."""
        said = b""
        with self.channel as sock, suppress(ConnectionError):
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, msgspec.json.encode(plan))
            sock.shutdown(socket.SHUT_WR)
            while data := await loop.sock_recv(sock, PIPE_SIZE):
                said += data
        answers = [msgspec.json.decode(line, type=Answer) for line in said.splitlines()]
        match answers[-1:]:
            case [Refused(message=message, hint=hint)]:
                raise VestalError(message, hint=hint)
            case [Begun(confinement=confinement)]:
                return confinement
        return None

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if not self._over:  # afterwards the number may be another group's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def reap(self) -> bool:
        if self._over:
            return True
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            self.kill()
        except ChildProcessError:
            pass  # whoever started the daemon had it ignore SIGCHLD: the kernel was first, and the number is nobody's
        self._over = True
        super().reap()
        self._on_end()
        return True

"""A real `vestald` in a directory of its own, seen from outside: its sockets, its stderr, its exit code, its /proc."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from tests.e2e.peers import PATIENCE, Peer, RawPeer
from vestal import messages as m
from vestal.connection import SocketKind

__all__ = ["Daemon", "Table", "children_of", "echo", "slack", "toml"]

Table: TypeAlias = Mapping[str, object]


def echo(name: str = "echo", **options: object) -> Table:
    """A `[[backend]]` table of the echo adapter."""
    return {"name": name, "adapter": "echo", **options}


def toml(*backends: Table, **sections: Table) -> str:
    """A configuration file."""
    parts = [("[" + name + "]", table) for name, table in sections.items()]
    parts += [("[[backend]]", table) for table in backends]
    return "\n".join(
        "\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in table.items()), ""])
        for head, table in parts
    )


class Daemon:
    """One process. Its files are in `home`, its sockets in `runtime_dir`; stderr goes to a file, so it never blocks."""

    def __init__(
        self,
        home: Path,
        config: str,
        *arguments: str,
        runtime_dir: Path | None = None,
        environ: Mapping[str, str] | None = None,
        uid: int | None = None,
        open_files: int | None = None,
        under: tuple[str, ...] = (),
    ) -> None:
        self.home = home
        self.runtime_dir = runtime_dir or home / "r"
        number, self._stderr = tempfile.mkstemp(prefix="stderr-", dir=home)
        file = home / f"{Path(self._stderr).name}.toml"
        # Its own, also where the store is shared; without a section it is as a user would have it.
        audit = "" if "[audit]" in config else toml(audit={"directory": f"{home}/audit-{self.runtime_dir.name}"})
        file.write_text(f"{config}\n{audit}")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("VESTAL", "XDG"))}
        places = {"HOME": str(home), "VESTAL_HOME": str(home / "store"), "VESTAL_RUNTIME_DIR": str(self.runtime_dir)}
        command = [*under, sys.executable, "-m", "vestald", "--config", str(file), *arguments]
        if open_files is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=number,
            stderr=number,
            env={**inherited, **places, **(environ or {})},
            user=uid,
        )
        os.close(number)

    # --- what it says -----------------------------------------------------------------------------------------

    @property
    def stderr(self) -> str:
        return Path(self._stderr).read_text()

    @property
    def last_words(self) -> list[str]:
        """The lines that are for people, not for the log."""
        return [line for line in self.stderr.splitlines() if line.startswith("vestald: ")]

    # --- its sockets ------------------------------------------------------------------------------------------

    def path(self, kind: SocketKind) -> Path:
        return self.runtime_dir / f"{kind}.sock"

    def infer(
        self, version: int = 2, *, features: tuple[str, ...] = (), require: tuple[str, ...] = (), client: str = "test"
    ) -> Peer:
        return Peer(self.path("infer"), "infer", (version,), features=features, require=require, client=client)

    def embed(self, version: int = 1) -> Peer:
        return Peer(self.path("embed"), "embed", (version,))

    def admin(self) -> Peer:
        """The admin socket, as soon as it is there: bound, and not one that a dead daemon left."""
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                return Peer(self.path("admin"), "admin", (1,))
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, f"vestald ended with {self.process.returncode}:\n{self.stderr}"
                assert time.monotonic() < ends, f"no admin socket within {PATIENCE} s:\n{self.stderr}"
                time.sleep(0.002)

    def raw(self, kind: SocketKind, version: int | None = None) -> RawPeer:
        """A peer that sends whatever bytes it likes; with a `version`, after a proper handshake."""
        return RawPeer(self.path(kind), version)

    def ready(self) -> Daemon:
        """Return when the daemon is ready."""
        with self.admin() as admin:
            admin.send(m.Subscribe(id=0))
            snapshot = admin.take(m.Snapshot)
            if snapshot.status.state != "ready":
                admin.event("daemon_state", state="ready")
        return self

    def status(self) -> m.StatusReport:
        with self.admin() as admin:
            return admin.command(m.Status(id=0), m.StatusReport)

    def queue(self) -> m.QueueReport:
        with self.admin() as admin:
            return admin.command(m.Queue(id=0), m.QueueReport)

    def backend(self, name: str = "echo") -> m.BackendStatus:
        with self.admin() as admin:
            report = admin.command(m.Backends(id=0), m.BackendsReport)
        return next(backend for backend in report.backends if backend.name == name)

    def rewrite(self, *backends: Table, **sections: Table) -> None:
        """Another configuration in its own file, which it reads when it is told to."""
        self.rewrite_as(toml(*backends, **sections))

    def rewrite_as(self, text: str) -> None:
        audit = toml(audit={"directory": f"{self.home}/audit-{self.runtime_dir.name}"})
        Path(f"{self._stderr}.toml").write_text(f"{text}\n{audit}")

    # --- its end ----------------------------------------------------------------------------------------------

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"vestald still runs after {timeout} s:\n{self.stderr}") from None

    def stop(self) -> int:
        self.signal()
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    # --- what it costs ----------------------------------------------------------------------------------------

    def resident(self) -> int:
        """Bytes of memory in use."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS:"))

    def __repr__(self) -> str:
        return f"<Daemon pid={self.process.pid} returncode={self.process.returncode} {self.runtime_dir}>"


def slack() -> float:
    """Seconds beyond its deadline that something may take: what is not kept to here takes ten at least, or for ever.
    More where more wants to run than can."""
    return max(5.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def children_of(pid: int) -> list[int]:
    """The pids of a process's children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found

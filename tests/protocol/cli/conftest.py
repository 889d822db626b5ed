"""A user at a command line, with and without a daemon."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import TypeAlias

import msgspec
import pytest

from tests.e2e.harness import Daemon, Table, echo, toml
from tests.protocol.cli.harness import Vestal

Begin: TypeAlias = Callable[..., Daemon]
Answer: TypeAlias = Callable[..., None]


@pytest.fixture
def vestal(short_dir: Path) -> Vestal:
    """Command lines for a runtime directory that does not exist yet: `begin` starts a daemon there."""
    return Vestal(short_dir, short_dir / "r")


@pytest.fixture
def begin(short_dir: Path) -> Iterator[Begin]:
    """`begin(*backends, …)` starts a vestald where `vestal` looks, and returns when it is ready or, with
    `wait=False`, when `admin.sock` is there."""
    daemons: list[Daemon] = []

    def start(*backends: Table, wait: bool = True, **sections: Table) -> Daemon:
        daemon = Daemon(short_dir, toml(*(backends or (echo(),)), **sections))
        daemons.append(daemon)
        if wait:
            return daemon.ready()
        daemon.admin().close()
        return daemon

    yield start
    for daemon in daemons:
        daemon.kill()
        assert "Traceback" not in daemon.stderr, daemon.stderr


@pytest.fixture(scope="module")
def served() -> Iterator[Vestal]:
    """Command lines for a daemon that the tests of a module share: echoes that embed and that do not."""
    home = Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    daemon = Daemon(home, toml(echo(embed=True, slots=8), echo("second")))
    try:
        daemon.ready()
        yield Vestal(home, home / "r")
    finally:
        daemon.kill()
        shutil.rmtree(home)


@pytest.fixture
def impostor(short_dir: Path) -> Iterator[Answer]:
    """`impostor(kind, *replies)`: something that is no vestald listens, and answers the first frame with `replies`,
    each a message or plain bytes, then goes on answering nothing until the client leaves."""
    listeners: list[socket.socket] = []
    threads: list[Thread] = []

    def listen(kind: str, *replies: object) -> None:
        (short_dir / "r").mkdir(mode=0o700, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(short_dir / "r" / f"{kind}.sock"))
        listener.listen()
        listeners.append(listener)
        data = b"".join(reply if isinstance(reply, bytes) else _framed(reply) for reply in replies)
        threads.append(Thread(target=_answer, args=(listener, data)))
        threads[-1].start()

    yield listen
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


def _framed(message: object) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(payload)) + payload


def _answer(listener: socket.socket, data: bytes) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return  # the test is over
        with peer:
            if peer.recv(65536):
                peer.sendall(data)
                while peer.recv(65536):
                    pass

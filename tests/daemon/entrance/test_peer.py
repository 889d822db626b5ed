"""Who is at the other end, by the kernel's word."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vestald.entrance.peer import Peer, peer_of


def test_a_peer_is_who_connected(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(short_dir / "s"))
        listener.listen()
        client.connect(str(short_dir / "s"))
        server, _ = listener.accept()
        with server:
            groups = tuple(sorted(os.getgroups()))
            assert peer_of(server) == Peer(pid=os.getpid(), uid=os.getuid(), gid=os.getgid(), groups=groups)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can connect as another user")
@pytest.mark.parametrize("groups", [[], [5, 7], list(range(10_000, 11_000))], ids=len)
def test_another_user_is_known_by_what_it_was_when_it_connected(short_dir: Path, groups: list[int]) -> None:
    short_dir.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "s"))
        (short_dir / "s").chmod(0o777)
        listener.listen()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups(groups)
                os.setresgid(4321, 4321, 4321)
                os.setresuid(1234, 1234, 1234)
                client = socket.socket(socket.AF_UNIX)
                client.connect(str(short_dir / "s"))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        server, _ = listener.accept()
        with server:
            assert peer_of(server) == Peer(pid=child, uid=1234, gid=4321, groups=tuple(groups))

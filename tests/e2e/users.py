"""Connections of several users: made by a process that is that user, and handed over to the test."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon

__all__ = ["connected_as", "needs_root", "open_to_all"]

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can connect as other users")


def open_to_all(daemon: Daemon) -> Daemon:
    """Let every user reach the sockets, so that only the daemon's own look at them is left."""
    daemon.home.chmod(0o755)
    daemon.runtime_dir.chmod(0o755)
    for kind in ("admin", "infer", "embed"):
        if daemon.path(kind).exists():
            daemon.path(kind).chmod(0o666)
    return daemon


def connected_as(path: Path, uid: int, groups: tuple[int, ...] = ()) -> socket.socket:
    """A connection that another user made, handed over to this process (SCM_RIGHTS)."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX) as made:
                made.connect(str(path))
                socket.send_fds(theirs, [b"."], [made.fileno()])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs.close()
    with ours:
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=fd)

"""Who is at the other end of a Unix socket, as the kernel tells it."""

from __future__ import annotations

import socket
from struct import Struct as Packer

from msgspec import Struct

__all__ = ["Peer", "peer_of"]

_UCRED = Packer("3i")  # struct ucred: pid, uid, gid (unix(7))


class Peer(Struct, frozen=True):
    """Credentials at the time of `connect`: a descriptor passed on later still shows its first owner."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """The peer's credentials (SO_PEERCRED)."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid=pid, uid=uid, gid=gid)

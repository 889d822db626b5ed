"""Who is at the other end of a Unix socket, as the kernel tells it."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from struct import Struct as Packer

from msgspec import Struct

__all__ = ["Peer", "peer_of"]

_UCRED = Packer("3i")  # struct ucred: pid, uid, gid (unix(7))
_SO_PEERGROUPS = 59  # Linux 4.13; not in Python's socket module
_GID = Packer("I")
_NGROUPS_MAX = 65_536  # limits.h of Linux


class Peer(Struct, frozen=True):
    """Credentials at the time of `connect`: a descriptor passed on later still shows its first owner.

    `groups` are the supplementary ones. What a message carries (SCM_CREDENTIALS) is never asked for nor read.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def peer_of(sock: socket.socket) -> Peer:
    """The peer's credentials (SO_PEERCRED, SO_PEERGROUPS)."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid=pid, uid=uid, gid=gid, groups=_groups_of(sock))


def _groups_of(sock: socket.socket) -> tuple[int, ...]:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # as much as Python lets be asked for
    except OSError as fault:
        if fault.errno != errno.ERANGE:
            raise
        raw = _many_groups(sock.fileno())
    return tuple(gid for (gid,) in _GID.iter_unpack(raw))


def _many_groups(fd: int) -> bytes:
    """The same for a peer in more than 256 groups: left out, a rule that denies one of them would not hold."""
    buffer = ctypes.create_string_buffer(_NGROUPS_MAX * _GID.size)
    length = ctypes.c_uint32(len(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(fd, socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return buffer.raw[: length.value]

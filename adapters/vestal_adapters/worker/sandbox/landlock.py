"""Landlock: from here on this process opens what the rules name, and nothing else in the file system.

Where the kernel's version knows them, TCP, device ioctls, abstract sockets and signals to others are taken away
as well; where it does not, seccomp alone holds those. A ruleset binds the calling thread and those it starts
later, so there must be one thread (see `confine`). Landlock does not hide names: stat(2) still works.

Source: landlock(7), linux/landlock.h. The numbers of these three system calls are the same on every machine.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from vestal_adapters.worker.sandbox.kernel import address, system_call

__all__ = ["DEVICE", "LISTEN", "OVERWRITE", "READ", "RUN", "restrict", "version"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH, _NET_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_SOCK = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 9
READ = _READ_FILE | _READ_DIR
RUN = _EXECUTE | _READ_FILE
OVERWRITE = _WRITE_FILE | 1 << 14  # to cut it to nothing first, too
DEVICE = _READ_FILE | _WRITE_FILE | 1 << 15  # to ask things of it, too
LISTEN = READ | _MAKE_SOCK | _REMOVE_FILE
# How many of the rights over files each version knows; newer versions than the last have the same.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_SINCE, _NET, _BIND = 4, 0b11, 0b01  # to bind and to connect TCP
_SCOPE_SINCE, _SCOPE = 6, 0b11  # abstract Unix sockets and signals of others
_NOTHING: Mapping[Path, int] = MappingProxyType({})


def version() -> int:
    """The kernel's Landlock version; `OSError` where it has none, or has it switched off."""
    return system_call(_CREATE_RULESET, 0, 0, _VERSION_FLAG)


def restrict(
    trees: Iterable[Path], files: Iterable[int], places: Mapping[Path, int] = _NOTHING, ports: Iterable[int] = ()
) -> int:
    """Leave reading of `trees` and of the open `files`, and /dev/null; returns the version that did it.

    `places` are paths with `READ`, `RUN`, `DEVICE`, `OVERWRITE` or `LISTEN` (to make Unix sockets in them), `ports` of
    TCP to be listened on: `RUN`, `LISTEN` and these are for a program that is run afterwards. `no_new_privs` must be
    set. Raises `OSError`.
    """
    known = version()
    handled = (1 << _FILE_RIGHTS[min(known, max(_FILE_RIGHTS))]) - 1
    attributes = struct.pack(
        "=QQQ",
        handled,
        _NET if known >= _NET_SINCE else 0,
        _SCOPE if known >= _SCOPE_SINCE else 0,
    )
    size = 24 if known >= _SCOPE_SINCE else 16 if known >= _NET_SINCE else 8
    buffer = ctypes.create_string_buffer(attributes)
    ruleset = system_call(_CREATE_RULESET, address(buffer), size, 0)
    try:
        for tree in trees:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # nothing can be read there anyway
                _allow_path(ruleset, tree, READ)
        for path, rights in places.items():
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                # Never closed: a rule is about an inode, and procfs makes another one for a name that nobody holds
                # and that was forgotten as memory got short.
                _allow(ruleset, os.open(path, os.O_PATH | os.O_CLOEXEC), rights & handled)
        for port in ports if known >= _NET_SINCE else ():
            rule = ctypes.create_string_buffer(struct.pack("=QQ", _BIND, port))
            system_call(_ADD_RULE, ruleset, _NET_PORT, address(rule), 0)
        for fd in files:
            _allow(ruleset, fd, _READ_FILE)
        _allow_path(ruleset, Path(os.devnull), _READ_FILE | _WRITE_FILE)
        system_call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return known


def _allow_path(ruleset: int, path: Path, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _allow(ruleset, fd, rights)
    finally:
        os.close(fd)


def _allow(ruleset: int, fd: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= ~_READ_DIR  # the kernel refuses it for a file
    beneath = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd))
    system_call(_ADD_RULE, ruleset, _PATH_BENEATH, address(beneath), 0)

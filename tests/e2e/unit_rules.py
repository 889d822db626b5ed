"""Puts the kernel's part of a unit's hardening on this process and becomes another program, as systemd would.

    python unit_rules.py UNIT PROGRAM ARGUMENT…

The list of calls goes through libseccomp, which is what systemd itself uses; the names in its sets are asked of
`systemd-analyze`. Exit code 77 where the machine has not what it takes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # SCMP_ACT_*
_UNKNOWN = -1  # __NR_SCMP_ERROR
_NO_NEW_PRIVS, _SET_MDWE, _REFUSE_EXEC_GAIN = 38, 65, 1  # prctl(2)


def directive(unit: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", unit, re.MULTILINE)
    assert found, f"the unit has no {name}"
    return found[1]


def calls_of(names: list[str]) -> Iterator[str]:
    """The calls of an allow-list, its sets taken apart. Those of @default are always in it (systemd.exec(5))."""
    for name in names:
        if name.startswith("@"):
            said = subprocess.run(
                ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
            )
            lines = [line.strip() for line in said.stdout.splitlines()[1:]]
            yield from calls_of([line for line in lines if line and not line.startswith("#")])
        else:
            yield name


def allow_only(names: set[str]) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    rules = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number != _UNKNOWN:
            assert library.seccomp_rule_add(rules, _ALLOW, number, 0) in (0, -errno.EDOM), name
    assert library.seccomp_load(rules) == 0


def main() -> None:
    unit = Path(sys.argv[1]).read_text()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        sys.exit(77)
    assert directive(unit, "MemoryDenyWriteExecute") == directive(unit, "NoNewPrivileges") == "yes"
    names = set(calls_of(["@default", *directive(unit, "SystemCallFilter").split()]))
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        allow_only(names)
    except OSError:
        sys.exit(77)
    os.execv(sys.argv[2], sys.argv[2:])


main()

"""What a worker may ask of the kernel after lockdown: what Python, the C library and an engine that computes need.

The list was made by watching both engines load, generate and embed on an allow-all filter, and then thought
over. What is not here fails with EPERM. Some calls are allowed for some arguments only; see `Rule`.
"""

from __future__ import annotations

import errno
import os
from typing import Literal

from msgspec import Struct

from vestal_adapters.worker.sandbox import gpu

__all__ = ["AUDIT", "DEADLY", "MACHINES", "Machine", "Rule", "rules"]

Machine = Literal["x86_64", "aarch64"]
MACHINES: tuple[Machine, ...] = ("x86_64", "aarch64")

AUDIT: dict[Machine, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_*: what the filter is told of the caller's machine."""

# name: (x86_64, aarch64); `None` where the machine has no such call. Source: the kernel's syscall tables.
_FREE: dict[str, tuple[int | None, int | None]] = {
    "futex": (202, 98), "recvfrom": (45, 207), "sendto": (44, 206), "read": (0, 63), "write": (1, 64),
    "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57), "lseek": (8, 62),
    "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, None), "lstat": (6, None), "statx": (332, 291),
    "open": (2, None), "openat": (257, 56), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "fadvise64": (221, 223),
    "brk": (12, 214), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233),
    "mlock": (149, 228), "munlock": (150, 229), "mlock2": (325, 284),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "pause": (34, None),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "setitimer": (38, 103), "getitimer": (36, 102),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, None),
    "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293), "membarrier": (324, 283),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

# With a condition on one argument.
_MMAP, _MPROTECT, _CLONE, _CLONE3 = (9, 222), (10, 226), (56, 220), (435, 435)
_FCNTL, _IOCTL, _PRCTL, _PRLIMIT, _KILL, _TGKILL = (72, 25), (16, 29), (157, 167), (302, 261), (62, 129), (234, 131)

# Nothing here asks for these by mistake: whoever does has taken the worker over.
_DEADLY: dict[str, tuple[int, int]] = {
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
}  # fmt: skip

_PROT_EXEC = 0x4
_CLONE_THREAD = 0x10000
_TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, winsize, FIONREAD, FIONBIO, FIO[N]CLEX
# To duplicate a descriptor, its flags, and leases. Not F_SETOWN with F_SETSIG: whatever then arrives at a descriptor
# has the kernel send a signal of one's choice to a process of one's choice, which Landlock holds only since version 6.
_OF_DESCRIPTORS = (0, 1, 2, 3, 4, 1030, 1024, 1025)
# Sockets of these types reach nobody without `connect` or `accept`; a datagram socket would, by `sendto` alone.
_UNIX, _LISTENERS = 1, ((0xF, 1), (0xF, 5))  # AF_UNIX; SOCK_STREAM and SOCK_SEQPACKET, with any flags
_PRCTL_QUESTIONS = (3, 15, 16, 21, 39)  # dumpable?, set and get a thread's name, seccomp?, no_new_privs?


class Rule(Struct, frozen=True):
    """One call: always, or as one argument (by its low 32 bits) says.

    `equal` lists the values it may have, `masked` what some of its bits may be, as (which, what); `lacking` are bits it
    must not have, `having` bits it must; `null` is for a pointer, of which all 64 bits count. `also` is a rule on
    another argument, which must hold as well.
    """

    number: int
    argument: int | None = None
    equal: tuple[int, ...] = ()
    masked: tuple[tuple[int, int], ...] = ()
    lacking: int = 0
    having: int = 0
    null: bool = False
    also: Rule | None = None
    answer: int = 0
    """An errno to answer with instead of asking the kernel."""


def rules(machine: Machine, *, on_gpu: bool = False) -> list[Rule]:
    """The allowed calls, the busiest first. Signals may be sent to this very process only."""
    column = MACHINES.index(machine)
    free = [Rule(number) for numbers in _FREE.values() if (number := numbers[column]) is not None]
    own = (os.getpid(),)
    return [
        *free,
        Rule(_MMAP[column], 2, lacking=_PROT_EXEC),
        Rule(_MPROTECT[column], 2, lacking=_PROT_EXEC),
        Rule(_CLONE[column], 0, having=_CLONE_THREAD),
        Rule(_CLONE3[column], answer=errno.ENOSYS),  # so that the C library falls back to what can be looked into
        *(_gpu_rules(column) if on_gpu else [Rule(_IOCTL[column], 1, equal=_TERMINAL_QUESTIONS)]),
        Rule(_FCNTL[column], 1, equal=_OF_DESCRIPTORS + gpu.FCNTL_EQUAL * on_gpu),
        Rule(_PRCTL[column], 0, equal=_PRCTL_QUESTIONS),
        Rule(_PRLIMIT[column], 2, null=True),
        Rule(_KILL[column], 0, equal=own),
        Rule(_TGKILL[column], 0, equal=own),
    ]


def _gpu_rules(column: int) -> list[Rule]:
    absent = [number for numbers in gpu.NOT_THERE.values() if (number := numbers[column]) is not None]
    return [
        *(Rule(numbers[column]) for numbers in gpu.CALLS.values()),
        *(Rule(number, answer=errno.ENOENT) for number in absent),
        Rule(gpu.SOCKET[column], 0, equal=(_UNIX,), also=Rule(gpu.SOCKET[column], 1, masked=_LISTENERS)),
        Rule(_IOCTL[column], 1, equal=_TERMINAL_QUESTIONS + gpu.IOCTL_EQUAL, masked=gpu.IOCTL_MASKED),
    ]


DEADLY: dict[Machine, list[int]] = {
    machine: [numbers[column] for numbers in _DEADLY.values()] for column, machine in enumerate(MACHINES)
}

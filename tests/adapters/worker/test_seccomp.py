"""The filter's program, run by a small machine of our own for both kinds of processor: no kernel needed."""

from __future__ import annotations

import os
import struct

import pytest

from vestal_adapters.worker.sandbox.seccomp import filter_of
from vestal_adapters.worker.sandbox.syscalls import AUDIT, DEADLY, MACHINES, Machine, rules

ALLOW, KILL, EPERM, ENOENT, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050002, 0x00050026


def run(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What a filter answers; classic BPF as far as this one uses it."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, *(0,) * (6 - len(arguments))))
    instructions = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, yes, no, value = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x06:
                return int(value)
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


CALLS: dict[Machine, dict[str, int]] = {
    "x86_64": {"read": 0, "mmap": 9, "mprotect": 10, "clone": 56, "kill": 62, "tgkill": 234, "socket": 41,
               "prlimit64": 302, "clone3": 435, "prctl": 157, "ioctl": 16, "fcntl": 72, "fork": 57, "ptrace": 101,
               "connect": 42, "accept4": 288, "sendmsg": 46, "bind": 49, "listen": 50, "eventfd2": 290, "pipe2": 293,
               "unlinkat": 263},
    "aarch64": {"read": 63, "mmap": 222, "mprotect": 226, "clone": 220, "kill": 129, "tgkill": 131, "socket": 198,
                "prlimit64": 261, "clone3": 435, "prctl": 167, "ioctl": 29, "fcntl": 25, "ptrace": 117,
                "connect": 203, "accept4": 242, "sendmsg": 211, "bind": 200, "listen": 201, "eventfd2": 19, "pipe2": 59,
                "unlinkat": 35},
}  # fmt: skip
THREAD = 0x3D0F00  # what the C library asks for


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "answer"),
    [
        ("read", (0, 1, 2), ALLOW),
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 5), EPERM),
        ("mprotect", (0, 4096, 4), EPERM),
        ("mprotect", (0, 4096, 1), ALLOW),
        ("clone", (THREAD,), ALLOW),
        ("clone", (17,), EPERM),
        ("clone", (1 << 32 | 17,), EPERM),
        ("clone3", (1, 88), ENOSYS),
        ("kill", (os.getpid(), 9), ALLOW),
        ("kill", (1, 9), EPERM),
        ("kill", (2**32 - 1, 9), EPERM),
        ("tgkill", (os.getpid(), 5, 6), ALLOW),
        ("tgkill", (1, 1, 6), EPERM),
        ("prlimit64", (0, 7, 0), ALLOW),
        ("prlimit64", (0, 7, 1), EPERM),
        ("prlimit64", (0, 7, 1 << 32), EPERM),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), EPERM),
        ("ioctl", (1, 0x5401), ALLOW),
        ("ioctl", (1, 0x5412), EPERM),
        ("fcntl", (1, 1030, 0), ALLOW),
        ("fcntl", (1, 4, 0), ALLOW),
        ("fcntl", (1, 8, 1), EPERM),  # F_SETOWN
        ("fcntl", (1, 15, 1), EPERM),  # F_SETOWN_EX
        ("fcntl", (1, 10, 9), EPERM),  # F_SETSIG
        ("fcntl", (1, 1026, 1), EPERM),  # F_NOTIFY
        ("socket", (1, 1), EPERM),
        ("ptrace", (0,), KILL),
    ],
)
def test_a_call_is_answered_by_its_arguments(
    machine: Machine, call: str, arguments: tuple[int, ...], answer: int
) -> None:
    program = filter_of(machine, rules(machine))
    assert run(program, AUDIT[machine], CALLS[machine][call], *arguments) == answer


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("call", "arguments", "answer"),
    [
        ("socket", (1, 0x80005), ALLOW),  # AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC
        ("socket", (1, 1), ALLOW),
        ("socket", (1, 2), EPERM),
        ("socket", (1, 0x80003), EPERM),
        ("socket", (2, 1), EPERM),
        ("socket", (10, 5), EPERM),
        ("bind", (3,), ALLOW),
        ("listen", (3,), ALLOW),
        ("connect", (3,), EPERM),
        ("accept4", (3,), EPERM),
        ("sendmsg", (3,), EPERM),
        ("eventfd2", (), ALLOW),
        ("pipe2", (), ALLOW),
        ("unlinkat", (), ENOENT),
        ("ioctl", (1, 0x5401), ALLOW),
        ("ioctl", (1, 0xC020462A), ALLOW),
        ("ioctl", (1, 0xC90046C8), ALLOW),
        ("ioctl", (1, 0x4600), EPERM),  # a screen's
        ("ioctl", (1, 0x8008462A), EPERM),
        ("ioctl", (1, 0xC0204700), EPERM),
        ("ioctl", (1, 0x4B), ALLOW),
        ("ioctl", (1, 0x7F), ALLOW),
        ("ioctl", (1, 0x80), EPERM),
        ("ioctl", (1, 0x30000002), ALLOW),
        ("ioctl", (1, 0x30000003), EPERM),
        ("ioctl", (1, 0x5412), EPERM),  # types into a terminal
        ("fcntl", (1, 6, 0), ALLOW),
        ("fcntl", (1, 8, 1), EPERM),  # F_SETOWN
        ("fcntl", (1, 10, 9), EPERM),  # F_SETSIG
        ("fcntl", (1, 15, 1), EPERM),  # F_SETOWN_EX
        ("mmap", (0, 4096, 5), EPERM),
        ("clone", (17,), EPERM),
        ("ptrace", (0,), KILL),
    ],
)
def test_an_engine_on_a_gpu_may_ask_for_this_and_no_more(
    machine: Machine, call: str, arguments: tuple[int, ...], answer: int
) -> None:
    program = filter_of(machine, rules(machine, on_gpu=True))
    assert run(program, AUDIT[machine], CALLS[machine][call], *arguments) == answer


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_but_the_rules_is_allowed(machine: Machine, on_gpu: bool) -> None:
    allowed = rules(machine, on_gpu=on_gpu)
    program = filter_of(machine, allowed)
    named = {rule.number for rule in allowed}
    assert len(named) == len(allowed)
    for number in range(1024):
        answer = run(program, AUDIT[machine], number)
        if number not in named:
            assert answer == (KILL if number in DEADLY[machine] else EPERM)


def test_another_numbering_ends_the_process() -> None:
    program = filter_of("x86_64", rules("x86_64"))
    assert run(program, 0x40000003, 4) == KILL  # i386, where 4 is write
    assert run(program, AUDIT["x86_64"], 0x40000000 | 1) == KILL  # x32


@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_is_short_enough_for_the_kernel(machine: Machine) -> None:
    assert len(filter_of(machine, rules(machine, on_gpu=True))) // 8 < 4096

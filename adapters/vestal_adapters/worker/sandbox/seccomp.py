"""seccomp: the kernel asks a program of ours before each system call. This assembles it and hands it over.

The program is classic BPF over `struct seccomp_data` (number, machine, address, six arguments of 64 bits). It is
written so that every jump is short: each rule is one comparison, what it allows, and an end. The kernel notes
which calls are always allowed and then does not run the program for them at all (since 5.11), so a long list
costs nothing where it matters. Source: seccomp(2), linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from vestal_adapters.worker.sandbox.kernel import ARCHITECTURE, address, system_call
from vestal_adapters.worker.sandbox.syscalls import AUDIT, DEADLY, Machine, Rule, rules

__all__ = ["filter_of", "install"]

_SECCOMP: dict[Machine, int] = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
# To all threads; and without the mitigation that kernels before 5.16 add to every filter, which slows all computing
# down and protects a process from its own code: this one keeps nothing from itself.
_TSYNC, _SPEC_ALLOW = 1, 4

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x40000000  # x86_64's other numbering, which the rules do not speak of


def install(*, on_gpu: bool = False) -> None:
    """Bind all threads of this process, for good; `OSError` where the kernel or the machine cannot."""
    if ARCHITECTURE not in ("x86_64", "aarch64"):
        raise OSError(errno.ENOSYS, f"there is no list of system calls for {ARCHITECTURE or 'this system'}")
    machine: Machine = "x86_64" if ARCHITECTURE == "x86_64" else "aarch64"
    program = filter_of(machine, rules(machine, on_gpu=on_gpu))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, address(instructions)))
    # TSYNC answers with the id of a thread that could not follow.
    if system_call(_SECCOMP[machine], _SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, address(header)) != 0:
        raise OSError(errno.EBUSY, "a thread could not be bound by the filter")


def filter_of(machine: Machine, allowed: list[Rule]) -> bytes:
    """The program: allowed calls, deadly ones, and EPERM for all others."""
    program = _load(_MACHINE_AT) + _unless(_EQUAL, AUDIT[machine], _end(_KILL_PROCESS)) + _load(_NUMBER_AT)
    if machine == "x86_64":
        program += _if(_AT_LEAST, _X32, _end(_KILL_PROCESS))
    for rule in allowed:
        program += _if(_EQUAL, rule.number, _body(rule))
    for number in DEADLY[machine]:
        program += _if(_EQUAL, number, _end(_KILL_PROCESS))
    return program + _end(_ERRNO | errno.EPERM)


def _body(rule: Rule) -> bytes:
    """What is done for one call: it ends the program, whatever the argument."""
    if rule.answer:
        return _end(_ERRNO | rule.answer)
    granted = _body(rule.also) if rule.also else _end(_ALLOW)
    if rule.argument is None:
        return granted
    low = _ARGUMENTS_AT + 8 * rule.argument  # both machines are little-endian
    body = _load(low)
    for value in rule.equal:
        body += _if(_EQUAL, value, granted)
    if rule.having:
        body += _if(_ANY_BIT, rule.having, granted)
    if rule.lacking:
        body += _unless(_ANY_BIT, rule.lacking, granted)
    if rule.null:
        body += _if(_EQUAL, 0, _load(low + 4) + _if(_EQUAL, 0, granted))
    for mask, value in rule.masked:
        body += _load(low) + _mask(mask) + _if(_EQUAL, value, granted)
    return body + _end(_ERRNO | errno.EPERM)


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _instruction(_LOAD, 0, 0, offset)


def _mask(bits: int) -> bytes:
    return _instruction(_AND, 0, 0, bits)


def _end(action: int) -> bytes:
    return _instruction(_RETURN, 0, 0, action)


def _if(comparison: int, value: int, then: bytes) -> bytes:
    return _instruction(comparison, 0, len(then) // 8, value) + then


def _unless(comparison: int, value: int, then: bytes) -> bytes:
    return _instruction(comparison, len(then) // 8, 0, value) + then

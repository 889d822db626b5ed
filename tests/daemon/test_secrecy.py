"""The process's memory: no dump of it, and no look into it by others of the same user."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from vestald.secrecy import keep_memory_private

NOBODY = 12345


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _private_child(uid: int | None) -> int:
    """A child that has kept its memory private and waits to be killed."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid is not None:
                _become(uid)
            keep_memory_private()
            signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell's background hands down that it is ignored
            os.write(theirs, b"%d %d" % resource.getrlimit(resource.RLIMIT_CORE))
            signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read(3) == b"0 0"
    return child


def _may_look(pid: int, uid: int) -> bool:
    """Whether a process of `uid` may open the memory of process `pid`."""
    looker = os.fork()
    if looker == 0:
        try:
            _become(uid)
            os.open(f"/proc/{pid}/mem", os.O_RDONLY)
            os.open(f"/proc/{pid}/environ", os.O_RDONLY)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(looker, 0)[1]) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two processes of another user")
def test_another_process_of_the_same_user_may_not_look_into_it() -> None:
    plain = os.fork()
    if plain == 0:
        try:
            _become(NOBODY)
            os.execvp("sleep", ["sleep", "60"])  # which makes it an ordinary process of that user
        finally:
            os._exit(1)
    private = _private_child(NOBODY)
    try:
        while b"sleep" not in Path(f"/proc/{plain}/cmdline").read_bytes()[:6]:  # until it is that user's own program
            os.sched_yield()
        assert _may_look(plain, NOBODY)
        assert not _may_look(private, NOBODY)
    finally:
        for child in (plain, private):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_crash_leaves_no_core() -> None:
    child = _private_child(None)
    os.kill(child, signal.SIGQUIT)  # dumps core by default, and Python has no handler for it
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGQUIT
    assert not os.WCOREDUMP(status)

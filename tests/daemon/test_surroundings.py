"""What the kernel tells: the memory of a process, and where a descriptor leads."""

from __future__ import annotations

import os
import pty
from pathlib import Path

import pytest

from vestald.surroundings import log_place, resident


def test_memory_of_a_process_that_is_there_and_of_one_that_is_not() -> None:
    size = resident(os.getpid())
    assert size is not None
    assert 1 << 20 < size < 1 << 40
    assert size % os.sysconf("SC_PAGE_SIZE") == 0
    assert resident(None) is None
    assert resident(2**22 + 1) is None  # past the largest pid there can be, proc_sys_kernel(5)


def test_a_file_a_terminal_a_pipe_and_nothing_are_told_apart(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    read, write = os.pipe()
    nothing = os.open(os.devnull, os.O_WRONLY)
    with (tmp_path / "log").open("w") as file:
        assert log_place(file.fileno()) == f"file:{tmp_path}/log"
        assert log_place(slave) == f"terminal:{os.ttyname(slave)}"
        assert log_place(write) == "pipe"
        assert log_place(nothing) == "none"
    for number in (master, slave, read, write, nothing):
        os.close(number)
    assert log_place(nothing) == ""


def test_the_journal_is_known_by_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    info = os.fstat(write)
    monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
    assert log_place(write).startswith("journal:")
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert log_place(write) == "pipe"
    os.close(read)
    os.close(write)

"""One process: how its end is put in words, what it may know, and what is kept of what it wrote."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import Any

import pytest

from vestal_adapters.worker.process import Process, StderrTail, describe_exit, reduced_environment


@pytest.mark.parametrize(
    ("returncode", "doing", "words"),
    [
        (0, "", "exited with status 0"),
        (3, "while loading", "exited with status 3 while loading"),
        (-signal.SIGKILL, "", "was killed by SIGKILL: likely out of memory"),
        (-signal.SIGKILL, "while loading", "was killed by SIGKILL while loading: likely out of memory"),
        (-signal.SIGHUP, "", "was killed by SIGHUP"),
        (-40, "while loading", "was killed by signal 40 while loading"),
    ],
)
def test_an_end_in_words(returncode: int, doing: str, words: str) -> None:
    assert describe_exit(returncode, doing) == words


def test_the_tail_keeps_the_last_lines_and_bytes() -> None:
    tail = StderrTail()
    for number in range(100_000):
        tail.feed(f"line {number}\n".encode())
    assert len(tail.lines) == StderrTail.LINES
    assert tail.lines[-1] == "line 99999"
    tail.feed(b"\xff" * 20_000 + b"\nlast\n\n")
    assert tail.lines[-1] == "last"
    assert sum(map(len, tail.lines)) <= StderrTail.BYTES


def test_the_environment_is_an_allow_list_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("TZ", "UTC")
    made = reduced_environment({"TZ": "CET", "GOMP_SPINCOUNT": "1000"})
    assert "AWS_SECRET_ACCESS_KEY" not in made
    assert (made["TZ"], made["GOMP_SPINCOUNT"]) == ("CET", "1000")


def test_a_process_is_reaped_though_nobody_waits_for_it(run: Any) -> None:
    async def main() -> None:
        process = Process(["json.tool"], {})  # any module that exits by itself on these arguments
        process.channel.close()
        await process.ended()
        assert process.returncode == 2
        assert process.stderr.lines
        assert "exited with status 2" in repr(process)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        process.kill()  # of a process that is no more: no effect, and never another's
        assert process.reap()

    run(main())


def test_a_process_that_cannot_be_spawned_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")

    async def main() -> None:
        gc.collect()  # what other tests left in cycles is closed whenever the collector comes
        before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names, not paths
        with pytest.raises(FileNotFoundError):
            Process(["json.tool"], {})
        assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    asyncio.run(main())

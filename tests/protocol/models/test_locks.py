from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from vestal.models.locks import held, is_held


def test_a_lock_excludes_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path):
        assert is_held(path)
    assert not is_held(path)


def test_the_file_stays_so_that_no_two_can_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path):
        inode = path.stat().st_ino
    with held(path):
        assert path.stat().st_ino == inode


def test_the_second_is_told_once_that_it_waits_and_then_gets_it(tmp_path: Path) -> None:
    path, waiting, order = tmp_path / "lock", threading.Event(), list[str]()

    def on_wait() -> None:
        order.append("waits")
        waiting.set()

    def second() -> None:
        with held(path, on_wait):
            order.append("second")

    thread = threading.Thread(target=second)
    with held(path):
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["waits", "first", "second"]


def test_nobody_waits_for_a_free_lock(tmp_path: Path) -> None:
    waits: list[int] = []
    with held(tmp_path / "lock", on_wait=lambda: waits.append(1)):
        assert waits == []


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, pathlib, vestal.models.locks as l\n"
        "with l.held(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_held(path)
        holder.kill()
    assert not is_held(path)

"""The log of a server's output: bounded, private, and never in the server's way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vestal.errors import VestalError
from vestal_adapters.server.output import Output, RotatedLog


def test_it_is_rotated_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RotatedLog, "SIZE", 100)
    path = tmp_path / "server.log"
    path.write_text("before\n")
    path.chmod(0o644)
    log = RotatedLog(path)
    output = Output(log)
    for number in range(40):
        output.feed(f"line number {number:4}\n".encode())
    log.close()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["server.log", "server.log.1", "server.log.2"]
    for found in tmp_path.iterdir():
        assert found.stat().st_size <= 100
        assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert path.read_text().endswith("line number   39\n")
    assert output.lines[-1] == "line number   39"


def test_a_place_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(pipe)
    for path in (tmp_path / "no" / "log", tmp_path, link, pipe, Path("/dev/full")):
        with pytest.raises(VestalError, match="cannot be written"):
            RotatedLog(path)


def test_a_log_that_fails_later_is_left_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RotatedLog, "SIZE", 10)
    folder = tmp_path / "logs"
    folder.mkdir()
    log = RotatedLog(folder / "log")
    output = Output(log)
    output.feed(b"0123456789")
    (folder / "log").unlink()
    folder.rmdir()
    output.feed(b"more")
    output.feed(b"and more")
    assert "No such file" in log.fault
    assert output.lines == ["0123456789moreand more"]

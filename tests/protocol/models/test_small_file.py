from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestal.models.small_file import read_small, write_small


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_what_is_written_is_read_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_small(file, b"one", mode=0o600)
    assert (read_small(file, owned=True), file.stat().st_mode & 0o777) == (b"one", 0o600)
    write_small(file, b"two")
    assert (read_small(file), file.stat().st_mode & 0o777, names(tmp_path)) == (b"two", 0o644, ["a.json"])


def test_what_a_dead_writer_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".incoming").symlink_to(tmp_path / "elsewhere")
    write_small(tmp_path / "a", b"one")
    assert names(tmp_path) == ["a"]


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_small(tmp_path / "a") is None


def test_what_is_no_small_file_of_ours_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(11))
    for name, why in (("link", "symbolic link"), ("pipe", "not a regular file"), ("large", "larger than 10 bytes")):
        with pytest.raises(ValueError, match=why):
            read_small(tmp_path / name, limit=10)


def test_a_file_of_another_user_decides_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file away")
    (tmp_path / "a").write_bytes(b"")
    os.chown(tmp_path / "a", 65534, 65534)
    assert read_small(tmp_path / "a") == b""
    with pytest.raises(ValueError, match="belongs to user 65534"):
        read_small(tmp_path / "a", owned=True)

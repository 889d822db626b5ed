"""A server's directory: private, locked, and swept when nobody holds it any more."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from vestal.errors import VestalError
from vestal_adapters.server.home import Home


def test_it_is_private_and_goes_with_what_is_in_it(homes: Path) -> None:
    home = Home()
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    with home.holding("sesame") as file:
        assert file.read_text() == "sesame"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()
    (home.path / "left").touch()
    home.close()
    home.close()
    assert list(homes.iterdir()) == []


def test_a_stale_socket_is_swept_and_a_held_directory_is_not(homes: Path) -> None:
    stale = homes / "vestal-server-killed"
    stale.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale / "api.sock"))
    held, other = Home(), homes / "others"
    other.mkdir()
    assert not stale.exists()
    later = Home()
    assert held.path.exists()
    assert sorted(homes.iterdir()) == sorted([held.path, later.path, other])
    held.close()
    later.close()


def test_a_place_that_cannot_be_used_is_said(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = homes / ("x" * 100)
    deep.mkdir()
    with pytest.raises(VestalError, match="longer than the 107 bytes"):
        Home(deep)
    assert list(deep.iterdir()) == []
    with pytest.raises(VestalError, match="No such file"):
        Home(homes / "missing")

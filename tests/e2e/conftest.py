"""Daemons for the tests: each is killed at the end of its test, whatever it left running, and none may have raised."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.e2e.harness import Daemon, Table, echo, toml

Start: TypeAlias = Callable[..., Daemon]


@pytest.fixture
def start(short_dir: Path) -> Iterator[Start]:
    """`start(*backends, sections…)` starts a vestald and returns when it is ready (with `wait=False`: at once).

    Without a backend it serves one echo. All share one runtime directory, unless a test names another.
    """
    daemons: list[Daemon] = []

    def begin(
        *backends: Table,
        wait: bool = True,
        open_files: int | None = None,
        environ: Mapping[str, str] | None = None,
        under: tuple[str, ...] = (),
        **sections: Table,
    ) -> Daemon:
        config = toml(*(backends or (echo(),)), **sections)
        daemon = Daemon(short_dir, config, open_files=open_files, environ=environ, under=under)
        daemons.append(daemon)
        return daemon.ready() if wait else daemon

    yield begin
    _end(*daemons)


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for the tests of a module that leave nothing behind: an echo that embeds, with few limits."""
    home = Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    daemon = Daemon(home, toml(echo(embed=True, slots=8), echo("v1", v2=False)))
    try:
        yield daemon.ready()
    finally:
        _end(daemon)
        shutil.rmtree(home)


def _end(*daemons: Daemon) -> None:
    for daemon in daemons:
        daemon.kill()
    for daemon in daemons:
        assert "Traceback" not in daemon.stderr, daemon.stderr

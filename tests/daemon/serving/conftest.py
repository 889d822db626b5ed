"""The stage of the tests of embedding."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.daemon.serving.embedders import Play, played


@pytest.fixture
def play(short_dir: Path) -> Play:
    """Run a scene on a daemon with these backends."""
    return partial(played, short_dir)

"""What docs/models.md says of the store is so; its commands run in test_pages.py."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, blocks_of
from tests.protocol.models.conftest import build_gguf
from vestald.config import load

PAGE = ROOT / "docs" / "models.md"


def test_its_backend_is_the_one_that_the_daemon_serves(tmp_path: Path) -> None:
    (block,) = blocks_of(PAGE, "toml")
    file = tmp_path / "vestald.toml"
    file.write_text(block.text)
    assert [backend.name for backend in load(file).backends] == ["chat"]


def test_every_file_that_the_page_names_in_the_store_is_made(tmp_path: Path) -> None:
    named = re.findall(r"^\| `([a-z]+[^`]*)` \|", PAGE.read_text().partition("Where things are")[2], re.MULTILINE)
    (tmp_path / "mine.gguf").write_bytes(build_gguf())
    environment = {**os.environ, "VESTAL_HOME": str(tmp_path / "home")}
    for line in blocks_of(PAGE, "sh")[0].text.splitlines():
        command = [sys.executable, "-m", "vestal.cli", *shlex.split(line)[1:]]
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert len(named) == 5
    for name in named:
        file = name.replace("NAME.json", "mine.json").replace("NAME", "me")
        assert (tmp_path / "home" / file).is_file(), name

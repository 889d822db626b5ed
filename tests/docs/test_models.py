"""What docs/models.md shows works as it is shown."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.protocol.models.conftest import build_gguf
from vestald.config import load

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_the_commands_do_what_the_page_says_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(build_gguf())
    environment = {**os.environ, "VESTAL_HOME": str(tmp_path / "home")}
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "vestal"
        done = subprocess.run(
            [sys.executable, "-m", "vestal.cli", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        if "new" in words:
            shutil.copy(tmp_path / "home" / "keys" / "me.pub", tmp_path)


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_configuration_is_one_that_the_daemon_takes(text: str, tmp_path: Path) -> None:
    file = tmp_path / "vestald.toml"
    file.write_text(text)
    assert [backend.name for backend in load(file).backends] == ["chat"]


def test_every_file_that_the_page_names_in_the_store_is_made(tmp_path: Path) -> None:
    named = re.findall(r"^\| `([a-z]+[^`]*)` \|", PAGE.read_text().partition("Where things are")[2], re.MULTILINE)
    (tmp_path / "mine.gguf").write_bytes(build_gguf())
    environment = {**os.environ, "VESTAL_HOME": str(tmp_path / "home")}
    for line in blocks("sh")[0].splitlines():
        command = [sys.executable, "-m", "vestal.cli", *shlex.split(line)[1:]]
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert len(named) == 5
    for name in named:
        file = name.replace("NAME.json", "mine.json").replace("NAME", "me")
        assert (tmp_path / "home" / file).is_file(), name

"""What the README shows is what its readers get: answers of the right shape, its configuration, its make words."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, Session, blocks_of
from vestald.config import load

README = ROOT / "README.md"


@pytest.mark.model
@pytest.mark.timeout(180)
def test_its_programs_get_answers_of_the_shape_they_ask_for(short_dir: Path, model_home: Path) -> None:
    with Session(short_dir, model_home) as session:
        session.run(next(block for block in blocks_of(README, "console") if "vestald &" in block.text))
        first, second = (session.run(block) for block in blocks_of(README, "python"))
    assert len(first) > 100
    assert re.search(r" (end|length) Usage\(.*\) [\w.-]+$", first.strip())
    assert set(json.loads(second)) == {"name", "age"}


@pytest.mark.parametrize("block", blocks_of(README, "toml"))
def test_the_daemon_serves_the_backends_of_its_configuration(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "vestald.toml"
    file.write_text(block.text)
    config = load(file)
    assert [backend.name for backend in config.backends] == [
        table["name"] for table in tomllib.loads(block.text)["backend"]
    ]


def test_every_make_word_it_names_exists() -> None:
    words = set(re.findall(r"\bmake (\w+)", README.read_text())) - {"sure"}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert words
    assert words <= targets | {"make"}

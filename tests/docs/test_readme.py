"""What the README shows works as it is shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon, echo, toml
from vestald.config import load

README = Path(__file__).parents[2] / "README.md"
MAKEFILE = README.with_name("Makefile")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def run(code: str, daemon: Daemon) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"VESTAL_RUNTIME_DIR": str(daemon.runtime_dir)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_client_runs_against_a_daemon(short_dir: Path) -> None:
    daemon = Daemon(short_dir, toml(echo(v2=True)))
    try:
        assert run(blocks("python")[0], daemon).startswith("Why is the sky blue?Say hello. end")
    finally:
        daemon.kill()


@pytest.mark.model
@pytest.mark.timeout(120)
def test_every_client_runs_against_the_real_model(short_dir: Path, model_home: Path) -> None:
    chat = {"name": "chat", "adapter": "llamacpp", "model": "smollm2-135m", "context_length": 512}
    daemon = Daemon(short_dir, toml(chat), environ={"VESTAL_HOME": str(model_home)})
    try:
        first, second = (run(code, daemon) for code in blocks("python"))
    finally:
        daemon.kill()
    assert len(first) > 100
    assert set(json.loads(second)) == {"name", "age"}


@pytest.mark.parametrize("text", blocks("toml"))
def test_the_configuration_is_one_that_the_daemon_takes(text: str, tmp_path: Path) -> None:
    file = tmp_path / "vestald.toml"
    file.write_text(text)
    config = load(file)
    assert [backend.name for backend in config.backends] == [table["name"] for table in tomllib.loads(text)["backend"]]


def test_every_make_word_the_readme_names_exists() -> None:
    words = set(re.findall(r"\bmake (\w+)", README.read_text())) - {"sure"}
    targets = set(re.findall(r"^(\w+):", MAKEFILE.read_text(), re.MULTILINE))
    assert words
    assert words <= targets | {"make"}


def test_every_file_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    assert all((README.parent / link).exists() for link in links)

"""Completion, as the shells run it: bash here; zsh and fish where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import echo, toml
from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import PATIENCE, Vestal
from vestal.cli.completion import script
from vestal.cli.failures import UsageError
from vestal.cli.main import BRANCHES, COMMANDS

ASK = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vestal
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "vestal.bash"
    file.write_text(script("bash"))
    return file


@pytest.fixture
def env(vestal: Vestal, tmp_path: Path) -> dict[str, str]:
    """Where the script finds `vestal`, and that finds the daemon."""
    command = tmp_path / "vestal"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vestal.cli "$@"\n')
    command.chmod(0o755)
    return vestal.environment(PATH=f"{tmp_path}:{os.environ['PATH']}")


def completed(bash: Path, *words: str, env: dict[str, str] | None = None) -> set[str]:
    """What Tab offers behind `words`, of which the last is begun."""
    command = ["bash", "--norc", "-c", ASK, "ask", str(bash), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=env)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_and_the_options_of_each(bash: Path) -> None:
    assert completed(bash, "vestal", "") >= set(COMMANDS)
    assert completed(bash, "vestal", "st") == {"status", "stop"}
    assert completed(bash, "vestal", "--runtime-dir", "/run/x", "und") == {"undrain"}
    assert completed(bash, "vestal", "run", "--json") == {"--json", "--json-schema"}
    assert completed(bash, "vestal", "models", "") >= set(BRANCHES["models"])
    assert completed(bash, "vestal", "backend", "re") == {"remove", "restart"}
    assert completed(bash, "vestal", "backend", "restart", "--d") == {"--deadline"}
    assert completed(bash, "vestal", "completion", "") >= {"bash", "zsh", "fish"}


def test_bash_completes_values(bash: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").touch()
    (tmp_path / "place").mkdir()
    assert completed(bash, "vestal", "run", "--priority", "") == {"interactive", "normal", "batch"}
    assert completed(bash, "vestal", "run", "-f", f"{tmp_path}/pr") == {f"{tmp_path}/prompt.txt"}
    assert completed(bash, "vestal", "run", "--seed", "") == set()
    assert completed(bash, "vestal", "--runtime-dir", f"{tmp_path}/p") == {f"{tmp_path}/place"}


def test_bash_asks_the_daemon_for_the_backends_to_restart(bash: Path, begin: Begin, env: dict[str, str]) -> None:
    begin()
    for deed in ("restart", "remove", "drain", "undrain"):
        assert completed(bash, "vestal", "backend", deed, "e", env=env) == {"echo"}


def test_bash_asks_the_configuration_of_the_daemon_for_the_backends_to_add(
    bash: Path, vestal: Vestal, begin: Begin, env: dict[str, str], tmp_path: Path
) -> None:
    begin().rewrite(echo(), echo("more"), echo("and.more"))
    (tmp_path / "v.toml").write_text(toml(echo("never")))
    env["VESTAL_CONFIG"] = str(tmp_path / "v.toml")
    assert completed(bash, "vestal", "backend", "add", "", env=env) == {"more", "and.more"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_every_option_is_in_the_script_and_the_shell_can_read_it(shell: str, tmp_path: Path) -> None:
    text = script(shell)
    for name in COMMANDS:
        assert name in text
    assert "json-schema" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: that it can read the script is not tested here")
    file = tmp_path / "script"
    file.write_text(text)
    subprocess.run([shell, "-n", str(file)], check=True, timeout=PATIENCE)


def test_another_shell_is_refused_with_those_there_are(vestal: Vestal) -> None:
    with pytest.raises(UsageError, match="bash, zsh, fish"):
        script("tcsh")
    assert vestal("completion", "zhs").err == (
        "vestal: there is no completion for 'zhs': did you mean zsh? (bash, zsh, fish)\n"
    )
    assert vestal("completion").code == 2

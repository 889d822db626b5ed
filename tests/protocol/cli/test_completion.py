"""Completion, as the shells do it: each is given the script and asked what Tab offers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import echo, toml
from tests.protocol.cli.conftest import Answer, Begin
from tests.protocol.cli.harness import Vestal
from tests.protocol.cli.shells import Shell, start
from vestal.cli.completion import SHELLS, script
from vestal.cli.failures import UsageError
from vestal.cli.main import BRANCHES, COMMANDS
from vestal.models import CATALOG


@pytest.fixture
def env(vestal: Vestal, tmp_path: Path) -> dict[str, str]:
    """Where a shell finds `vestal`, and that finds the daemon."""
    command = tmp_path / "bin" / "vestal"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vestal.cli "$@"\n')
    command.chmod(0o755)
    return vestal.environment(PATH=f"{command.parent}:{os.environ['PATH']}")


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path, env: dict[str, str]) -> Iterator[Shell]:
    """Each of the shells that are installed, in a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    with start(request.param, home, env) as begun:
        yield begun


def test_commands_and_their_second_words_are_completed(shell: Shell) -> None:
    assert shell.offers("vestal ") >= set(COMMANDS)
    assert shell.offers("vestal st") == {"status", "stop"}
    assert shell.offers("vestal --runtime-dir /run/x und") == {"undrain"}
    for name, words in BRANCHES.items():
        assert shell.offers(f"vestal {name} ") == set(words)
    assert shell.offers("vestal backend re") == {"remove", "restart"}
    assert shell.offers("vestal audit ") == {"verify", "tail"}
    assert shell.offers("vestal completion ") == set(SHELLS)


def test_each_command_has_its_own_options(shell: Shell) -> None:
    assert shell.offers("vestal run --js") == {"--json", "--json-schema"}
    assert shell.offers("vestal backend restart --d") == {"--deadline"}
    assert "--deadline" not in shell.offers("vestal backend drain --")
    assert shell.offers("vestal run backend restart --dead") == set(), "that is a prompt"
    assert shell.offers("vestal --ver") == {"--version"}


def test_values_are_completed_as_what_they_are(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "home" / "prompt.txt").touch()
    (tmp_path / "home" / "place").mkdir()
    assert shell.offers("vestal run --priority ") == {"interactive", "normal", "batch"}
    assert shell.offers("vestal run --priority=b") == {"batch"}
    assert shell.offers("vestal run -f pr") == {"prompt.txt"}
    assert {word.rstrip("/") for word in shell.offers("vestal --runtime-dir p")} == {"place"}
    assert shell.offers("vestal config check pr") == {"prompt.txt"}
    assert shell.offers("vestal run --seed ") == set()
    assert shell.offers("vestal run pr") == set(), "a prompt is no file"


def test_the_daemon_is_asked_for_models_and_the_names_of_backends(shell: Shell, begin: Begin) -> None:
    begin(echo(aliases=["fast", "team/small:7b"]), echo("vectors", embed=True, aliases=["near"]))
    everything = {"echo", "fast", "team/small:7b", "vectors", "near"}
    assert shell.offers("vestal run --model ") == everything
    assert shell.offers("vestal embed --model ") == {"vectors", "echo", "near"}
    assert shell.offers("vestal route explain ") == everything
    for deed in ("restart", "remove", "drain", "undrain"):
        assert shell.offers(f"vestal backend {deed} ") == {"echo", "vectors"}
    assert shell.offers("vestal cancel ") == set(), "nothing runs"


def test_a_name_with_a_colon_is_one_name(shell: Shell, begin: Begin) -> None:
    begin(echo(aliases=["small:7b"]))
    assert shell.offers("vestal run --model small:") == {"small:7b"}


def test_the_daemon_of_the_directory_on_the_line_is_asked(shell: Shell, vestal: Vestal, begin: Begin) -> None:
    begin(echo("mine"))
    there = vestal.runtime_dir
    assert shell.offers("vestal --runtime-dir /nowhere backend drain ") == set()
    shell.set("VESTAL_RUNTIME_DIR", "/nowhere")
    assert shell.offers("vestal backend drain ") == set()
    assert shell.offers(f"vestal --runtime-dir {there} backend drain ") == {"mine"}
    assert shell.offers(f"vestal backend drain --runtime-dir={there} ") == {"mine"}


def test_the_configuration_of_the_daemon_is_asked_for_the_backends_to_add(
    shell: Shell, begin: Begin, tmp_path: Path, env: dict[str, str]
) -> None:
    begin().rewrite(echo(), echo("more"), echo("and.more"))
    (tmp_path / "v.toml").write_text(toml(echo("never")))
    shell.set("VESTAL_CONFIG", str(tmp_path / "v.toml"))
    assert shell.offers("vestal backend add ") == {"more", "and.more"}


def test_models_and_files_stand_where_either_may(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "home" / "my.gguf").touch()
    assert shell.offers("vestal pull smol") == {name for name in CATALOG if name.startswith("smol")}
    assert shell.offers("vestal pull my") == {"my.gguf"}
    assert shell.offers("vestal show my") == {"my.gguf"}
    assert shell.offers("vestal rm my") == set(), "only what is in the store can be removed"


def test_a_name_that_a_shell_would_obey_is_offered_to_nobody(vestal: Vestal, impostor: Answer) -> None:
    names = ["good", "$(reboot)", "a;b", "-f", "a b", "`x`", "größe", "x\x1b[2J", ""]
    able = {"generate": True, "v2": True, "embed": True, "slots": 1, "model": "m"}
    backends = [{"name": name, "model": name, "capabilities": able} for name in names]
    limits = {"frame": 65536, "requests_per_connection": 1, "queue_depth": 1, "per_caller": 1}
    welcome = {"type": "welcome", "version": 2, "server": "x/1", "session": "s", "features": [], "limits": limits}
    impostor("infer", {**welcome, "backends": backends})
    assert vestal("completion", "names", "models") == (0, "good\n", "")


def test_without_anybody_to_ask_there_are_no_names_and_no_complaint(vestal: Vestal) -> None:
    kinds = ("models", "embedders", "running", "declared", "requests", "stored", "keys")
    assert vestal("completion", "names", *kinds) == (0, "", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_and_every_option_is_in_the_script(shell: str) -> None:
    text = script(shell)
    for name in COMMANDS:
        assert name in text
    assert "json-schema" in text


def test_another_shell_is_refused_with_those_there_are(vestal: Vestal) -> None:
    with pytest.raises(UsageError, match="bash, zsh, fish"):
        script("tcsh")
    assert vestal("completion", "zhs").err == (
        "vestal: there is no completion for 'zhs': did you mean zsh? (bash, zsh, fish)\n"
    )
    assert vestal("completion").code == 2
    assert vestal("completion", "bash", "zsh").code == 2
    assert vestal("completion", "names", "model").err.startswith(
        "vestal: there are no names of the kind 'model': did you mean models? (models, "
    )

"""`vestal config explain` where a daemon runs: the file that it read is explained."""

from __future__ import annotations

from pathlib import Path

from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import Vestal


def of_the_user(vestal: Vestal, text: str) -> Path:
    """The file that `vestald` would find."""
    file = vestal.home / ".config" / "vestal" / "vestald.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def test_the_file_that_the_daemon_read_is_explained_and_named(vestal: Vestal, begin: Begin) -> None:
    of_the_user(vestal, "[admission]\nqueue_depth = 3\n")
    file = begin(admission={"queue_depth": 7}).status().config
    done = vestal("config", "explain", "admission.queue_depth")
    assert done.code == 0
    assert f"{file}:2" in done.out
    assert done.err == f"vestal: vestald runs with {file}; --config FILE explains another\n"


def test_another_that_is_named_is_explained(vestal: Vestal, begin: Begin) -> None:
    begin(admission={"queue_depth": 7})
    other = of_the_user(vestal, "[admission]\nqueue_depth = 3\n")
    for words in (["--config", str(other)], [f"--config={other}"]):
        done = vestal("config", "explain", "admission.queue_depth", *words)
        assert (done.code, done.err) == (0, "")
        assert f"{other}:2" in done.out


def test_without_a_daemon_it_is_as_vestald_finds_it(vestal: Vestal, begin: Begin) -> None:
    begin().kill()
    other = of_the_user(vestal, "[admission]\nqueue_depth = 3\n")
    done = vestal("config", "explain", "admission.queue_depth")
    assert (done.code, done.err) == (0, "")
    assert f"{other}:2" in done.out

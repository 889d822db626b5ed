"""What `vestal reload` says of the daemon's answer, and `vestal config` where there is no daemon to ask."""

from __future__ import annotations

from argparse import Namespace

import pytest

from vestal.cli import config
from vestal.cli.reload import lines_of
from vestal.messages import OptionChange, Reloaded


def change(key: str) -> OptionChange:
    return OptionChange(key=key, before="1", after="2")


@pytest.mark.parametrize(
    ("file", "applied", "kept", "lines"),
    [
        ("/v.toml", [], [], ["read /v.toml", "nothing is different"]),
        (None, [], [], ["there is no file; flags and variables were read", "nothing is different"]),
        ("/v.toml", [change("a.b")], [], ["read /v.toml", "now: a.b 1 -> 2"]),
        (
            "/v.toml",
            [change("a.b")],
            [change("c.d"), change("e.f")],
            ["read /v.toml", "now: a.b 1 -> 2", "restart to apply: c.d 1 -> 2", "restart to apply: e.f 1 -> 2"],
        ),
        (
            "/v.toml",
            [],
            [change("backend.chat.slots")],
            [
                "read /v.toml",
                "restart to apply: backend.chat.slots 1 -> 2",
                "of backends: `vestal backend restart NAME`, or add, or remove, applies it while vestald runs",
            ],
        ),
    ],
)
def test_each_change_has_a_line(
    file: str | None, applied: list[OptionChange], kept: list[OptionChange], lines: list[str]
) -> None:
    assert list(lines_of(Reloaded(id=1, file=file, applied=applied, restart_to_apply=kept))) == lines


def test_without_the_daemon_the_configuration_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "find_spec", lambda _name: None)
    assert config.execute(Namespace(words=["check"], runtime_dir=None)) == 69
    assert capsys.readouterr().err == "vestal: the daemon is not installed here: pip install 'vestal[daemon]'\n"

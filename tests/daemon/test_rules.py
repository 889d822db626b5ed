"""What is asked of the system before a configuration counts, and how it is told that there is no answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestald.config import BadSettings, Config, Sources
from vestald.rules import Rules, unanswered


def config(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "v.toml"
    file.write_text(text)
    return Sources(file, environ={}).read()


def told(config: Config) -> list[str]:
    return [str(fault).rpartition("/v.toml")[2] for fault in unanswered(config)]


def test_who_is_named_becomes_a_number(tmp_path: Path) -> None:
    rules = Rules.of(
        config(
            tmp_path,
            '[admission.weights]\n"root" = 2\n[admission.quotas]\n"7" = 5\n[sockets.infer]\ndeny_users = ["root"]\n',
        )
    )
    assert (rules.weights(0), rules.weights(7), rules.quotas(7), rules.quotas(0)) == (2.0, 1.0, 5, 0)
    assert rules.access["infer"].deny_users == {0}
    assert rules.access["embed"].deny_users == set()


def test_the_class_interactive_is_anybodys_or_those_who_are_named(tmp_path: Path) -> None:
    anybody = Rules.of(config(tmp_path, ""))
    some = Rules.of(config(tmp_path, '[admission]\ninteractive = [7, "8", "root"]\n'))
    nobody = Rules.of(config(tmp_path, "[admission]\ninteractive = []\n"))
    assert [[rules.interactive(uid) for uid in (0, 7, 8, 9)] for rules in (anybody, some, nobody)] == [
        [True] * 4,
        [True, True, True, False],
        [False] * 4,
    ]


def test_everything_that_nobody_knows_is_told_with_its_line(tmp_path: Path) -> None:
    wrong = config(
        tmp_path,
        """\
[daemon]
runtime_dir = "~no-such-user/v"
[sockets]
group = "no-such-group"
infer = { allow_users = ["no-such-user"] }
[sockets.embed]
deny_groups = ["no-such-group"]
[admission]
quotas = { "no-such-user" = 1 }
interactive = ["no-such-user"]
[admission.weights]
"@no-such-group" = 2
""",
    )
    assert [line.partition(": ")[0] for line in told(wrong)] == [":2", ":4", ":5", ":7", ":11", ":9", ":10"]
    with pytest.raises(BadSettings, match=r"v\.toml:2: daemon\.runtime_dir: .*6 more faults"):
        Rules.of(wrong)


def test_a_sound_configuration_leaves_no_question_open(tmp_path: Path) -> None:
    assert told(config(tmp_path, f'[admission.weights]\n"{os.getuid()}" = 2\n')) == []

"""The daemon's half of the doctor: whose directory it is, and what is told of a configuration that cannot be read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vestal.findings import Finding
from vestald.config import Config, DaemonConfig, Sources
from vestald.doctor.command import findings
from vestald.doctor.directory import examine_directory

NOBODY = 65534


def told(directory: Path) -> Finding:
    """What is said of the runtime directory first."""
    return next(iter(examine_directory(Config(daemon=DaemonConfig(runtime_dir=str(directory))))))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_of_anothers_is_well_only_where_somebody_listens(short_dir: Path) -> None:
    os.chown(short_dir, NOBODY, NOBODY)
    place = short_dir / "infer.sock"
    assert told(short_dir).level == "fail"
    place.touch()
    assert told(short_dir).level == "fail", "no socket"
    place.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        assert told(short_dir).level == "fail", "nobody listens"
        listener.listen()
        found = told(short_dir)
        assert (found.level, "whose daemon lets this user in" in found.says) == ("ok", True)
    assert told(short_dir).level == "fail", "left over"


def test_of_a_configuration_that_cannot_be_read_no_backends_are_looked_at(tmp_path: Path) -> None:
    found = list(findings(Sources(tmp_path / "none.toml", environ={}), thorough=False))
    (configuration,) = [one for one in found if one.about == "configuration"]
    assert (configuration.level, "cannot read" in configuration.says) == ("fail", True)
    assert any(one.about == "runtime directory" for one in found)
    assert not [one.about for one in found if ":" in one.about]

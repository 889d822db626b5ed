"""The units and their installation, with the real systemctl and systemd-analyze: on files alone, no manager runs."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from vestald.service import unit_text

needs_systemd = pytest.mark.skipif(
    not (shutil.which("systemctl") and shutil.which("systemd-analyze")), reason="there is no systemd to ask"
)
CONFIG = '[sockets]\ngroup = "vestal"\n[[backend]]\nname = "echo"\nadapter = "echo"\n'


def vestald(home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`vestald install-service …` of a user whose files are in `home`, where no manager runs."""
    (home / "run").mkdir(exist_ok=True, mode=0o700)
    places = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "XDG_RUNTIME_DIR": str(home / "run")}
    command = [sys.executable, "-m", "vestald", "install-service", *words]
    env = {**os.environ, **places, "SYSTEMD_OFFLINE": "1", **environ}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def files_of(directory: Path) -> set[str]:
    """Files and links below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_symlink() or path.is_file()}


def directives(text: str) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#") and (match := re.match(r"(\w+)=(.*)", line)):
            found.setdefault(match[1], []).append(match[2])
    return found


USER_UNIT = "config/systemd/user/vestald.service"
USER_LINK = "config/systemd/user/default.target.wants/vestald.service"


@needs_systemd
def test_a_users_unit_is_written_enabled_and_removed(tmp_path: Path) -> None:
    done = vestald(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "systemctl --user start vestald" in done.stdout
    assert files_of(tmp_path) == {USER_UNIT, USER_LINK}
    assert f'ExecStart="{sys.executable}" "-P" "-m" "vestald"\n' in (tmp_path / USER_UNIT).read_text()
    assert vestald(tmp_path).returncode == 0  # again: its own file is renewed
    undone = vestald(tmp_path, "--undo")
    assert (undone.returncode, undone.stderr) == (0, "")
    assert files_of(tmp_path) == set()
    assert "nothing to undo" in vestald(tmp_path, "--undo").stdout


@needs_systemd
def test_the_machines_unit_goes_into_an_image_with_its_configuration(tmp_path: Path) -> None:
    config, root = tmp_path / "vestald.toml", tmp_path / "image"
    config.write_text(CONFIG)
    done = vestald(tmp_path, "--root", str(root), "--config", str(config))
    assert done.returncode == 0, done.stderr
    unit = "etc/systemd/system/vestald.service"
    assert files_of(root) == {unit, "etc/systemd/system/multi-user.target.wants/vestald.service"}
    assert f'"--config" "{config}"\n' in (root / unit).read_text()
    assert vestald(tmp_path, "--root", str(root), "--undo").returncode == 0
    assert files_of(root) == set()


@needs_systemd
def test_what_vestald_did_not_write_is_left_alone(tmp_path: Path) -> None:
    unit = tmp_path / USER_UNIT
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    for words in ((), ("--undo",)):
        done = vestald(tmp_path, *words)
        assert done.returncode == 69
        assert "not written by vestald (move it away first)" in done.stderr
    unit.unlink()
    unit.symlink_to("/dev/null")  # a unit that is masked
    assert vestald(tmp_path).returncode == 69
    assert files_of(tmp_path) == {USER_UNIT}
    assert unit.readlink() == Path("/dev/null")


@needs_systemd
def test_what_systemd_refuses_is_not_left_behind(tmp_path: Path) -> None:
    done = vestald(tmp_path, SYSTEMD_OFFLINE="0")  # so that a manager is spoken to, and there is none
    assert done.returncode == 69
    assert done.stderr.startswith("vestald: systemctl --user ")
    assert len(done.stderr.splitlines()) == 1
    assert files_of(tmp_path) == set()


def test_without_systemd_that_is_said_and_nothing_left_behind(tmp_path: Path) -> None:
    done = vestald(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 69
    assert "this machine is not run by systemd: start `vestald` yourself" in done.stderr
    assert files_of(tmp_path) == set()


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--system",), "needs --config FILE"), (("--config", "missing.toml"), "cannot read missing.toml")],
)
def test_a_service_that_could_not_start_is_not_installed(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    done = vestald(tmp_path, *words)
    assert done.returncode == 78
    assert says in done.stderr
    assert files_of(tmp_path) == set()


def _is_a_user(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())


@pytest.mark.skipif(_is_a_user("vestal"), reason="this machine has the user that is said to be missing")
def test_the_machines_service_needs_its_user_and_says_how_to_make_it(tmp_path: Path) -> None:
    (tmp_path / "vestald.toml").write_text(CONFIG)
    done = vestald(tmp_path, "--system", "--config", str(tmp_path / "vestald.toml"))
    assert done.returncode == 69
    assert "useradd --system" in done.stderr


@needs_systemd
@pytest.mark.parametrize("system", [True, False])
def test_any_path_survives_the_unit(tmp_path: Path, system: bool) -> None:
    program = tmp_path / "a b%i$HOME" / "vestald"  # quotes and backslashes systemd takes in arguments only
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    unit = tmp_path / "vestald.service"
    unit.write_text(unit_text(system, [str(program)]))
    verify = ["systemd-analyze", *([] if system else ["--user"]), "verify", str(unit)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    said = subprocess.run(verify, capture_output=True, text=True, env=environ, check=False)
    assert "not executable" in said.stderr  # it was found, as the file it is
    program.chmod(0o755)
    said = subprocess.run(verify, capture_output=True, text=True, env=environ, check=False)
    assert (said.returncode, said.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize(("system", "bound"), [(True, 2.0), (False, 7.0)])
def test_systemd_finds_little_exposed(tmp_path: Path, system: bool, bound: float) -> None:
    unit = tmp_path / "vestald.service"
    unit.write_text(unit_text(system, ["/bin/true"]))
    ask = ["systemd-analyze", "security", "--no-pager", "--offline=true", str(unit)]
    said = subprocess.run(ask, capture_output=True, text=True, check=False)
    if "unrecognized option" in said.stderr:
        pytest.skip("this systemd-analyze cannot judge a file (it can since 250)")
    match = re.search(r"exposure level for vestald.service: ([0-9.]+)", said.stdout)
    assert match, said.stdout + said.stderr
    assert float(match[1]) <= bound, said.stdout


@pytest.mark.parametrize("system", [True, False])
def test_a_unit_does_not_undo_what_the_daemon_promises(system: bool) -> None:
    unit = directives(unit_text(system, ["/bin/true"]))
    assert unit["Type"] == ["notify"]
    assert unit["KillMode"] == ["mixed"]  # workers live until the drain is over
    assert unit["OOMPolicy"] == ["continue"]  # one worker's end is not everybody's
    assert unit["RestartPreventExitStatus"] == ["75 78"]
    assert "PrivateUsers" not in unit  # else all peers are nobody
    if not system:  # for each of these a user's manager makes a user namespace
        assert not {name for name in unit if name.startswith(("Protect", "Private"))}

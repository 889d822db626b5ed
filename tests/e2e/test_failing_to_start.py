"""When there is nothing to run: one line on stderr that names the next step, and a code that tells whose fault."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, children_of, echo, toml
from vestal import messages as m

BAD_CONFIGURATION, ALREADY_RUNNING, BACKEND_FAILED = 78, 75, 69
Fail = Callable[..., str]


@pytest.fixture
def fail(short_dir: Path) -> Iterator[Fail]:
    """`fail(code, config)`: the one line that a daemon says before it exits with `code`."""
    daemons: list[Daemon] = []

    def run(code: int, config: str, *arguments: str, **options: object) -> str:
        daemon = Daemon(short_dir, config, *arguments, **options)  # type: ignore[arg-type]  # passed on as they came
        daemons.append(daemon)
        assert daemon.wait() == code, daemon.stderr
        assert "Traceback" not in daemon.stderr, daemon.stderr
        (line,) = daemon.last_words
        assert daemon.stderr.splitlines()[-1] == line
        if daemon.runtime_dir.is_dir() and not daemon.runtime_dir.is_symlink():
            assert not list(daemon.runtime_dir.glob("*.sock"))
        return line

    yield run
    for daemon in daemons:
        daemon.kill()


def test_a_configuration_file_that_is_not_there(fail: Fail) -> None:
    line = fail(BAD_CONFIGURATION, "", "--config", "/nowhere/vestald.toml")
    assert "/nowhere/vestald.toml" in line
    assert "--config" in line


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[daemon\n", "not TOML"),
        ("[deamon]\n", "did you mean daemon?"),
        ("[daemon]\nruntime_dirr = 'x'\n", "daemon.runtime_dirr; did you mean runtime_dir?"),
        ("[daemon]\ndrain_deadline = '10'\n", "daemon.drain_deadline"),
        ("[sockets]\nmode = 432\n", "sockets.mode"),
        ("[admission]\nqueue_depth = 0\n", "admission.queue_depth"),
        ("[sockets]\ngroup = 'no-such-group'\n[[backend]]\nname='e'\nadapter='echo'\n", "groupadd"),
        ("[[backend]]\nname = 'a'\n", "backend[0].adapter"),
        ("[[backend]]\nname='a'\nadapter='ecko'\n", "did you mean 'echo'?"),
        ("[[backend]]\nname='a'\nadapter='echo'\nslotz=3\n", "backend a.slotz; did you mean slots?"),
        ("[[backend]]\nname='a'\nadapter='echo'\nslots=0\n", "backend a.slots"),
        ("[[backend]]\nname='a'\nadapter='echo'\nfault='explode'\n", "fault"),
        ("[[backend]]\nname='a'\nadapter='echo'\n" * 2, "two backends are named 'a'"),
        ("[backend]\nname='a'\nadapter='echo'\n", "backend"),
        ('"dae\\nmon" = 1\n', "unknown key"),
        ("", "vestal pull"),
    ],
)
def test_a_bad_configuration(fail: Fail, config: str, says: str) -> None:
    assert says in fail(BAD_CONFIGURATION, config)


def test_a_model_file_that_is_not_there(fail: Fail) -> None:
    line = fail(BACKEND_FAILED, toml({"name": "chat", "adapter": "llamacpp", "model": "/nowhere/model.gguf"}))
    assert "/nowhere/model.gguf" in line


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_backend_that_does_not_start(fail: Fail, isolation: str) -> None:
    line = fail(BACKEND_FAILED, toml(echo("good"), echo("bad", fault="start", isolation=isolation)))
    assert "'bad' did not start" in line
    assert "leave `fault` out" in line


def test_a_backend_that_is_not_ready_in_time(fail: Fail) -> None:
    line = fail(BACKEND_FAILED, toml(echo("slow", ready_delay="60s"), echo("good"), daemon={"ready_timeout": "150ms"}))
    assert "slow at" in line
    assert "daemon.ready_timeout" in line


def test_a_second_instance(fail: Fail, start: Start) -> None:
    first = start()
    second = Daemon(first.home, toml(echo()))
    try:
        assert second.wait() == ALREADY_RUNNING
        (line,) = second.last_words
        assert str(first.runtime_dir) in line
        assert "--runtime-dir" in line
    finally:
        second.kill()
    with first.infer() as peer:  # it did not notice
        assert peer.generate(1)[1].stop_reason == "end"
    assert {path.name for path in first.runtime_dir.iterdir()} == {"admin.sock", "infer.sock"}


def test_a_second_instance_while_the_first_loads(start: Start) -> None:
    first = start(echo(ready_delay="30s"), wait=False)
    with first.admin():
        second = start(wait=False)
        assert second.wait() == ALREADY_RUNNING
        assert first.status().state == "loading"


def test_a_runtime_directory_of_somebody_else(fail: Fail, short_dir: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory to another uid")
    (short_dir / "r").mkdir()
    os.chown(short_dir / "r", 12345, -1)
    line = fail(BAD_CONFIGURATION, toml(echo()))
    assert "belongs to uid 12345" in line
    assert "--runtime-dir" in line


def test_a_runtime_directory_that_is_a_link(fail: Fail, short_dir: Path) -> None:
    (short_dir / "real").mkdir(mode=0o700)
    (short_dir / "r").symlink_to("real")
    assert "no symlink" in fail(BAD_CONFIGURATION, toml(echo()))
    assert list((short_dir / "real").iterdir()) == []


def test_a_runtime_directory_that_is_a_file(fail: Fail, short_dir: Path) -> None:
    (short_dir / "r").write_text("")
    assert "--runtime-dir" in fail(BAD_CONFIGURATION, toml(echo()))


def test_a_path_too_long_for_a_socket(fail: Fail, short_dir: Path) -> None:
    deep = short_dir / ("d" * 100)
    line = fail(BAD_CONFIGURATION, toml(echo()), "--runtime-dir", str(deep))
    assert f"has {len(str(deep / 'infer.sock'))} bytes, this system allows 107" in line
    assert not deep.exists()


@pytest.mark.parametrize("name", ["admin.sock", "infer.sock", "embed.sock"])
def test_something_else_under_a_sockets_name(fail: Fail, short_dir: Path, name: str) -> None:
    (short_dir / "r").mkdir()
    (short_dir / "r" / name).mkdir()
    line = _without_glob(fail, toml(echo()), short_dir / "r" / name)
    assert str(short_dir / "r" / name) in line
    assert "move it away" in line


def _without_glob(fail: Fail, config: str, obstacle: Path) -> str:
    daemon = Daemon(obstacle.parents[1], config)
    try:
        assert daemon.wait() == BAD_CONFIGURATION, daemon.stderr
        (line,) = daemon.last_words
        assert [path.name for path in obstacle.parent.iterdir()] == [obstacle.name]
        return line
    finally:
        daemon.kill()


def test_something_else_under_the_temporary_name(fail: Fail, short_dir: Path) -> None:
    (short_dir / "r").mkdir()
    (short_dir / "r" / "admin.tmp").mkdir()
    assert str(short_dir / "r" / "admin.tmp") in fail(BAD_CONFIGURATION, toml(echo()))


def test_a_failed_daemon_takes_its_workers_with_it(start: Start) -> None:
    daemon = start(echo("good", isolation="process"), echo("bad", fault="start", ready_delay="6s"), wait=False)
    with daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        if admin.take(m.Snapshot).status.backends[0].state != "ready":
            admin.event("backend_state", backend="good", state="ready")
        (worker,) = children_of(daemon.process.pid)
    assert daemon.wait() == BACKEND_FAILED
    assert "bad" in daemon.last_words[0]
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_the_version_and_the_help_need_no_configuration(short_dir: Path) -> None:
    for flag, says in (("--version", "vestald 0."), ("--help", "exit codes:")):
        daemon = Daemon(short_dir, "", flag)
        assert daemon.wait() == 0
        assert says in daemon.stderr


def test_a_signal_while_there_is_nothing_to_stop_ends_the_process(start: Start) -> None:
    daemon = start(wait=False)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() in (0, -signal.SIGTERM)

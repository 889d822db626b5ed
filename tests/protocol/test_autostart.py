"""A daemon on demand: started once, by whoever comes first, detached; and quoted when it cannot be started."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import Thread

import pytest

import vestal
from tests.e2e.harness import Daemon, Table, echo, toml
from tests.e2e.peers import PATIENCE
from vestal import autostart
from vestal.autostart import LOG, StartLog

NUMBERS = " ".join(map(str, range(1, 400)))
APP = (
    "import sys, vestal; c = vestal.Client(autostart=True); print(c.generate('hello').text, c.started_log is not None)"
)
Configure = Callable[..., Path]


@pytest.fixture
def configure(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """`configure(*backends, …)` is what a daemon that is started finds; the runtime directory. None outlives the
    test."""
    place = short_dir / "r"
    for name in [name for name in os.environ if name.startswith(("VESTAL", "XDG"))]:
        monkeypatch.delenv(name)
    places = {"HOME": short_dir, "VESTAL_HOME": short_dir / "store", "VESTAL_RUNTIME_DIR": place}
    for name, path in {**places, "VESTAL_CONFIG": short_dir / "v.toml"}.items():
        monkeypatch.setenv(name, str(path))

    def configure(*backends: Table, **sections: Table) -> Path:
        (short_dir / "v.toml").write_text(toml(*(backends or (echo(),)), audit={"enabled": False}, **sections))
        return place

    yield configure
    for pid in daemons_of(place):
        end(pid)


def daemons_of(place: Path) -> list[int]:
    """Processes of daemons that were started in `place`."""
    commands = {path.parent.name: path for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = []
    for pid, path in commands.items():
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"vestald" in words and os.fsencode(place) in words:
            found.append(int(pid))
    return found


def end(pid: int) -> None:
    """Kill a process that is nobody's child here, and return when it is gone: it may be leaving by itself."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)


def events_of(place: Path, kind: str) -> list[dict[str, object]]:
    lines = (place / LOG).read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in told if line.get("event") == kind]


def until(there: Callable[[], object]) -> None:
    """Return when what another process does has been done."""
    for _ in range(int(PATIENCE / 0.01)):
        if there():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


# --- one that starts ------------------------------------------------------------------------------------------------


def test_a_request_starts_the_daemon_that_is_not_there(configure: Configure) -> None:
    place = configure()
    with vestal.Client(autostart=True) as client:
        assert client.generate("hello there").text == "hello there"
        assert client.started_log == place / LOG
        assert stat.S_IMODE((place / LOG).stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    with vestal.Client(autostart=True) as second:
        assert second.generate("again").text == "again"
        assert second.started_log is None
    assert len(daemons_of(place)) == 1


def test_the_asyncio_client_starts_one_too_and_tells_on_the_way(configure: Configure) -> None:
    place = configure(echo(ready_delay="100ms"))
    told: list[str] = []

    async def ask() -> str:
        async with vestal.AsyncClient(autostart=True) as client:
            await client.wait_ready(PATIENCE, lambda progress: told.append(str(progress)))
            assert client.started_log == place / LOG
            return (await client.generate("hello")).text

    assert asyncio.run(ask()) == "hello"
    assert any(line.startswith("starting vestald (pid ") and str(place / LOG) in line for line in told)


def test_without_autostart_nothing_is_started(configure: Configure) -> None:
    place = configure()
    with vestal.Client() as client, pytest.raises(vestal.DaemonNotRunning):
        client.generate("hello")
    assert not place.exists()


def test_the_daemon_has_a_session_of_its_own_and_none_of_the_apps_descriptors(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = configure()
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/app/notify")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        with vestal.Client(autostart=True) as client:
            client.generate("hello")
    finally:
        os.close(write)
    assert os.read(read, 1) == b""  # nobody else holds the other end
    os.close(read)
    (pid,) = daemons_of(place)
    assert os.getsid(pid) == pid
    if os.getuid() == 0:  # /proc/PID/fd of a process that hides its memory is for root
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        assert [str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in (0, 1, 2)] == [
            "/dev/null",
            *[str(place / LOG)] * 2,
        ]
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_it_outlives_the_app_and_the_apps_terminal_group(configure: Configure) -> None:
    place = configure()
    with subprocess.Popen([sys.executable, "-c", f"{APP}; sys.stdin.read()"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True, start_new_session=True) as app:  # fmt: skip
        assert app.stdout is not None
        assert app.stdout is not None and app.stdout.readline() == "hello True\n"
        os.killpg(app.pid, signal.SIGKILL)
    with vestal.Client() as client:
        assert client.generate("still there").text == "still there"
    assert len(daemons_of(place)) == 1


# --- many at once ---------------------------------------------------------------------------------------------------


def test_ten_at_once_start_exactly_one(configure: Configure) -> None:
    place = configure(echo(ready_delay="300ms", slots=8))
    apps = [subprocess.Popen([sys.executable, "-c", APP], stdout=subprocess.PIPE, text=True) for _ in range(10)]
    answers = [app.communicate(timeout=PATIENCE)[0] for app in apps]
    assert sorted(answers) == ["hello False\n"] * 9 + ["hello True\n"]
    assert len(daemons_of(place)) == 1
    assert len(events_of(place, "limits")) == 1  # no second one has even tried


def test_threads_of_one_program_start_one(configure: Configure) -> None:
    place = configure()

    def ask(number: int) -> str:
        with vestal.Client(autostart=True) as client:
            return client.generate(f"number {number}").text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [f"number {number}" for number in range(8)]
    assert len(events_of(place, "limits")) == 1


def test_a_daemon_that_somebody_starts_by_hand_is_waited_for(configure: Configure, short_dir: Path) -> None:
    place = configure()
    by_hand = Daemon(short_dir, toml(echo(ready_delay="500ms")))
    try:
        by_hand.admin().close()
        with vestal.Client(autostart=True) as client:
            assert client.generate("hello").text == "hello"
        assert by_hand.status().pid == by_hand.process.pid
        assert not daemons_of(place)
    finally:
        by_hand.kill()


def test_a_directory_that_somebody_owns_is_tried_again_until_it_is_free(configure: Configure) -> None:
    place = configure()
    place.mkdir(mode=0o700)
    owner = os.open(place, os.O_RDONLY)
    fcntl.flock(owner, fcntl.LOCK_EX)  # as a vestald does before anybody can see it
    with ThreadPoolExecutor(1) as pool, vestal.Client(autostart=True) as client:
        answer = pool.submit(client.generate, "hello")
        try:
            until(lambda: (place / LOG).exists() and "another vestald owns" in (place / LOG).read_text())
        finally:
            os.close(owner)
        assert answer.result(PATIENCE).text == "hello"


def test_one_that_is_just_leaving_is_followed_by_another(configure: Configure, short_dir: Path) -> None:
    place = configure()
    leaving = Daemon(short_dir, toml(echo(token_delay="10ms"))).ready()
    try:
        with vestal.Client() as busy:
            pieces = busy.stream(NUMBERS)
            next(pieces)
            with vestal.AdminClient() as admin:
                admin.stop(1.5)
            with vestal.Client(autostart=True) as client:
                assert client.generate("hello").text == "hello"
                assert client.started_log == place / LOG
        assert leaving.wait() == 0
    finally:
        leaving.kill()


# --- one that does not start ----------------------------------------------------------------------------------------


def test_a_daemon_that_cannot_start_is_quoted(configure: Configure) -> None:
    place = configure(echo(fault="start"))
    with vestal.Client(autostart=True) as client, pytest.raises(vestal.DaemonNotStarted) as caught:
        client.generate("hello")
    assert "vestald ended with exit code 69 before it was ready: " in caught.value.message
    assert "backend 'echo' did not start" in caught.value.message
    assert caught.value.hint == f"its log is {place / LOG}"


def test_a_bad_configuration_is_quoted_to_everybody_who_waits(configure: Configure, short_dir: Path) -> None:
    configure()
    (short_dir / "v.toml").write_text("[daemon]\ndrian_deadline = 1\n")
    program = (
        "import vestal\ntry: vestal.Client(autostart=True).connect()\n"
        "except vestal.DaemonNotStarted as error: print(error.message)"
    )
    apps = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(5)]
    for app in apps:
        said, _ = app.communicate(timeout=PATIENCE)
        assert "before it was ready: " in said
        assert "drian_deadline" in said


def test_a_daemon_that_is_killed_while_it_loads_is_told(configure: Configure) -> None:
    place = configure(echo(ready_delay="60s"))

    def kill() -> None:
        until(lambda: (place / "admin.sock").exists() and daemons_of(place))
        os.kill(daemons_of(place)[0], signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    with vestal.Client(autostart=True) as client, pytest.raises(vestal.DaemonNotStarted, match="was killed by SIGKILL"):
        client.generate("hello")
    killer.join()


def test_where_no_daemon_is_installed_the_extra_is_named(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure()

    def nothing(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(autostart, "find_spec", nothing)
    monkeypatch.setenv("PATH", "/nonexistent")
    with vestal.Client(autostart=True) as client, pytest.raises(vestal.DaemonNotStarted) as caught:
        client.generate("hello")
    assert caught.value.hint == "pip install 'vestal[daemon]'"


def test_nothing_is_written_through_a_link(configure: Configure, short_dir: Path) -> None:
    place = configure()
    place.mkdir(mode=0o700)
    treasure = short_dir / "treasure"
    treasure.write_text("gold")
    (place / LOG).symlink_to(treasure)
    with vestal.Client(autostart=True) as client, pytest.raises(vestal.DaemonNotStarted):
        client.generate("hello")
    (place / LOG).unlink()
    (place / LOG).hardlink_to(treasure)
    with vestal.Client(autostart=True) as client, pytest.raises(vestal.DaemonNotStarted, match="no plain file"):
        client.generate("hello")
    assert treasure.read_text() == "gold"


def test_a_directory_that_is_none_is_refused(configure: Configure, short_dir: Path) -> None:
    place = configure()
    place.write_text("")
    with vestal.Client(autostart=True) as client, pytest.raises(vestal.DaemonNotStarted, match="cannot start vestald"):
        client.generate("hello")
    with pytest.raises(vestal.LocalProtocolError, match="autostart"):
        vestal.Client(autostart=True, socket=short_dir / "mine.sock")


# --- the log --------------------------------------------------------------------------------------------------------


def test_the_log_of_the_dead_is_kept_until_it_is_long(short_dir: Path) -> None:
    log = StartLog(short_dir)
    try:
        log.path.write_text("x" * 1000)
        assert log.lock()
        assert log.size == 1000
        log.path.write_text("x" * (2 << 20))
        assert log.lock()
        assert log.size == 0
    finally:
        log.close()


def test_last_words_are_those_for_people(short_dir: Path) -> None:
    log = StartLog(short_dir)
    try:
        log.path.write_text('older words\n{"event":"limits"}\nvestald: bad configuration: x\n')
        assert log.last_words(12) == "bad configuration: x"
        log.path.write_text("Traceback\nImportError: no uvloop\n")
        assert log.last_words(0) == "Traceback; ImportError: no uvloop"
        log.path.write_text('{"event":"limits"}\n')
        assert log.last_words(0) == ""
    finally:
        log.close()


# --- leaving --------------------------------------------------------------------------------------------------------


def test_a_daemon_leaves_once_nobody_is_connected_and_comes_again_when_it_is_needed(configure: Configure) -> None:
    place = configure(daemon={"idle_exit": "200ms"})
    for _ in range(2):
        with vestal.Client(autostart=True) as client:
            assert client.generate("hello").text == "hello"
        until(lambda: not daemons_of(place))
    last = events_of(place, "daemon_state")[-1]
    assert (last["before"], last["state"]) == ("stopping", "stopped")
    assert len(events_of(place, "limits")) == 2


@pytest.mark.timeout(240)
def test_who_comes_as_it_leaves_is_served(configure: Configure) -> None:
    """Each comes back after about as long as the daemon waits: some find it, some find none, nobody is refused."""
    place = configure(daemon={"idle_exit": "30ms"})
    for pause in range(20):
        with vestal.Client(autostart=True) as client:
            assert client.generate("hello").text == "hello"
        time.sleep(0.025 + pause / 2000)  # no synchronisation: the moment is what varies
    assert events_of(place, "stop_requested")

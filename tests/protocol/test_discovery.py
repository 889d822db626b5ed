"""Each way in which the daemon cannot be reached says which it is, and what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.discovery import explain, no_welcome, not_serving, progress_text, worth_asking
from vestal.endpoint import Endpoint, refuse_foreign
from vestal.errors import ConnectionFailed, DaemonNotReady, DaemonNotRunning, NotAuthorized, PermissionRefused
from vestal.link import connect_socket
from vestal.testing import status_report
from vestal.values import LifecycleState

NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user to be refused as one")


def endpoint(directory: Path, kind: SocketKind = "infer") -> Endpoint:
    return Endpoint(kind, directory / f"{kind}.sock", m.Hello(versions=[1]), 5.0)


def fault_of(path: Path) -> OSError:
    """What connecting to `path` raises."""
    with pytest.raises(OSError) as caught:
        connect_socket(str(path), 1.0)
    return caught.value


def test_no_socket_at_all_is_no_daemon(short_dir: Path) -> None:
    here = endpoint(short_dir)
    fault = fault_of(here.path)
    assert worth_asking(here, fault)
    error = explain(here, fault, fault_of(short_dir / "admin.sock"))
    assert type(error) is DaemonNotRunning
    says = f"no vestald at {short_dir}: neither infer.sock nor admin.sock exists"
    assert str(error) == f"{says} (start it: vestald --runtime-dir {short_dir})"


def test_where_the_daemon_would_be_anyway_a_start_needs_no_directory(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESTAL_RUNTIME_DIR", str(short_dir))
    here = endpoint(short_dir)
    assert explain(here, fault_of(here.path), fault_of(short_dir / "admin.sock")).hint == "start it: vestald"


def test_the_admin_socket_has_nobody_else_to_ask(short_dir: Path) -> None:
    here = endpoint(short_dir, "admin")
    fault = fault_of(here.path)
    assert not worth_asking(here, fault)
    assert str(explain(here, fault, None)).startswith(f"no vestald at {short_dir}: admin.sock does not exist (")


def test_a_socket_left_over_is_no_daemon(short_dir: Path) -> None:
    here = endpoint(short_dir)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(here.path))
    fault = fault_of(here.path)
    assert not worth_asking(here, fault)
    error = explain(here, fault, None)
    assert type(error) is DaemonNotRunning
    assert "infer.sock is left over, nobody listens" in error.message
    assert "nobody listens at admin.sock" in explain(here, FileNotFoundError(), fault).message


def test_a_path_through_a_file_is_no_daemon(short_dir: Path) -> None:
    (short_dir / "file").touch()
    here = endpoint(short_dir / "file")
    assert type(explain(here, fault_of(here.path), None)) is DaemonNotRunning


def test_of_those_that_are_ready_no_detail_is_told(short_dir: Path) -> None:
    """What a backend says of itself while all is well is nothing that a client waits for."""
    loading, ready = (status_report(1, state).backends[0] for state in ("loading", "ready"))
    backends = [structs.replace(loading, detail="reading"), structs.replace(ready, detail="answered in 0.1 ms")]
    report = structs.replace(status_report(1, "loading"), backends=backends)
    assert progress_text(report) == "loading: scripted loading (reading), scripted ready"


def test_a_daemon_that_loads_says_how_far_it_is(short_dir: Path) -> None:
    error = explain(endpoint(short_dir), FileNotFoundError(), status_report(1, "loading", 43.4))
    assert type(error) is DaemonNotReady
    assert error.retryable
    assert f"vestald at {short_dir} is loading: scripted loading 43 %" in error.message
    assert error.hint == "wait for it: client.wait_ready()"


@pytest.mark.parametrize("state", ["starting", "draining", "stopping", "stopped"])
def test_every_other_state_is_told(state: LifecycleState, short_dir: Path) -> None:
    error = explain(endpoint(short_dir), FileNotFoundError(), status_report(1, state))
    assert f" is {state}: " in error.message
    assert error.retryable


def test_a_failed_daemon_is_not_worth_waiting_for(short_dir: Path) -> None:
    error = not_serving("infer", short_dir, status_report(1, "failed"))
    assert (error.retryable, error.hint) == (False, "read its log")


def test_embed_without_an_embedding_backend_never_comes(short_dir: Path) -> None:
    error = not_serving("embed", short_dir, status_report(1, "ready"))
    assert not error.retryable
    assert "no configured backend can embed" in error.message
    assert not_serving("embed", short_dir, status_report(1, "ready", embed=True)).retryable
    assert not_serving("infer", short_dir, status_report(1, "ready")).retryable


def test_an_admin_socket_for_its_owner_only_is_said_to_be_so(short_dir: Path) -> None:
    error = explain(endpoint(short_dir), FileNotFoundError(), PermissionError())
    assert type(error) is DaemonNotReady
    assert "not to this user" in error.message


def test_what_the_admin_socket_refuses_is_passed_on(short_dir: Path) -> None:
    error = explain(endpoint(short_dir), FileNotFoundError(), NotAuthorized("uid 5 may not status"))
    assert type(error) is DaemonNotReady
    assert "uid 5 may not status" in error.message


def test_a_full_backlog_is_said_to_be_one(short_dir: Path) -> None:
    here = endpoint(short_dir)
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as first:
        deaf.bind(str(here.path))
        deaf.listen(0)
        first.connect(str(here.path))
        with pytest.raises(BlockingIOError) as caught:
            connect_socket(str(here.path), 0.05)
    error = explain(here, caught.value, None)
    assert type(error) is ConnectionFailed
    assert "its backlog stayed full" in error.message


def test_no_time_to_connect_is_not_all_the_time_there_is(short_dir: Path) -> None:
    here = endpoint(short_dir)
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as first:
        deaf.bind(str(here.path))
        deaf.listen(0)
        first.connect(str(here.path))
        with pytest.raises(BlockingIOError):
            connect_socket(str(here.path), 0.0)


def test_no_welcome_names_the_seconds(short_dir: Path) -> None:
    assert "sent no welcome within 5 s" in no_welcome(endpoint(short_dir)).message


def test_any_other_failure_keeps_the_systems_words(short_dir: Path) -> None:
    here = endpoint(short_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(here.path))
        fault = fault_of(here.path)
    assert str(fault.strerror) in explain(here, fault, None).message


def test_a_path_that_is_too_long_is_told_with_the_numbers() -> None:
    fields = {"client": "", "versions": (1,), "require": (), "features": (), "connect_timeout": 1.0}
    with pytest.raises(ConnectionFailed, match=r"has 120 bytes, and a Unix socket's may have 107") as caught:
        Endpoint.of("infer", socket=None, runtime_dir="/" + "x" * 108, **fields)  # type: ignore[arg-type]  # fields of a dict
    assert not caught.value.retryable


def test_the_socket_is_looked_for_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def path(**given: str | Path | None) -> str:
        where = {"socket": None, "runtime_dir": None, **given}
        fields = {"client": "", "versions": (1,), "require": (), "features": (), "connect_timeout": 1.0}
        return str(Endpoint.of("embed", **where, **fields).path)  # type: ignore[arg-type]  # fields of a dict

    monkeypatch.setenv("VESTAL_RUNTIME_DIR", "/run/here")
    assert path() == "/run/here/embed.sock"
    assert path(runtime_dir="/run/there") == "/run/there/embed.sock"
    assert path(socket=Path("/run/x.sock"), runtime_dir="/run/there") == "/run/x.sock"


def as_nobody(act: Callable[[], str]) -> str:
    """What `act` returns in a child process of the user nobody."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(start, act().encode())
        finally:
            os._exit(0)
    os.close(start)
    with os.fdopen(end) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def refusal(here: Endpoint) -> str:
    try:
        connect_socket(str(here.path), 1.0)
    except OSError as fault:
        return repr(explain(here, fault, None)) + str(explain(here, fault, None).hint)
    return "connected"


@needs_root
def test_a_socket_of_another_group_names_mode_owner_and_group(short_dir: Path) -> None:
    here = endpoint(short_dir)
    short_dir.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(here.path))
        server.listen()
        here.path.chmod(0o660)
        told = as_nobody(lambda: refusal(here))
        assert told.startswith("PermissionRefused(")
        assert "has mode 0660, owner root, group root; you are nobody in " in told
        assert told.endswith("join the group root, or be root")
        here.path.chmod(0o600)
        assert as_nobody(lambda: refusal(here)).endswith("only root may open it")


@needs_root
def test_a_directory_that_is_closed_to_the_user_is_the_one_named(short_dir: Path) -> None:
    inner = short_dir / "a" / "b"
    inner.mkdir(parents=True)
    short_dir.chmod(0o755)
    (short_dir / "a").chmod(0o700)
    told = as_nobody(lambda: refusal(endpoint(inner)))
    assert f"{short_dir / 'a'} has mode 0700, owner root" in told


@needs_root
def test_a_fallback_directory_that_somebody_else_made_is_not_trusted() -> None:
    trap = Path(f"/tmp/vestal-{NOBODY}")
    trap.mkdir()
    try:
        os.chown(trap, 12345, 12345)
        assert "belongs to uid 12345, not to you" in as_nobody(lambda: _refused(trap))
        os.chown(trap, NOBODY, NOBODY)
        assert as_nobody(lambda: _refused(trap)) == "trusted"
    finally:
        trap.rmdir()
    refuse_foreign(Path("/tmp"))  # any other directory was chosen by somebody who may choose


def _refused(directory: Path) -> str:
    try:
        refuse_foreign(directory)
    except PermissionRefused as error:
        return str(error)
    return "trusted"

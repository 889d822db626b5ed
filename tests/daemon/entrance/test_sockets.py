"""The runtime directory and the sockets in it, on a real file system; as other users too, where root runs the tests."""

from __future__ import annotations

import fcntl
import gc
import grp
import os
import pickle
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from vestal.paths import MAX_SOCKET_PATH
from vestald.entrance.sockets import BoundSocket, RuntimeDir, bind, refuse_foreign
from vestald.failures import AlreadyRunning, BadConfiguration, Failure

NOBODY = 12345
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can become, or give files to, another user")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def bound(short_dir: Path) -> Iterator[Callable[..., BoundSocket]]:
    """`bind` in the test's directory; closed at the end."""
    made: list[BoundSocket] = []

    def make(name: str = "infer.sock", mode: int = 0o660, group: str | None = None) -> BoundSocket:
        made.append(bind(short_dir / name, mode, group))
        return made[-1]

    yield make
    for one in made:
        one.sock.close()


@contextmanager
def opened(path: Path, group: str | None = None) -> Iterator[RuntimeDir]:
    directory = RuntimeDir.open(path, group)
    try:
        yield directory
    finally:
        directory.close()


def as_user(uid: int, act: Callable[[], Any], groups: tuple[int, ...] = ()) -> Any:
    """What `act` returns, or the failure it raises, in a child process of another user."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            said: Any = act()
        except BaseException as exc:
            said = (type(exc).__name__, str(exc))
        os.write(theirs, pickle.dumps(said))
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours, "rb") as pipe:
        return pickle.loads(pipe.read())


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


# --- the runtime directory ------------------------------------------------------------------------------------


def test_a_directory_is_made_with_its_parents_and_is_the_owners_alone(short_dir: Path) -> None:
    with opened(short_dir / "a" / "b") as directory:
        assert directory.path == short_dir / "a" / "b"
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_a_directory_that_was_open_to_others_is_closed_to_them(short_dir: Path) -> None:
    (short_dir / "r").mkdir(mode=0o777)
    (short_dir / "r").chmod(0o1777)
    with opened(short_dir / "r"):
        assert stat.S_IMODE((short_dir / "r").stat().st_mode) == 0o700


def test_with_a_group_the_directory_can_be_passed_by_the_group(short_dir: Path) -> None:
    mine = grp.getgrgid(os.getgid()).gr_name
    with opened(short_dir / "r", mine):
        info = (short_dir / "r").stat()
        assert (stat.S_IMODE(info.st_mode), info.st_gid) == (0o750, os.getgid())


def test_a_group_that_does_not_exist_is_refused_and_the_lock_given_back(short_dir: Path) -> None:
    with pytest.raises(BadConfiguration, match="there is no group 'no-such-group'") as refused:
        RuntimeDir.open(short_dir / "r", "no-such-group")
    assert "groupadd" in str(refused.value)
    with opened(short_dir / "r"):
        pass


@AS_ROOT
def test_a_group_that_this_user_is_not_in_is_refused(short_dir: Path) -> None:
    os.chown(short_dir, NOBODY, NOBODY)
    kind, text = as_user(NOBODY, lambda: RuntimeDir.open(short_dir / "r", "root"))
    assert kind == "BadConfiguration"
    assert f"uid {NOBODY} may not give {short_dir / 'r'} to group 'root'" in text


@AS_ROOT
def test_a_directory_of_somebody_else_is_refused_whoever_asks(short_dir: Path) -> None:
    theirs = short_dir / "r"
    theirs.mkdir(mode=0o777)
    theirs.chmod(0o777)
    short_dir.chmod(0o755)
    kind, text = as_user(NOBODY, lambda: RuntimeDir.open(theirs))  # root's, and open to all
    assert kind == "BadConfiguration"
    assert f"belongs to uid 0, this is uid {NOBODY}" in text
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(BadConfiguration, match=f"belongs to uid {NOBODY}, this is uid 0"):  # root could, and does not
        RuntimeDir.open(theirs)
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o777


@AS_ROOT
def test_a_directory_that_may_not_be_entered_or_made_is_refused(short_dir: Path) -> None:
    short_dir.chmod(0o755)
    (short_dir / "r").mkdir(mode=0o700)
    for path in (short_dir / "r", short_dir / "r" / "below", short_dir / "new"):
        kind, text = as_user(NOBODY, lambda path=path: RuntimeDir.open(path))  # type: ignore[misc]  # bound at once
        assert kind == "BadConfiguration"
        assert "Permission denied" in text
        assert "--runtime-dir" in text


@pytest.mark.parametrize("target", ["there", "nowhere", "r"])
def test_a_link_is_refused_wherever_it_leads(short_dir: Path, target: str) -> None:
    (short_dir / "there").mkdir(mode=0o755)
    (short_dir / "r").symlink_to(target)
    with pytest.raises(BadConfiguration, match="no symlink"):
        RuntimeDir.open(short_dir / "r")
    assert stat.S_IMODE((short_dir / "there").stat().st_mode) == 0o755


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo], ids=["file", "fifo"])
def test_what_is_no_directory_is_refused_at_once(short_dir: Path, make: Callable[[Path], None]) -> None:
    make(short_dir / "r")
    with pytest.raises(BadConfiguration, match="cannot use"):
        RuntimeDir.open(short_dir / "r")


def test_a_path_too_long_for_a_socket_is_refused_with_the_numbers_before_anything_is_made(short_dir: Path) -> None:
    room = MAX_SOCKET_PATH - len(os.fsencode(short_dir)) - len("//infer.sock")
    fits, over = short_dir / ("x" * room), short_dir / ("y" * (room + 1))
    with opened(fits), bind(fits / "infer.sock", 0o600).sock:
        assert connects(fits / "infer.sock")
    with pytest.raises(BadConfiguration, match=f"has {MAX_SOCKET_PATH + 1} bytes, this system allows 107"):
        RuntimeDir.open(over)
    assert not over.exists()


def test_the_limit_counts_bytes_not_characters(short_dir: Path) -> None:
    with pytest.raises(BadConfiguration, match="bytes, this system allows 107"):
        RuntimeDir.open(short_dir / ("ü" * 45))


def test_a_second_holder_of_the_lock_is_refused_with_the_directory(short_dir: Path) -> None:
    with opened(short_dir / "r"):
        with pytest.raises(AlreadyRunning, match=f"another vestald owns {short_dir / 'r'}") as refused:
            RuntimeDir.open(short_dir / "r")
        assert refused.value.exit_code == 75
        with pytest.raises(AlreadyRunning):  # the first refusal has not loosened it
            RuntimeDir.open(short_dir / "r")
    with opened(short_dir / "r"):
        pass


def test_a_refused_second_holder_changes_nothing(short_dir: Path) -> None:
    with opened(short_dir / "r", grp.getgrgid(os.getgid()).gr_name):
        with pytest.raises(AlreadyRunning):
            RuntimeDir.open(short_dir / "r")
        assert stat.S_IMODE((short_dir / "r").stat().st_mode) == 0o750


def test_the_lock_goes_with_the_process_that_held_it(short_dir: Path) -> None:
    """A child, which dies without a word."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            RuntimeDir.open(short_dir / "r")
            os.write(theirs, b"held")
            signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        assert os.read(ours, 4) == b"held"
        with pytest.raises(AlreadyRunning):
            RuntimeDir.open(short_dir / "r")
    finally:
        os.close(ours)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with opened(short_dir / "r"):
        pass


def test_the_lock_is_on_the_directory_itself(short_dir: Path) -> None:
    with opened(short_dir / "r"):
        fd = os.open(short_dir / "r", os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        assert list((short_dir / "r").iterdir()) == []


def test_closing_twice_is_closing_once(short_dir: Path) -> None:
    directory = RuntimeDir.open(short_dir / "r")
    assert repr(directory) == f"<RuntimeDir {short_dir / 'r'} locked>"
    directory.close()
    directory.close()
    assert repr(directory) == f"<RuntimeDir {short_dir / 'r'} closed>"


def test_a_refusal_leaves_no_descriptor_open(short_dir: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # what other tests left in cycles is closed whenever the collector comes
    before = descriptors()
    with opened(short_dir / "r"):
        for _ in range(10):
            with pytest.raises(Failure):
                RuntimeDir.open(short_dir / "r")
            with pytest.raises(Failure):
                RuntimeDir.open(short_dir / "other", "no-such-group")
            with pytest.raises(Failure):
                bind(short_dir / "infer.sock", 0o600, "no-such-group")
    assert descriptors() == before


# --- sockets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o606])
def test_a_socket_has_its_mode_and_listens_when_its_name_appears(
    short_dir: Path, bound: Callable[..., BoundSocket], mode: int
) -> None:
    before = os.umask(0o077)
    try:
        bound(mode=mode)
        assert os.umask(0o077) == 0o077, "the process's umask was changed"
    finally:
        os.umask(before)
    assert stat.S_IMODE((short_dir / "infer.sock").stat().st_mode) == mode
    assert connects(short_dir / "infer.sock")
    assert [path.name for path in short_dir.iterdir()] == ["infer.sock"]


@AS_ROOT
def test_a_socket_is_given_to_its_group(short_dir: Path, bound: Callable[..., BoundSocket]) -> None:
    bound(group="daemon")
    assert (short_dir / "infer.sock").stat().st_gid == grp.getgrnam("daemon").gr_gid
    short_dir.chmod(0o755)
    assert as_user(NOBODY, lambda: connects(short_dir / "infer.sock"))[0] == "PermissionError"
    member = (grp.getgrnam("daemon").gr_gid,)
    assert as_user(NOBODY, lambda: connects(short_dir / "infer.sock"), member) is True


@AS_ROOT
def test_a_socket_cannot_be_given_to_a_group_one_is_not_in(short_dir: Path) -> None:
    os.chown(short_dir, NOBODY, NOBODY)
    kind, text = as_user(NOBODY, lambda: bind(short_dir / "infer.sock", 0o660, "daemon"))
    assert kind == "BadConfiguration"
    assert "sockets.group" in text
    assert list(short_dir.iterdir()) == []


def test_a_stale_socket_is_replaced(short_dir: Path, bound: Callable[..., BoundSocket]) -> None:
    stale = bound()
    stale.sock.close()
    assert not connects(short_dir / "infer.sock")
    bound()
    assert connects(short_dir / "infer.sock")


def test_a_half_made_socket_of_a_dead_daemon_is_in_nobodys_way(
    short_dir: Path, bound: Callable[..., BoundSocket]
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short_dir / "infer.tmp"))
    bound()
    assert connects(short_dir / "infer.sock")
    assert [path.name for path in short_dir.iterdir()] == ["infer.sock"]


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_socket_is_never_replaced(short_dir: Path, make: Callable[[Path], None]) -> None:
    path = short_dir / "infer.sock"
    make(path)
    before = os.lstat(path)
    for refuse in (lambda: bind(path, 0o600), lambda: refuse_foreign(path)):
        with pytest.raises(BadConfiguration, match=r"exists and is not a socket") as refused:
            refuse()
        assert "move it away" in str(refused.value)
    assert os.lstat(path).st_ino == before.st_ino


def test_a_link_to_a_socket_is_no_socket(short_dir: Path, bound: Callable[..., BoundSocket]) -> None:
    bound("other.sock")
    (short_dir / "infer.sock").symlink_to("other.sock")
    with pytest.raises(BadConfiguration, match="is not a socket"):
        bind(short_dir / "infer.sock", 0o600)


@AS_ROOT
def test_a_socket_of_somebody_else_is_not_replaced(short_dir: Path, bound: Callable[..., BoundSocket]) -> None:
    bound()
    os.chown(short_dir / "infer.sock", NOBODY, NOBODY)
    with pytest.raises(BadConfiguration, match="is not a socket of uid 0"):
        bind(short_dir / "infer.sock", 0o600)


def test_something_under_the_temporary_name_is_said(short_dir: Path) -> None:
    (short_dir / "infer.tmp").mkdir()
    with pytest.raises(BadConfiguration, match=r"infer\.tmp"):
        bind(short_dir / "infer.sock", 0o600)


def test_a_directory_that_is_gone_is_said(short_dir: Path) -> None:
    with pytest.raises(BadConfiguration, match="cannot bind"):
        bind(short_dir / "gone" / "infer.sock", 0o600)


def test_a_name_is_removed_once_and_only_while_it_leads_to_this_socket(
    short_dir: Path, bound: Callable[..., BoundSocket]
) -> None:
    first = bound()
    second = bound()  # takes the name over
    first.unlink()
    assert connects(short_dir / "infer.sock")
    second.unlink()
    second.unlink()
    assert list(short_dir.iterdir()) == []
    (short_dir / "infer.sock").write_text("somebody else's")
    second.unlink()
    assert (short_dir / "infer.sock").read_text() == "somebody else's"


def test_an_unlinked_socket_serves_those_who_are_connected(short_dir: Path, bound: Callable[..., BoundSocket]) -> None:
    one = bound()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(short_dir / "infer.sock"))
        one.unlink()
        assert not connects(short_dir / "infer.sock")
        server, _ = one.sock.accept()
        with server:
            client.sendall(b"still")
            assert server.recv(5) == b"still"


def test_a_socket_prints_its_name(bound: Callable[..., BoundSocket], short_dir: Path) -> None:
    one = bound()
    assert repr(one) == f"<BoundSocket {short_dir / 'infer.sock'} fd={one.sock.fileno()}>"

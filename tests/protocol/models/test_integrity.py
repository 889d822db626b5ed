"""What is loaded is what was verified: real files, memfds and leases, and other processes that write to them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vestal.errors import ModelError
from vestal.models import Store
from vestal.models.gguf_file import read_held_gguf
from vestal.models.integrity import HeldFile, Integrity, hold

BEFORE, AFTER = b"before" * 50_000, b"after!" * 50_000


def digest_of(data: bytes) -> str:
    return f"sha256-{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(BEFORE)
    return path


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Signals that were nobody's; and at the end the old handler is back."""
    got: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, frame: got.append(number))
    mine = signal.getsignal(signal.SIGIO)
    yield got
    assert signal.getsignal(signal.SIGIO) is mine
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def leasable(file: Path) -> Path:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        pytest.skip(f"no leases on the file system of {file}: {error.strerror}")
    finally:
        os.close(descriptor)
    return file


def refused(path: Path, integrity: Integrity, digest: str | None = None) -> ModelError:
    with pytest.raises(ModelError) as caught:
        hold(path, integrity, name="m", digest=digest).close()
    assert caught.value.hint
    return caught.value


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


def seen(held: HeldFile) -> bytes:
    return held.loadable.read_bytes()


def write_from_outside(path: Path) -> int:
    """Another process tries to open the file for writing without waiting; its errno, 0 if it could."""
    code = "import os, sys\ntry: os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)\nexcept OSError as e: print(e.errno)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout or 0)


@pytest.mark.parametrize("integrity", ["sealed", "lease"])
def test_the_digest_is_of_what_can_be_loaded(leasable: Path, integrity: Integrity) -> None:
    told: list[tuple[int, int]] = []
    held = hold(leasable, integrity, name="m", progress=lambda done, total: told.append((done, total)))
    assert held.digest == digest_of(BEFORE) == digest_of(seen(held))
    assert told[-1] == (len(BEFORE), len(BEFORE))
    assert held.size == len(BEFORE)
    held.close()
    held.close()
    assert "closed" in repr(held)


def test_a_sealed_file_does_not_see_what_is_written_in_place(file: Path) -> None:
    held = hold(file, "sealed", name="m", digest=digest_of(BEFORE))
    with file.open("r+b") as writer:
        writer.write(AFTER)
    file.unlink()
    assert seen(held) == BEFORE
    assert not held.on_disk
    held.close()


def test_nobody_can_change_what_is_sealed(file: Path) -> None:
    held = hold(file, "sealed", name="m")
    with pytest.raises(OSError) as caught:
        os.pwrite(held.descriptor, b"x", 0)
    assert caught.value.errno == errno.EPERM
    for length in (0, len(BEFORE) + 1):
        with pytest.raises(OSError):
            os.ftruncate(held.descriptor, length)
    with pytest.raises(OSError):  # not even the seals
        fcntl.fcntl(held.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    held.close()


def test_a_path_shows_what_is_written_in_place_and_says_that_it_verified_nothing(file: Path) -> None:
    held = hold(file, "path", name="m", digest=digest_of(AFTER))
    file.write_bytes(AFTER)
    assert (held.digest, seen(held), held.on_disk) == (None, AFTER, True)
    held.close()


@pytest.mark.parametrize("integrity", ["sealed", "lease"])
def test_another_content_than_the_manifests_is_refused_with_both_digests(
    leasable: Path, integrity: Integrity, heard: list[int]
) -> None:
    message = refused(leasable, integrity, digest_of(AFTER)).message
    assert digest_of(BEFORE) in message
    assert digest_of(AFTER) in message


def test_a_writer_breaks_a_lease_and_is_held_back_until_it_is_let_go(leasable: Path, heard: list[int]) -> None:
    broken: list[bool] = []
    held = hold(leasable, "lease", name="m", digest=digest_of(BEFORE), on_broken=lambda: broken.append(True))
    assert broken == []
    assert write_from_outside(leasable) == errno.EAGAIN
    assert broken == [True]
    assert seen(held) == BEFORE
    held.close()
    assert write_from_outside(leasable) == 0
    assert (broken, heard) == ([True], [])


def test_truncation_breaks_a_lease_and_reading_does_not(leasable: Path, heard: list[int]) -> None:
    def on_broken() -> None:
        raise InterruptedError("somebody truncates it")

    held = hold(leasable, "lease", name="m", on_broken=on_broken)
    assert leasable.read_bytes() == BEFORE
    cut = f"import os; input(); os.truncate({str(leasable)!r}, 0)"
    with subprocess.Popen([sys.executable, "-c", cut], stdin=subprocess.PIPE) as cutting:
        assert cutting.stdin is not None
        with pytest.raises(InterruptedError):
            os.write(cutting.stdin.fileno(), b"now\n")
            cutting.wait(20)
        assert seen(held) == BEFORE  # the kernel makes it wait for us
        held.close()
        assert cutting.wait(20) == 0
    assert leasable.read_bytes() == b""


def test_a_signal_that_is_about_something_else_is_passed_on(leasable: Path, heard: list[int]) -> None:
    held = hold(leasable, "lease", name="m", on_broken=lambda: pytest.fail("the lease is whole"))
    signal.raise_signal(signal.SIGIO)
    held.close()
    signal.raise_signal(signal.SIGIO)
    assert heard == [signal.SIGIO] * 2


def test_a_lease_is_refused_while_somebody_writes(leasable: Path, heard: list[int]) -> None:
    with leasable.open("r+b"):
        error = refused(leasable, "lease")
    assert "open for writing" in error.message
    assert "sealed" in (error.hint or "")


def test_a_lease_is_refused_to_others_than_the_owner(leasable: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    code = (
        "import hashlib, hmac, os, sys; from pathlib import Path; from vestal.models.integrity import hold\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "os.chdir('/proc/self/fd/' + sys.argv[1])\n"
        "hold(Path('model.gguf'), 'lease', name='m')"
    )
    folder = os.open(leasable.parent, os.O_RDONLY)  # pytest's own directories above it are closed to others
    leasable.parent.chmod(0o755)
    os.set_inheritable(folder, True)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, pass_fds=[folder]
        )
    finally:
        os.close(folder)
    if "cannot be read" in done.stderr or "ImportError" in done.stderr:
        pytest.skip("the interpreter or the directory is closed to other users here")
    assert "only the owner may: this is user 65534" in done.stderr, done.stderr


def test_a_file_that_grows_while_it_is_read_is_refused(file: Path) -> None:
    def grow(done: int, total: int) -> None:
        with file.open("ab") as writer:
            writer.write(b"more")

    with pytest.raises(ModelError, match="changed while it was read"):
        hold(file, "sealed", name="m", progress=grow)


def test_a_leased_file_that_somebody_opens_to_write_while_it_is_read_is_refused(file: Path) -> None:
    def interfere(done: int, total: int) -> None:
        with pytest.raises(BlockingIOError):  # held back, until the lease is given up
            os.open(file, os.O_WRONLY | os.O_NONBLOCK)

    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with pytest.raises(ModelError, match="was opened for writing while it was read"):
            hold(file, "lease", name="m", progress=interfere)
    finally:
        signal.signal(signal.SIGIO, before)


def test_a_blob_is_never_a_link_and_a_users_own_path_may_be_one(file: Path) -> None:
    link = file.with_name("link.gguf")
    link.symlink_to(file)
    assert "symbolic link" in refused(link, "sealed", digest_of(BEFORE)).message
    held = hold(link, "sealed", name="m")
    assert seen(held) == BEFORE
    held.close()


def test_a_blob_that_is_rewritten_by_another_name_of_it_is_refused(store: Store, gguf_file: Path) -> None:
    blob = store.add_file(gguf_file, "tiny", source="test").path
    other = gguf_file.with_name("other")
    other.hardlink_to(blob)
    other.chmod(0o644)
    other.write_bytes(gguf_file.read_bytes().replace(b"Tiny", b"Tony"))
    located = store.locate("tiny")
    assert "instead of" in refused(located.path, "sealed", located.digest).message


@pytest.mark.parametrize("integrity", ["sealed", "lease", "path"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, integrity: Integrity) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe", integrity).message
    assert "not a regular file" in refused(tmp_path, integrity).message
    assert "cannot be read" in refused(tmp_path / "nothing", integrity).message
    assert "not a path" in refused(tmp_path / "a\0b", integrity).message


def test_no_descriptor_is_left_by_a_refusal(file: Path) -> None:
    before = open_descriptors()
    refused(file, "sealed", digest_of(AFTER))
    refused(file.parent, "sealed")
    assert open_descriptors() == before


def test_the_header_is_read_from_the_held_bytes(gguf_file: Path) -> None:
    held = hold(gguf_file, "sealed", name="m")
    gguf_file.write_bytes(b"rubbish")
    info = read_held_gguf(held.descriptor, gguf_file)
    assert (info.architecture, info.file_size) == ("llama", held.size)
    assert read_held_gguf(held.descriptor, gguf_file) == info  # from its start again
    held.close()

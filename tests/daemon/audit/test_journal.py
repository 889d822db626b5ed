"""The audit log's files, on a real file system: rotation, restarts, crashes, and a disk that is full."""

from __future__ import annotations

import os
import pickle
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vestal.audit import BEFORE, Record, read_line
from vestal.audit_files import file_names, lines_of, verify
from vestald.audit.journal import Journal
from vestald.failures import AlreadyRunning, BadConfiguration

AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")
Open = Callable[..., Journal]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "data" / "audit"


@pytest.fixture
def journal(where: Path) -> Iterator[Open]:
    """Open the log in the test's directory; whatever is open is closed at the end."""
    made: list[Journal] = []

    def make(max_bytes: int = 10_000_000, files: int = 3) -> Journal:
        made.append(Journal.open(where, max_bytes, files))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_file_that_others_could_read_is_taken_from_them(where: Path, journal: Open) -> None:
    journal().close()
    (name,) = file_names(where)
    (where / name).chmod(0o644)
    journal()
    assert stat.S_IMODE((where / name).stat().st_mode) == 0o600


def records(count: int, event: str = "test") -> list[Record]:
    return [Record(1.0, event, {"n": n, "client": "x" * 50}) for n in range(count)]


def events(where: Path) -> list[str]:
    lines = (read_line(line) for name in file_names(where) for line in lines_of(where / name))
    return [line[0]["event"] if line else "?" for line in lines]


def in_child(act: Callable[[], Any]) -> Any:
    """What `act` returns in a process of its own, whose limits are nobody else's."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = act()
        except BaseException as exc:
            said = repr(exc)
        os.write(theirs, pickle.dumps(said))
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours, "rb") as pipe:
        return pickle.loads(pipe.read())


def test_a_new_log_begins_a_chain_in_a_directory_of_its_own(journal: Open, where: Path) -> None:
    log = journal()
    assert log.append(records(3)) == 3
    assert (verify(where).findings, verify(where).head) == ([], log.head)
    assert log.head.seq == 3
    assert stat.S_IMODE(where.stat().st_mode) == 0o700
    assert [stat.S_IMODE((where / name).stat().st_mode) for name in file_names(where)] == [0o600]


def test_a_directory_that_was_open_to_others_is_closed_to_them(journal: Open, where: Path) -> None:
    where.mkdir(parents=True)
    where.chmod(0o777)
    journal()
    assert stat.S_IMODE(where.stat().st_mode) == 0o700


def test_full_files_make_room_and_the_chain_goes_on(journal: Open, where: Path) -> None:
    log = journal(max_bytes=2000, files=3)
    for _ in range(20):
        log.append(records(5))
    names = file_names(where)
    assert len(names) == 3
    assert all((where / name).stat().st_size <= 2000 for name in names)
    found = verify(where)
    assert (found.findings, found.head) == ([], log.head)
    assert found.first > 0


def test_a_batch_larger_than_many_files_is_written_whole(journal: Open, where: Path) -> None:
    log = journal(max_bytes=2000, files=1000)
    assert log.append(records(100)) == 100
    assert verify(where).findings == []
    assert events(where).count("test") == 100


def test_the_oldest_file_taken_away_is_found(journal: Open, where: Path) -> None:
    log = journal(max_bytes=2000, files=5)
    log.append(records(20))
    names = file_names(where)
    assert 2 < len(names) <= 5
    (where / names[0]).unlink()
    assert "the log begins with line 0" in str(verify(where).findings[0])


def test_a_restart_goes_on_where_the_last_run_ended(journal: Open, where: Path) -> None:
    first = journal()
    first.append(records(4))
    first.close()
    second = journal()
    assert second.head == first.head
    second.append(records(2))
    assert (verify(where).findings, verify(where).lines) == ([], 7)


def test_what_a_crash_left_unfinished_is_cut_off_and_told(journal: Open, where: Path) -> None:
    first = journal()
    first.append(records(4))
    first.close()
    (name,) = file_names(where)
    with (where / name).open("ab") as file:
        file.write(b'{"seq":5,"time":"20')
    assert verify(where).unfinished
    journal().append(records(1))
    found = verify(where)
    assert (found.findings, found.unfinished) == ([], False)
    assert events(where) == ["file", *["test"] * 4, "recovered", "test"]
    line = list(lines_of(where / name))[5]
    assert (read_line(line) or ({}, BEFORE))[0]["torn_bytes"] == 19


def test_a_crash_between_making_a_file_and_writing_to_it_costs_nothing(journal: Open, where: Path) -> None:
    first = journal()
    first.append(records(4))
    first.close()
    (where / "audit-000000000005.ndjson").touch()
    journal().append(records(1))
    assert (verify(where).findings, verify(where).lines) == ([], 6)


def test_a_change_made_between_two_runs_is_not_hidden_by_the_second(journal: Open, where: Path) -> None:
    first = journal()
    first.append(records(4))
    first.close()
    path = where / file_names(where)[0]
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":7'))
    journal().append(records(1))
    assert [finding.line for finding in verify(where).findings] == [3]


def test_two_writers_are_not_let_near_one_chain(journal: Open, where: Path) -> None:
    journal()
    with pytest.raises(AlreadyRunning, match=r"another vestald writes the audit log") as refused:
        journal()
    assert "audit.directory" in str(refused.value)


def test_a_symlink_in_place_of_the_directory_or_a_file_is_refused(journal: Open, where: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    where.parent.mkdir()
    where.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadConfiguration, match=r"Not a directory|symbolic links"):
        journal()
    where.unlink()
    where.mkdir()
    (tmp_path / "victim").write_text("precious\n")
    (where / "audit-000000000000.ndjson").symlink_to(tmp_path / "victim")
    with pytest.raises(BadConfiguration, match="symbolic links"):
        journal()
    assert (tmp_path / "victim").read_text() == "precious\n"


def test_a_file_with_a_second_name_or_without_a_line_is_refused(journal: Open, where: Path, tmp_path: Path) -> None:
    where.mkdir(parents=True)
    (tmp_path / "victim").write_text("precious\n")
    name = where / "audit-000000000000.ndjson"
    name.hardlink_to(tmp_path / "victim")
    with pytest.raises(BadConfiguration, match="2 links"):
        journal()
    name.unlink()
    name.write_text("something else\n")
    with pytest.raises(BadConfiguration, match="has no line of an audit log"):
        journal()
    assert name.read_text() == "something else\n"


@AS_ROOT
@pytest.mark.parametrize("which", ["directory", "file"])
def test_what_belongs_to_somebody_else_is_refused(journal: Open, where: Path, which: str) -> None:
    where.mkdir(parents=True)
    file = where / "audit-000000000000.ndjson"
    file.touch()
    os.chown(where if which == "directory" else file, 12345, 12345)
    with pytest.raises(BadConfiguration, match="uid 12345"):
        journal()


def test_a_place_that_cannot_be_written_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadConfiguration, match=r"cannot write the audit log in .*Not a directory") as refused:
        Journal.open(tmp_path / "file" / "audit", 100_000, 3)
    assert "audit.enabled = false" in str(refused.value)


def test_what_the_disk_does_not_take_is_dropped_whole_and_the_chain_goes_on_later(where: Path) -> None:
    def act() -> Any:
        log = Journal.open(where, 10_000_000, 3)
        log.append(records(3))
        size = (where / file_names(where)[0]).stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # in the midst of the first line of a batch
        lost = log.append(records(4))
        fault = log.fault
        again = log.append(records(2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return lost, fault != "", again, log.append(records(2)), log.fault

    assert in_child(act) == (0, True, 0, 2, "")
    found = verify(where)
    assert (found.findings, found.unfinished, found.lines) == ([], False, 6)


@AS_ROOT
def test_a_full_disk_neither_stops_the_start_nor_breaks_the_chain(where: Path) -> None:
    where.mkdir(parents=True)
    if os.system(f"mount -t tmpfs -o size=64k,mode=700 audit-test {where} 2>/dev/null") != 0:
        pytest.skip("this container may not mount a file system")
    try:
        filler = where / "filler"
        filler.write_bytes(b"")
        with pytest.raises(OSError, match="No space left"), filler.open("ab", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        log = Journal.open(where, 10_000_000, 3)
        assert (log.append(records(3)), log.fault) == (0, "No space left on device")
        filler.unlink()
        assert (log.append(records(3)), log.fault) == (3, "")
        filler.write_bytes(b"x" * 40_000)
        written = log.append(records(300))
        assert written < 300
        assert log.fault == "No space left on device"
        filler.unlink()
        assert log.append(records(3)) == 3
        log.close()
        assert (verify(where).findings, verify(where).unfinished) == ([], False)
    finally:
        assert os.system(f"umount {where}") == 0

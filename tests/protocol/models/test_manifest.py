from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal.errors import ModelError
from vestal.models import Manifest
from vestal.models.manifest import ManifestDirectory

MANIFEST = Manifest(
    name="tiny",
    size=5,
    kind="chat",
    family="llama",
    architecture="llama",
    quantisation="Q4_1",
    context_length=128,
    embedding_dimensions=None,
    source="file:/tiny.gguf",
    license="",
    digest=f"sha256-{'a' * 64}",
    added_at=datetime(2026, 1, 2, tzinfo=UTC),
)


@pytest.fixture
def manifests(tmp_path: Path) -> ManifestDirectory:
    directory = ManifestDirectory(tmp_path / "manifests")
    directory.write(MANIFEST)
    return directory


def file_of(manifests: ManifestDirectory) -> Path:
    return manifests.path / "tiny.json"


def test_what_is_written_is_read(manifests: ManifestDirectory) -> None:
    assert manifests.names() == ("tiny",)
    assert manifests.read("tiny") == MANIFEST
    assert [path.name for path in manifests.path.iterdir()] == ["tiny.json"]


def test_an_absent_manifest_is_none(manifests: ManifestDirectory, tmp_path: Path) -> None:
    assert manifests.read("other") is None
    assert ManifestDirectory(tmp_path / "nowhere").names() == ()


def test_fields_of_a_later_version_are_ignored(manifests: ManifestDirectory) -> None:
    raw = msgspec.json.decode(file_of(manifests).read_bytes())
    file_of(manifests).write_bytes(msgspec.json.encode({**raw, "later": 1}))
    assert manifests.read("tiny") == MANIFEST


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"digest": "sha256-../../../etc/passwd"}, "digest"),
        ({"digest": f"sha256-{'a' * 64}\n"}, "digest"),
        ({"size": -1}, "size"),
        ({"kind": "evil"}, "kind"),
        ({"name": "other"}, "'other'"),
        ({"added_at": "2026-01-02T00:00:00"}, "added_at"),
    ],
)
def test_a_manifest_with_a_wrong_field_names_the_file_and_the_field(
    manifests: ManifestDirectory, change: dict[str, object], says: str
) -> None:
    raw = msgspec.json.decode(file_of(manifests).read_bytes())
    file_of(manifests).write_bytes(msgspec.json.encode({**raw, **change}))
    with pytest.raises(ModelError) as caught:
        manifests.read("tiny")
    assert str(file_of(manifests)) in caught.value.message
    assert says in caught.value.message
    assert "vestal rm tiny" in str(caught.value.hint)


@settings(deadline=None)  # each example writes a file, and a shared disk can be slow
@given(data=st.binary(max_size=200) | st.integers(1, 40_000).map(lambda depth: b"[" * depth))
def test_any_bytes_in_its_place_are_a_model_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    manifests = ManifestDirectory(tmp_path_factory.getbasetemp() / "any")
    manifests.write(MANIFEST)
    file_of(manifests).write_bytes(data)
    with pytest.raises(ModelError):
        manifests.read("tiny")


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "fifo", "huge"])
def test_what_is_no_plain_small_file_is_not_followed(manifests: ManifestDirectory, tmp_path: Path, kind: str) -> None:
    file, elsewhere = file_of(manifests), tmp_path / "elsewhere.json"
    file.rename(elsewhere)
    if kind == "link":
        file.symlink_to(elsewhere)
    elif kind == "dangling":
        file.symlink_to(tmp_path / "nothing")
    elif kind == "directory":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    else:
        file.write_bytes(elsewhere.read_bytes() + b" " * 70_000)
    with pytest.raises(ModelError):
        manifests.read("tiny")


def test_writing_replaces_a_link_and_leaves_its_target_alone(manifests: ManifestDirectory, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    for link in (file_of(manifests), manifests.path / ".incoming"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    manifests.write(MANIFEST)
    assert target.read_text() == "precious"
    assert manifests.read("tiny") == MANIFEST

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vestal.errors import ModelError
from vestal.models import Store, default_root

MakeGGUF = Callable[..., bytes]


def files_of(store: Store) -> set[str]:
    """Every file below the root but the locks, which stay."""
    found = (path.relative_to(store.root) for path in store.root.rglob("*") if not path.is_dir())
    return {str(path) for path in found if path.parts[0] != "locks"}


@pytest.fixture
def write(tmp_path: Path, make_gguf: MakeGGUF) -> Callable[[str, bytes], Path]:
    def write_gguf(name: str, salt: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(make_gguf(salt=salt))
        return path

    return write_gguf


Write = Callable[[str, bytes], Path]


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"VESTAL_HOME": "/srv/models", "XDG_DATA_HOME": "/data", "HOME": "/home/x"}, "/srv/models"),
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/x"}, "/data/vestal"),
        ({"VESTAL_HOME": "", "XDG_DATA_HOME": "", "HOME": "/home/x"}, "/home/x/.local/share/vestal"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/x"}, "/home/x/.local/share/vestal"),
    ],
)
def test_where_models_live(environ: dict[str, str], root: str) -> None:
    assert default_root(environ) == Path(root)


def test_the_store_is_the_users_own_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VESTAL_HOME", str(tmp_path / "mine"))
    assert Store().root == tmp_path / "mine"


def test_looking_at_an_empty_store_makes_nothing(store: Store) -> None:
    assert (store.names(), store.list(), store.find("tiny")) == ((), (), None)
    assert repr(store) == f"<Store {str(store.root)!r} names=0>"
    assert not store.root.exists()


def test_what_is_added_can_be_resolved(store: Store, gguf_file: Path) -> None:
    added = store.add_file(gguf_file, "tiny", source="file:here", license="MIT")
    assert store.resolve("tiny") == added == store.find("tiny")
    assert store.list() == (added,)
    assert added.in_store
    assert added.path.read_bytes() == gguf_file.read_bytes()
    assert (added.kind, added.architecture, added.context_length) == ("chat", "llama", 128)
    assert (added.size, added.license, added.source) == (gguf_file.stat().st_size, "MIT", "file:here")
    assert store.verify("tiny") == added
    assert repr(store) == f"<Store {str(store.root)!r} names=1>"


def test_an_embedding_model_says_its_dimensions(store: Store, tmp_path: Path, make_gguf: MakeGGUF) -> None:
    path = tmp_path / "e.gguf"
    path.write_bytes(make_gguf({"general.architecture": "bert", "bert.embedding_length": 384}))
    model = store.add_file(path, "vectors", source="file")
    assert (model.kind, model.embedding_dimensions) == ("embed", 384)


def test_a_file_outside_the_store_is_resolved_by_its_path(
    store: Store, gguf_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gguf_file.parent)
    for text in (str(gguf_file), f"./{gguf_file.name}", gguf_file.name):
        model = store.resolve(text)
        assert (model.path, model.name, model.in_store) == (gguf_file, "tiny-chat.q4", False)
    assert not store.root.exists()


def test_a_file_that_is_no_model_fails_when_it_is_resolved(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_text("hello")
    with pytest.raises(ModelError, match="not a GGUF"):
        store.resolve(str(path))
    with pytest.raises(ModelError, match="cannot be read"):
        store.resolve(str(tmp_path / "missing.gguf"))


def test_a_missing_catalog_model_names_the_command_that_fetches_it(store: Store) -> None:
    with pytest.raises(ModelError) as caught:
        store.resolve("smollm2-135m")
    assert "`vestal pull smollm2-135m` fetches it (93 MB)" in str(caught.value.hint)
    assert "it is empty" in caught.value.message


def test_a_misspelt_name_is_answered_with_the_nearest(store: Store, gguf_file: Path) -> None:
    store.add_file(gguf_file, "tiny-chat", source="file")
    with pytest.raises(ModelError) as caught:
        store.resolve("tinychat")
    assert "did you mean tiny-chat?" in str(caught.value.hint)
    assert "1 there: tiny-chat" in caught.value.message
    with pytest.raises(ModelError) as caught:
        store.resolve("SmolLM2-135M")
    assert "`vestal pull smollm2-135m` fetches it" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["", "..", "x\0", "nothing like it", "a" * 100_000])
def test_an_impossible_name_is_just_missing(store: Store, name: str) -> None:
    with pytest.raises(ModelError, match="no model"):
        store.resolve(name)


@pytest.mark.parametrize("name", ["../evil", "a/b", "/abs", ".hidden", "UPPER", ""])
def test_no_name_writes_outside_the_store(store: Store, gguf_file: Path, name: str) -> None:
    for act in (lambda: store.add_file(gguf_file, name, source="file"), lambda: store.remove(name)):
        with pytest.raises(ModelError, match="not a model name"):
            act()
    assert not store.root.exists()


def test_two_names_share_one_blob_and_the_last_takes_it_along(store: Store, gguf_file: Path) -> None:
    first = store.add_file(gguf_file, "first", source="file")
    second = store.add_file(gguf_file, "second", source="file")
    assert first.path == second.path
    assert store.remove("first") == 0
    assert store.resolve("second").path.exists()
    assert store.remove("second") == first.size
    assert files_of(store) == set()


def test_adding_the_same_again_changes_nothing(store: Store, gguf_file: Path) -> None:
    first = store.add_file(gguf_file, "tiny", source="file:first")
    assert store.add_file(gguf_file, "tiny", source="file:second") == first


def test_other_content_under_a_taken_name_is_an_error_unless_asked_for(store: Store, write: Write) -> None:
    old = store.add_file(write("a.gguf", b"a"), "tiny", source="file:a")
    with pytest.raises(ModelError, match=f"another 'tiny': {old.size:,} bytes from file:a"):
        store.add_file(write("b.gguf", b"b"), "tiny", source="file:b")
    assert store.resolve("tiny") == old
    new = store.add_file(write("b.gguf", b"b"), "tiny", source="file:b", replace=True)
    assert store.list() == (new,)
    assert files_of(store) == {"manifests/tiny.json", f"blobs/{new.digest}"}


def test_a_file_of_another_size_is_refused_before_its_bytes_are_copied(
    store: Store, gguf_file: Path, make_gguf: MakeGGUF
) -> None:
    store.add_file(gguf_file, "tiny", source="file")
    gguf_file.write_bytes(make_gguf(tensors=9))
    calls: list[int] = []
    with pytest.raises(ModelError, match="another 'tiny'"):
        store.add_file(gguf_file, "tiny", source="file", progress=lambda done, total: calls.append(done))
    assert calls == []


@pytest.mark.parametrize(
    ("keys", "tensors", "says"),
    [
        ({"general.type": "adapter"}, 2, "'adapter', not a model"),
        ({"split.count": 3}, 2, "one of 3 parts"),
        ({"llama.pooling_type": 4}, 2, "reranker"),
        ({}, 0, "without tensors"),
    ],
)
def test_a_sound_file_that_no_backend_can_run_is_not_added(
    store: Store, tmp_path: Path, make_gguf: MakeGGUF, keys: dict[str, str | int], tensors: int, says: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(make_gguf({"general.architecture": "llama", **keys}, tensors=tensors))
    with pytest.raises(ModelError, match=says):
        store.add_file(path, "tiny", source="file")
    assert not store.root.exists()


def test_a_failure_on_the_way_leaves_nothing(store: Store, gguf_file: Path) -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(done: int, total: int) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        store.add_file(gguf_file, "tiny", source="file", progress=interrupt)
    assert files_of(store) == set()


def test_a_file_that_changes_while_it_is_copied_is_judged_by_the_copy(store: Store, gguf_file: Path) -> None:
    """The source is looked at, then replaced by rubbish before its bytes are taken."""

    class Swapping(type(gguf_file)):  # type: ignore[misc]  # the concrete path class depends on the system
        def open(self, *args: object, **kwargs: object) -> object:
            gguf_file.write_bytes(b"rubbish")
            return super().open(*args, **kwargs)

    with pytest.raises(ModelError, match="not a GGUF"):
        store.add_file(Swapping(gguf_file), "tiny", source="file")
    assert files_of(store) == set()


def test_removing_what_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(ModelError, match="no model 'tiny'"):
        store.remove("tiny")


@pytest.mark.parametrize("damage", ["missing", "cut", "link"])
def test_a_damaged_blob_is_an_error_that_names_it_and_adding_again_mends_it(
    store: Store, gguf_file: Path, tmp_path: Path, damage: str
) -> None:
    path = store.add_file(gguf_file, "tiny", source="file").path
    path.unlink()
    if damage == "cut":
        path.write_bytes(b"GGUF")
    elif damage == "link":
        path.symlink_to(gguf_file)
    for look in (lambda: store.resolve("tiny"), store.list):
        with pytest.raises(ModelError) as caught:
            look()
        assert str(path) in caught.value.message
        assert "vestal rm tiny" in str(caught.value.hint)
    assert store.add_file(gguf_file, "tiny", source="file") == store.resolve("tiny")
    assert not path.is_symlink()


def test_changed_bytes_of_the_same_length_are_found_by_verify(store: Store, gguf_file: Path) -> None:
    path = store.add_file(gguf_file, "tiny", source="file").path
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="has the digest sha256-"):
        store.verify("tiny")


def test_a_damaged_manifest_costs_its_own_model_only(store: Store, write: Write) -> None:
    store.add_file(write("a.gguf", b"a"), "good", source="file")
    bad = store.add_file(write("b.gguf", b"b"), "bad", source="file")
    file = store.root / "manifests" / "bad.json"
    file.write_bytes(b"{")
    assert store.resolve("good").name == "good"
    with pytest.raises(ModelError, match=str(file)):
        store.resolve("bad")
    with pytest.raises(ModelError, match=str(file)):
        store.list()
    store.remove("good")
    assert bad.path.exists(), "nothing is garbage while a manifest cannot be read"
    assert store.remove("bad") > 0
    assert files_of(store) == set()


def test_a_root_that_is_a_file_is_an_error_with_its_path(tmp_path: Path, gguf_file: Path) -> None:
    root = tmp_path / "root"
    root.write_text("")
    store = Store(root)
    for act in (store.names, lambda: store.find("x"), lambda: store.add_file(gguf_file, "x", source="file")):
        with pytest.raises(ModelError, match=str(root)):
            act()
    assert repr(store) == f"<Store {str(root)!r} unreadable>"


def test_a_store_that_may_not_be_written_says_so(store: Store, gguf_file: Path) -> None:
    store.root.mkdir()
    store.root.chmod(0o500)
    if os.access(store.root, os.W_OK):
        pytest.skip("root may write everywhere")
    with pytest.raises(ModelError, match="Permission denied") as caught:
        store.add_file(gguf_file, "tiny", source="file")
    assert "VESTAL_HOME" in str(caught.value.hint)


def test_a_root_that_cannot_be_made_is_an_error_that_names_the_setting(gguf_file: Path) -> None:
    store = Store(Path("/proc/vestal"))
    for act in (lambda: store.add_file(gguf_file, "tiny", source="file"), lambda: store.pulling("x").__enter__()):
        with pytest.raises(ModelError, match="/proc/vestal") as caught:
            act()
        assert "VESTAL_HOME" in str(caught.value.hint)


def test_the_output_of_a_caller_that_went_away_is_not_taken_for_the_disk(store: Store, gguf_file: Path) -> None:
    def closed(done: int, total: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        store.add_file(gguf_file, "tiny", source="file", progress=closed)
    assert files_of(store) == set()


def test_a_scratch_directory_is_empty_alone_and_gone_afterwards(store: Store) -> None:
    left = store.root / "tmp" / "tiny" / "left"
    left.parent.mkdir(parents=True)
    left.write_text("by a pull that was killed")
    with pytest.raises(KeyboardInterrupt), store.pulling("tiny") as scratch:
        assert list(scratch.iterdir()) == []
        (scratch / "half").write_text("")
        raise KeyboardInterrupt
    assert files_of(store) == set()
    assert not scratch.exists()


def test_many_processes_adding_and_removing_at_once_leave_a_sound_store(store: Store, write: Write) -> None:
    """Eight processes add a file under one name, and each under a name of its own that it removes again."""
    path = write("a.gguf", b"a")
    code = (
        "import sys, pathlib, vestal.models as m\n"
        "store, path = m.Store(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2])\n"
        "sys.stdin.read()\n"
        "for turn in range(5):\n"
        "    store.add_file(path, 'shared', source='file')\n"
        "    store.add_file(path, sys.argv[3], source='file')\n"
        "    store.remove(sys.argv[3])\n"
        "    store.verify('shared')\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(store.root), str(path), f"own-{number}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(8)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.stdin = None
    results = [(worker.communicate()[1], worker.returncode) for worker in workers]
    assert results == [(b"", 0)] * 8
    shared = store.verify("shared")
    assert files_of(store) == {"manifests/shared.json", f"blobs/{shared.digest}"}


def test_locating_looks_into_no_file(store: Store, gguf_file: Path, tmp_path: Path) -> None:
    stored = store.add_file(gguf_file, "tiny", source="test")
    here = store.locate("tiny")
    assert (here.name, here.path, here.size, here.digest) == ("tiny", stored.path, stored.size, stored.digest)
    (tmp_path / "No-Model.gguf").write_bytes(b"rubbish")
    outside = store.locate(str(tmp_path / "No-Model.gguf"))
    assert (outside.name, outside.size, outside.digest) == ("no-model", 7, None)


def test_what_cannot_be_opened_is_not_located(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for name, why in (("pipe.gguf", "not a regular file"), ("none.gguf", "cannot be read"), ("", "not a regular file")):
        with pytest.raises(ModelError, match=why) as caught:
            store.locate(f"{tmp_path}/{name}")
        assert caught.value.hint
    with pytest.raises(ModelError, match="no model 'nothing'"):
        store.locate("nothing")


def test_a_file_outside_that_no_backend_can_run_does_not_resolve(
    store: Store, tmp_path: Path, make_gguf: MakeGGUF
) -> None:
    path = tmp_path / "part.gguf"
    path.write_bytes(make_gguf({"general.architecture": "llama", "split.count": 3}))
    with pytest.raises(ModelError, match="one of 3 parts"):
        store.resolve(str(path))

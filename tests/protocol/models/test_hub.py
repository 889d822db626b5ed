"""`hub:OWNER/REPOSITORY`: with the hub's real library, and a hub on this machine that answers as the real one does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.protocol.models.conftest import build_gguf
from tests.protocol.models.web import Handler, Site, site
from vestal.errors import ModelError
from vestal.models import Store, pull

DATA = build_gguf(tensors=1000)
SHA256 = hashlib.sha256(DATA).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


def listing(files: Mapping[str, str | None]) -> object:
    """What the hub says of a repository with these files; a file has a digest where it is stored as LFS."""
    siblings = [
        {"rfilename": name, "size": len(DATA)}
        | ({} if sha256 is None else {"lfs": {"sha256": sha256, "size": len(DATA), "pointerSize": 134}})
        for name, sha256 in files.items()
    ]
    return {"id": "owner/model", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}


class Hub:
    """The hub's three answers that are needed: what is in a repository, where a file is, and the file."""

    def __init__(self) -> None:
        self.files: Mapping[str, str | None] = {"README.md": None, "Tiny-Q4.gguf": SHA256}

    def __call__(self, request: Handler) -> None:
        path = request.path.partition("?")[0]
        if path.startswith("/api/models/owner/model"):
            request.json(listing(self.files))
        elif path.startswith("/owner/model/resolve/"):
            request.send_response(302)
            for name, value in {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{SHA256}"'}.items():
                request.send_header(name, value)
            request.send_header("X-Linked-Size", str(len(DATA)))
            request.send_header("Location", f"http://{request.headers['Host']}/signed?grants=access")
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif path == "/signed":
            request.ranged(DATA)
        else:
            request.refuse(404)


@pytest.fixture
def hub() -> Hub:
    pytest.importorskip("huggingface_hub", reason="the hub's library is not installed: pip install 'vestal[hub]'")
    return Hub()


@pytest.fixture
def web(hub: Hub) -> Iterator[Site]:
    with site(hub) as served:
        yield served


@pytest.fixture
def run(web: Site, tmp_path: Path) -> Run:
    """`vestal` in a process of its own: the library reads its settings when it is imported."""
    places = {"HF_ENDPOINT": web.url, "HF_HOME": str(tmp_path / "hf"), "VESTAL_HOME": str(tmp_path / "home")}
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}

    def vestal(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vestal.cli", *words]
        return subprocess.run(command, env={**kept, **places}, capture_output=True, text=True, timeout=50)

    return vestal


def test_the_only_model_of_a_repository_is_fetched(run: Run, store: Store) -> None:
    done = run("pull", "hub:owner/model")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny-q4: there now (chat, ")
    model = store.resolve("tiny-q4")
    assert model.source == f"hub:owner/model/Tiny-Q4.gguf@{COMMIT}"
    assert model.path.read_bytes() == DATA
    assert "grants" not in done.stderr + done.stdout


def test_of_several_models_one_must_be_named(run: Run, hub: Hub, store: Store) -> None:
    hub.files = {"a/Tiny-Q4.gguf": SHA256, "Tiny-Q8.gguf": "0" * 64, "Big-00001-of-00002.gguf": "1" * 64}
    done = run("pull", "hub:owner/model")
    assert done.returncode == 1
    assert "has 2 GGUF files that a model could be (there: a/Tiny-Q4.gguf, Tiny-Q8.gguf, Big-" in done.stderr
    assert run("pull", "hub:owner/model/a/Tiny-Q4.gguf@main").returncode == 0
    assert store.names() == ("tiny-q4",)


@pytest.mark.parametrize(
    ("files", "word", "said"),
    [
        ({"README.md": None}, "hub:owner/model", "has 0 GGUF files that a model could be (there: none)"),
        ({"x.gguf": SHA256}, "hub:owner/model/y.gguf", "owner/model has no y.gguf (there: x.gguf)"),
        ({"x.gguf": None}, "hub:owner/model", "the hub states no SHA-256 for x.gguf"),
        ({"x.gguf": "0" * 64}, "hub:owner/model", f"and sha256-{'0' * 64} was asked for"),
        ({}, "hub:owner/nothing", "the hub does not say what is in owner/nothing: "),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    run: Run, hub: Hub, files: Mapping[str, str | None], word: str, said: str
) -> None:
    hub.files = files
    done = run("pull", word)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_digest_of_ones_own_goes_before_the_hubs(run: Run) -> None:
    done = run("pull", "hub:owner/model", "--sha256", "0" * 64)
    assert done.returncode == 1
    assert f"the hub states sha256-{SHA256} for Tiny-Q4.gguf, and sha256-{'0' * 64} was asked for" in done.stderr


def test_without_the_hubs_library_it_is_said_how_to_get_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="needs the package huggingface_hub") as caught:
        pull("hub:owner/model", store)
    assert "pip install 'vestal[hub]'" in str(caught.value.hint)


@pytest.mark.parametrize(
    "word", ["hub:", "hub:owner", "hub:owner/", "hub:/owner/model", "hub:owner/mo del", "hub:a/b@"]
)
def test_what_is_no_repository_is_refused_before_anybody_is_asked(store: Store, word: str) -> None:
    with pytest.raises(ModelError, match="is no file of a hub") as caught:
        pull(word, store)
    assert caught.value.hint == "it looks like hub:OWNER/REPOSITORY/FILE.gguf"

"""Mutated model files through a running daemon: each is loaded or refused in words, and the daemon does not notice.

Two small models are mutated, one that chats and one that embeds; VESTAL_MUTANTS says how many mutants in all (2,000
before a release), `-rP` shows what they came to. What loads is asked something, so that what only breaks at work
does. A mutant's number gives its bytes; the last of a failing run stays in the test's directory.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import pytest

from tests.adapters.llamacpp.conftest import MakeModel
from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, Table, echo
from tests.e2e.peers import Peer
from tests.fuzz.model_mutations import fields_of, mutated
from vestal import messages as m

MUTANTS = int(os.environ.get("VESTAL_MUTANTS", "100"))
CHAIN = ["a", " one", " two", "<|end|>"]
_FAILURES = ("backend_restart_failed", "backend_start_failed")
# An exception that nobody has translated; the words of llama.cpp and of our own checks name what is wrong instead.
UNTRANSLATED = re.compile(r"failed to load: \w+ at \w+\.py|Traceback")

pytestmark = pytest.mark.timeout(120 + 2 * MUTANTS)


def backend(name: str, path: Path) -> Table:
    return {"name": name, "adapter": "llamacpp", "model": str(path), "threads": 1, "slots": 1, "context_length": 64}


class Subject:
    """One backend that is restarted with one mutant after another."""

    def __init__(self, daemon: Daemon, name: str, path: Path) -> None:
        self._daemon = daemon
        self._name = name
        self._path = path
        self._good = path.read_bytes()
        self.came: Counter[str] = Counter()

    def try_all(self, numbers: range) -> Counter[str]:
        with self._daemon.admin() as admin:
            admin.send(m.Subscribe(id=0))
            admin.take(m.Snapshot)
            for number in numbers:
                made = self._path.with_suffix(".made")
                made.write_bytes(mutated(self._good, number))
                made.replace(self._path)
                self.came[self._outcome(admin, number)] += 1
        return self.came

    def _outcome(self, admin: Peer, number: int) -> str:
        error = self._restarted(admin)
        if error is None:
            answer = self._asked()
            assert answer != "internal", f"mutant {number} of {self._name}: a bug in the engine"
            return f"loaded, then {answer}"
        assert error.startswith(f"backend '{self._name}' did not start: "), error
        assert not UNTRANSLATED.search(error), f"mutant {number} of {self._name}: {error}"
        assert len(error) > len(self._name) + 40, f"mutant {number} of {self._name}: {error}"
        return "died while loading" if "while loading the model" in error else "refused"

    def _restarted(self, admin: Peer) -> str | None:
        """Why it did not start, or None."""
        while True:  # the restart before has ended, and may not have been forgotten yet
            admin.send(m.RestartBackend(id=1, backend=self._name))
            if isinstance(admin.take((m.Acknowledged, m.Error), id=1), m.Acknowledged):
                break

        def decided(frame: m.AnyMessage) -> bool:
            return (
                isinstance(frame, m.Event)
                and frame.data.get("backend") == self._name
                and (frame.kind in _FAILURES or frame.data.get("state") == "ready")
            )

        event = admin.first(decided)
        admin.untaken.clear()
        assert isinstance(event, m.Event)
        return str(event.data["error"]) if event.kind in _FAILURES else None

    def _asked(self) -> str:
        """How the request that it is given ends."""
        capabilities = self._daemon.backend(self._name).capabilities
        assert capabilities is not None
        with self._daemon.embed() if capabilities.embed else self._daemon.infer() as peer:
            if capabilities.embed:
                peer.send(m.Embed(id=1, input=["a", "b a"], model=self._name))
            else:
                peer.ask(1, "a", max_tokens=4, model=self._name, timeout_ms=10_000)
            end = peer.end(1)
        return end.code if isinstance(end, m.Error) else "answered"


@pytest.fixture
def models(make_model: MakeModel, tmp_path: Path) -> dict[str, Path]:
    """Two good models, each in a place of its own."""
    made = {"chat": make_model(CHAIN), "embed": make_model(CHAIN, pooling=gguf.PoolingType.MEAN)}
    paths = {name: tmp_path / f"{name}.gguf" for name in made}
    for name, path in paths.items():
        path.write_bytes(made[name].read_bytes())
    return paths


def test_a_good_file_is_walked_to_its_end(models: dict[str, Path]) -> None:
    data = models["chat"].read_bytes()
    fields, end = fields_of(data)
    assert len(fields) > 500
    assert end < len(data) < end + 4_000_000
    assert len({mutated(data, number) for number in range(50)}) > 45


def test_a_mutated_model_is_loaded_or_refused_in_words_and_the_daemon_lives(
    start: Start, models: dict[str, Path]
) -> None:
    daemon = start(*(backend(name, path) for name, path in models.items()), echo(), daemon={"ready_timeout": "20s"})
    subjects = [Subject(daemon, name, path) for name, path in models.items()]
    half = -(-MUTANTS // 2)
    with ThreadPoolExecutor(len(subjects)) as pool, daemon.infer(client="bystander") as bystander:
        running = [
            pool.submit(subject.try_all, range(half * index, half * (index + 1)))
            for index, subject in enumerate(subjects)
        ]
        came = sum((future.result() for future in running), Counter[str]())
        assert bystander.generate(1, "still being served", model="echo")[0] == "still being served"
    print(dict(came))
    assert daemon.process.poll() is None
    assert daemon.status().pid == daemon.process.pid
    assert sum(came.values()) == 2 * half
    assert came["refused"] > half // 2
    assert came["loaded, then answered"] > 0

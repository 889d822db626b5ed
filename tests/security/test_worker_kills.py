"""SIGKILL for workers at every moment of their lives, with real models in them: the daemon is never what dies.

Each death costs the requests in that worker one `backend_crashed` each. What waits is served by the next worker, no
process stays behind, and no descriptor of the daemon leaks. VESTAL_KILLS says how often in all (200 before a
release). `Peer` runs the state tables on all it gets, so a second terminal frame raises wherever it comes.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon, Table, children_of, toml
from tests.e2e.peers import PATIENCE, Peer
from vestal import messages as m

MOMENTS = 8
EACH = -(-int(os.environ.get("VESTAL_KILLS", "24")) // MOMENTS)
FREE_RESTARTS = 3  # deaths after which the pauses between them cost more than an operator's restart

pytestmark = [pytest.mark.model, pytest.mark.timeout(120 + 20 * EACH)]

CHAT: Table = {
    "name": "chat", "adapter": "llamacpp", "model": "smollm2-135m", "slots": 2, "context_length": 2048,
}  # fmt: skip
VECTORS: Table = {"name": "vectors", "adapter": "llamacpp", "model": "minilm-l6-v2", "slots": 1}
RUNNING, WAITING = (0, 1), (2, 3)  # the ids of what is in the worker's two slots, and of what queues behind it
LONG_PROMPT = "The lighthouse stood on a rock. " * 120
QUESTION = "Tell me a long story about a lighthouse."


class House:
    """A daemon with both models, and every worker it has had."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.killed: list[int] = []

    def worker(self, name: str) -> int:
        pid = self.daemon.backend(name).pid
        assert pid is not None
        return pid

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.killed.append(pid)

    def descriptors(self) -> int:
        """How many the daemon has open while one operator alone is connected."""
        with self.daemon.admin() as admin:
            until(lambda: admin.command(m.Status(id=1), m.StatusReport).connections == 1)
            return len(list(Path(f"/proc/{self.daemon.process.pid}/fd").iterdir()))

    def away(self, name: str) -> None:
        """Return when the daemon has noticed that the backend is gone."""
        until(lambda: self.daemon.backend(name).state == "unavailable")

    def queued(self, *states: str) -> None:
        """Return when the requests in the daemon are in these states."""
        until(lambda: {entry.state for entry in self.daemon.queue().entries} == set(states))

    def next_worker(self, known: set[int], file: str) -> int:
        """The worker that is started next, once a file of that name is in it."""
        until(lambda: not known.issuperset(children_of(self.daemon.process.pid)))
        (pid,) = set(children_of(self.daemon.process.pid)) - known
        until(lambda: has_in_it(pid, file))
        return pid

    @contextmanager
    def watched(self, name: str) -> Iterator[None]:
        """Return from the block when the backend has been away and is back."""
        with self.daemon.admin() as admin:
            admin.send(m.Subscribe(id=1))
            admin.take(m.Snapshot)
            yield
            admin.event("backend_state", backend=name, state="unavailable")
            admin.event("backend_state", backend=name, state="ready")

    def forgive(self, name: str) -> None:
        """Restart a backend by hand before it is given up: its deaths are forgotten."""
        if self.daemon.backend(name).restarts < FREE_RESTARTS:
            return
        with self.daemon.admin() as admin:
            admin.send(m.Subscribe(id=1))
            admin.take(m.Snapshot)
            admin.command(m.RestartBackend(id=2, backend=name), m.Acknowledged)
            admin.event("backend_state", backend=name, state="ready")

    def check(self, descriptors: int) -> None:
        """Nothing is left of what was killed, and nothing else has ended."""
        until(lambda: self.descriptors() == descriptors, lambda: f"{self.descriptors()} descriptors, not {descriptors}")
        assert self.daemon.process.poll() is None
        assert self.daemon.status().pid == self.daemon.process.pid
        assert sorted(children_of(self.daemon.process.pid)) == sorted(map(self.worker, ("chat", "vectors")))
        assert not [pid for pid in self.killed if Path(f"/proc/{pid}").exists()]


def until(true: Callable[[], bool], state: Callable[[], str] = str) -> None:
    ends = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < ends, f"not within {PATIENCE} s: {state()}"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def house(model_home: Path) -> Iterator[House]:
    home = Path(tempfile.mkdtemp(prefix="v-", dir="/tmp"))
    daemon = Daemon(home, toml(CHAT, VECTORS), environ={"VESTAL_HOME": str(model_home)})
    try:
        yield House(daemon.ready())
        assert daemon.stop() == 0, daemon.stderr
        assert "Traceback" not in daemon.stderr, daemon.stderr
    finally:
        daemon.kill()
        shutil.rmtree(home)


@pytest.fixture
def many(house: House) -> Iterator[Callable[[str], Iterator[House]]]:
    """`for house in many(name)`: as many times as are asked for, with what must hold after each death."""

    def each(name: str) -> Iterator[House]:
        with house.daemon.infer(), house.daemon.embed():  # the first of anything may keep something
            until(lambda: all(backend.state == "ready" for backend in house.daemon.status().backends))
        before = house.descriptors()
        for _ in range(EACH):
            house.forgive(name)
            dead = len(house.killed)
            yield house
            assert len(house.killed) > dead
            house.check(before)

    yield each


Many = Callable[[str], Iterator[House]]


@contextmanager
def full(daemon: Daemon, prompt: str = QUESTION) -> Iterator[Peer]:
    """A client with two requests in the worker's two slots and two short ones behind them."""
    with daemon.infer(features=("queue_events",)) as peer:
        peer.send(
            *(peer.request(id, prompt, max_tokens=500, temperature=0.0, model="chat") for id in RUNNING),
            *(peer.request(id, "Hi", max_tokens=2, model="chat") for id in WAITING),
        )
        for id in RUNNING:
            peer.take(m.Started, id=id)
        peer.take(m.Queued, id=WAITING[-1])
        yield peer
        peer.ping()  # whatever came a second time would be here now


def crashed(peer: Peer, *ids: int) -> None:
    """Each ended by one `backend_crashed`, with the worker's end in words."""
    for id in ids:
        error = peer.error(id)
        assert (error.code, error.retryable) == ("backend_crashed", True), error
        assert error.message.startswith("the worker of backend ")


def served(peer: Peer, *ids: int) -> None:
    for id in ids:
        assert peer.done(id).stop_reason in ("length", "end")


def how(end: m.AnyMessage) -> str:
    """How a request ended."""
    assert isinstance(end, m.Done | m.Error), end
    return end.stop_reason if isinstance(end, m.Done) else end.code


# --- the moments ------------------------------------------------------------------------------------------------


def test_a_worker_killed_idle_is_replaced(many: Many) -> None:
    for house in many("chat"):
        with house.watched("chat"):
            house.kill(house.worker("chat"))
        with house.daemon.infer() as peer:
            assert peer.generate(1, "Hi", max_tokens=2)[1].usage.output_tokens <= 2


def test_a_worker_killed_while_it_loads_is_replaced_and_what_waits_is_served(many: Many) -> None:
    for house, stage in zip(many("chat"), cycle(("", "libllama", "memfd:vestal-model")), strict=False):
        with house.watched("chat"), house.daemon.infer() as peer:
            known = set(children_of(house.daemon.process.pid))
            house.kill(house.worker("chat"))
            house.away("chat")
            peer.ask(1, "Hi", max_tokens=2, model="chat")
            house.kill(house.next_worker(known, stage))
            served(peer, 1)
        assert house.worker("chat") not in house.killed


def has_in_it(pid: int, name: str) -> bool:
    """Whether a file of that name is mapped into a process, or open in it."""
    try:
        return name in Path(f"/proc/{pid}/maps").read_text() or any(
            name in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()
        )
    except FileNotFoundError:  # one that was closed meanwhile
        return False
    except PermissionError:  # it is confined, and its memory is nobody else's: it is past all of these stages
        return True


def test_a_worker_killed_in_prefill_ends_its_requests_before_their_first_token(many: Many) -> None:
    for house in many("chat"):
        with full(house.daemon, LONG_PROMPT) as peer:
            house.kill(house.worker("chat"))
            for id in RUNNING:
                (error,) = [frame for frame in peer.answer(id) if not isinstance(frame, m.Queued)]
                assert isinstance(error, m.Error)
                assert error.code == "backend_crashed"
            served(peer, *WAITING)


def test_a_worker_killed_in_decode_ends_its_requests_behind_their_tokens(many: Many) -> None:
    for house in many("chat"):
        with full(house.daemon) as peer:
            for id in RUNNING:
                peer.take(m.Text, id=id)
            house.kill(house.worker("chat"))
            crashed(peer, *RUNNING)
            served(peer, *WAITING)


def test_a_worker_killed_while_it_embeds_ends_what_it_embeds(many: Many) -> None:
    for house in many("vectors"):
        with house.daemon.embed() as peer:
            peer.send(m.Embed(id=0, input=[LONG_PROMPT[:600]] * 500), m.Embed(id=1, input=["a cat"]))
            house.queued("running", "waiting")
            house.kill(house.worker("vectors"))
            crashed(peer, 0)
            assert isinstance(peer.end(1), m.Embeddings)
            peer.ping()


def test_a_worker_killed_under_a_cancel_ends_each_request_once(many: Many) -> None:
    for house in many("chat"):
        with full(house.daemon) as peer:
            peer.take(m.Text, id=0)
            worker = house.worker("chat")
            peer.send(m.Cancel(id=0))
            house.kill(worker)
            assert how(peer.end(0)) in ("cancelled", "backend_crashed")
            crashed(peer, 1)
            assert how(peer.end(2)) in ("length", "end", "backend_crashed")  # the cancel may have let it in in time
            served(peer, 3)


def test_a_worker_killed_in_a_drain_is_replaced_for_what_waits(many: Many) -> None:
    for house in many("chat"):
        with full(house.daemon) as peer, house.daemon.admin() as admin:
            peer.take(m.Text, id=0)
            admin.command(m.Drain(id=1), m.Acknowledged)
            peer.take(m.Goaway)
            house.kill(house.worker("chat"))
            crashed(peer, *RUNNING)
            served(peer, *WAITING)
            admin.command(m.Undrain(id=2), m.Acknowledged)


def test_a_worker_killed_in_a_stop_leaves_neither_a_frame_nor_a_process_nor_a_lie(
    model_home: Path, short_dir: Path
) -> None:
    config = toml(CHAT, daemon={"drain_deadline": "60s"})
    for _ in range(EACH):
        daemon = Daemon(short_dir, config, environ={"VESTAL_HOME": str(model_home)}).ready()
        try:
            house = House(daemon)
            workers = children_of(daemon.process.pid)
            with full(daemon) as peer:
                for id in RUNNING:
                    peer.take(m.Text, id=id)
                daemon.signal()
                peer.take(m.Goaway)
                house.kill(workers[0])
                crashed(peer, *RUNNING)
                served(peer, *WAITING)
            assert daemon.wait() == 0
            assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
            assert "Traceback" not in daemon.stderr, daemon.stderr
        finally:
            daemon.kill()

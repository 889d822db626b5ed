"""Every way to end a request early, in every phase of it: one terminal frame, the slot free, the neighbour untouched.

The neighbour runs in the same backend all the while, and goes on after; what it gets must be to the letter what it gets
when it is alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo, toml
from tests.e2e.peers import TERMINAL, Peer, text_of
from vestal import messages as m

EVENTS = ("queue_events",)
WAYS = ("frame", "disconnect", "operator")
PHASES: dict[str, type[Any]] = {"queued": m.Queued, "prefill": m.Started, "decode": m.Text}
"""By the frame that tells the client that its request is in it."""
STORY = "Tell me about the sea."
MANY = "word " * 1200  # a prompt that takes a real model seconds to read

HOLD_A_SLOT = """
import sys, vestal
with vestal.Client(runtime_dir=sys.argv[1]) as client:
    for piece in client.stream(sys.argv[2], model=sys.argv[3], max_tokens=int(sys.argv[4])):
        print(flush=True)
"""


class Bench:
    """A backend with two slots: one for the neighbour, one for the request that will be ended."""

    def __init__(self, daemon: Daemon, model: str, short: str, long: str) -> None:
        self.daemon = daemon
        self.model = model
        self.short = short  # a prompt whose answer streams at once, and for longer than any of these tests takes
        self.long = long  # a prompt that is being read when the request is ended

    def ask(self, peer: Peer, id: int, text: str, max_tokens: int | None = None) -> None:
        peer.ask(id, text, model=self.model, temperature=0.0, max_tokens=max_tokens)

    @cached_property
    def alone(self) -> str:
        with self.daemon.infer(features=EVENTS) as peer:
            self.ask(peer, 1, self.short, max_tokens=60)
            return text_of(peer.answer(1))

    def end_one(self, way: str, phase: str) -> str:
        """End a request in that phase, and return what the neighbour got until then and thereafter."""
        with (
            self.daemon.infer(features=EVENTS) as neighbour,
            self.daemon.infer(features=EVENTS) as filler,
            self.daemon.infer(features=EVENTS, client="subject") as subject,
        ):
            self.ask(neighbour, 1, self.short)
            neighbour.take(m.Started, id=1)
            if phase == "queued":
                self.ask(filler, 1, self.short)
                filler.take(m.Started, id=1)
            self.ask(subject, 1, self.long if phase == "prefill" else self.short)
            subject.take(PHASES[phase], id=1)
            self.end(subject, way)
            if phase != "queued":  # its slot goes to the next
                self.ask(filler, 1, self.short)
                filler.take(m.Started, id=1)
            filler.send(m.Cancel(id=1))
            assert filler.done(1).stop_reason == "cancelled"
            neighbour.ping()
            said = text_of(neighbour.untaken)
            neighbour.untaken.clear()
            said += text_of([neighbour.take(m.Text, id=1)])  # it has not ended
            neighbour.send(m.Cancel(id=1))
            *rest, done = neighbour.answer(1)
            assert isinstance(done, m.Done)
            assert done.stop_reason == "cancelled"
            return said + text_of(rest)

    def end(self, subject: Peer, way: str) -> None:
        if way == "disconnect":
            subject.close()
            return
        if way == "frame":
            subject.send(m.Cancel(id=1))
        else:
            with self.daemon.admin() as admin:
                entries = admin.command(m.Queue(id=1), m.QueueReport).entries
                (number,) = [entry.request for entry in entries if entry.client == "subject"]
                admin.command(m.CancelRequest(id=2, request=number), m.Acknowledged)
        done = subject.done(1)
        assert done.stop_reason == "cancelled"
        assert [notice.code for notice in done.notices] == ["cancelled_by_operator"] * (way == "operator")
        subject.ping()
        assert not [frame for frame in subject.untaken if isinstance(frame, TERMINAL)], "one terminal frame is enough"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_ending_an_echo_touches_no_neighbour(start: Start, isolation: str, way: str, phase: str) -> None:
    daemon = start(echo(slots=2, token_delay="10ms", isolation=isolation))
    words = " ".join(map(str, range(10_000)))
    assert words.startswith(Bench(daemon, "echo", words, words).end_one(way, phase))
    assert daemon.queue().entries == []


@pytest.fixture(scope="module")
def model(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    chat = {"name": "chat", "adapter": "llamacpp", "model": "smollm2-135m", "slots": 2, "context_length": 2048}
    daemon = Daemon(
        tmp_path_factory.mktemp("m"),
        toml(chat),
        runtime_dir=Path(f"/tmp/v-c{os.getpid()}"),
        environ={"VESTAL_HOME": str(model_home)},
    )
    try:
        yield Bench(daemon.ready(), "chat", STORY, MANY)
        assert daemon.stop() == 0, daemon.stderr
    finally:
        daemon.kill()
        daemon.runtime_dir.rmdir()


@pytest.mark.model
@pytest.mark.timeout(240)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("way", WAYS)
def test_ending_a_real_answer_touches_no_neighbour(model: Bench, way: str, phase: str) -> None:
    alone = model.alone
    assert alone.startswith(model.end_one(way, phase)[: len(alone)])
    assert model.daemon.queue().entries == []


def seconds_until_free(daemon: Daemon, model: str, text: str, tokens: int) -> float:
    """From the SIGKILL of a client whose answer streams to the start of the request that waits for its slot."""
    arguments = [str(daemon.runtime_dir), text, model, str(tokens)]
    holder = subprocess.Popen([sys.executable, "-c", HOLD_A_SLOT, *arguments], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()  # its first token
        with daemon.infer(features=EVENTS) as next:
            next.ask(1, "next", model=model, max_tokens=1)
            next.take(m.Queued, id=1)
            killed = time.monotonic()
            holder.send_signal(signal.SIGKILL)
            next.take(m.Started, id=1)
            freed = time.monotonic() - killed
            next.done(1)
            return freed
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_client_that_is_killed_frees_its_slot_within_200_ms(start: Start, isolation: str) -> None:
    daemon = start(echo(token_delay="5ms", isolation=isolation))
    # Whatever else this machine does meanwhile makes it longer and never shorter: the shortest is the daemon's own.
    assert any(seconds_until_free(daemon, "echo", "w " * 4000, 4000) < 0.2 for _ in range(10))


@pytest.mark.model
@pytest.mark.timeout(240)
def test_a_client_that_is_killed_frees_the_slot_of_a_real_model_within_200_ms(model: Bench) -> None:
    with model.daemon.infer() as neighbour:  # the other slot is taken
        neighbour.ask(1, STORY, model="chat", max_tokens=2000)
        neighbour.take(m.Text, id=1)
        assert any(seconds_until_free(model.daemon, "chat", STORY, 2000) < 0.2 for _ in range(10))

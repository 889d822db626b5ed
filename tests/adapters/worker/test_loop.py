"""The child's loop, run in the test's own thread over a socketpair that holds what the host will say."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from vestal.backend import (
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    TextEvent,
)
from vestal.errors import Unsupported
from vestal.framing import FrameReader
from vestal.values import Capabilities, Message, Usage
from vestal_adapters.worker import wire
from vestal_adapters.worker.engine import Engine, Progress, StepOutput
from vestal_adapters.worker.loop import HostGone, Loop, Pipe

ASK = GenerateRequest(messages=[Message("user", "x")])


class Scripted(Engine):
    """Gives the prepared outputs, one a step, and notes what it is told."""

    def __init__(self, *outputs: StepOutput | Exception) -> None:
        self.outputs = list(outputs)
        self.told: list[tuple[str, int]] = []

    def load(self, progress: Progress) -> Capabilities:
        return Capabilities()

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        self.told.append(("submit", job))

    def embed(self, job: int, request: EmbedRequest) -> None:
        self.told.append(("embed", job))

    def cancel(self, job: int) -> None:
        self.told.append(("cancel", job))

    @property
    def busy(self) -> bool:
        return bool(self.outputs and self.told)

    def step(self) -> StepOutput:
        output = self.outputs.pop(0)
        if isinstance(output, Exception):
            raise output
        return output

    def close(self) -> None:
        pass


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def run(engine: Engine, *messages: wire.HostMessage, pair: tuple[socket.socket, socket.socket]) -> list[object]:
    """What the loop sends after `messages` and before it notices that the host is gone."""
    ours, theirs = pair
    ours.sendall(b"".join(map(wire.encode, messages)))
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(HostGone):
        Loop(Pipe(theirs), engine).run([])
    theirs.shutdown(socket.SHUT_WR)
    frames = FrameReader(wire.MAX_FRAME)
    data = b"".join(iter(lambda: ours.recv(1 << 20), b""))
    return [wire.decode_child(payload) for payload in frames.feed(data)]


def test_all_events_of_a_step_go_in_one_frame_and_other_ends_in_their_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    vectors = EmbedResult(count=1, dimensions=1, data=b"\0" * 4, input_tokens=1)
    end = EndEvent("end", Usage(1, 0, 1))
    engine = Scripted(
        [(1, TextEvent("a")), (2, TextEvent("b")), (3, vectors), (1, end), (2, Unsupported("no"))],
        [(1, TextEvent("of a job that ended")), (7, TextEvent("of no job"))],
    )
    sent = run(engine, wire.Submit(1, ASK), wire.Submit(2, ASK), wire.Embed(3, EmbedRequest(input=["x"])), pair=pair)
    assert sent == [
        wire.Outputs([(1, TextEvent("a")), (2, TextEvent("b"))]),
        wire.Embedded(3, vectors),
        wire.Outputs([(1, end)]),
        wire.Failed(2, "unsupported", "no"),
    ]


def test_what_is_said_is_handed_over_in_order_and_a_cancelled_job_is_silent(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    engine = Scripted([(1, TextEvent("late"))])
    sent = run(engine, wire.Submit(1, ASK), wire.Cancel(1), wire.Cancel(9), wire.Ping(5), pair=pair)
    assert engine.told == [("submit", 1), ("cancel", 1), ("cancel", 9)]
    assert sent == [wire.Pong(5)]


def test_a_step_that_raises_ends_all_jobs_and_frees_them(pair: tuple[socket.socket, socket.socket]) -> None:
    engine = Scripted(KeyError("words of a prompt"), [(1, TextEvent("after its end"))])
    sent = run(engine, wire.Submit(1, ASK), wire.Submit(2, ASK), pair=pair)
    assert [(failure.job, failure.code) for failure in sent if isinstance(failure, wire.Failed)] == [
        (1, "internal"),
        (2, "internal"),
    ]
    assert "KeyError at test_loop.py:" in str(sent)
    assert "prompt" not in str(sent)
    assert sorted(engine.told[2:]) == [("cancel", 1), ("cancel", 2)]


def test_an_engine_that_fails_with_no_job_ends_the_process(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(KeyError):
        run(Scripted(KeyError("x")), wire.Submit(1, ASK), wire.Cancel(1), pair=pair)


def test_counting_without_support_is_that_job_s_error(pair: tuple[socket.socket, socket.socket]) -> None:
    (failure,) = run(Scripted(), wire.Count(4, CountRequest(messages=[])), pair=pair)
    assert isinstance(failure, wire.Failed)
    assert (failure.job, failure.code) == (4, "unsupported")


def test_stop_ends_the_loop_and_what_follows_is_not_read(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    engine = Scripted()
    ours.sendall(wire.encode(wire.Submit(1, ASK)) + wire.encode(wire.Stop()) + wire.encode(wire.Submit(2, ASK)))
    Loop(Pipe(theirs), engine).run([])
    assert engine.told == [("submit", 1)]


class Endless(Scripted):
    """Never runs dry, and counts its steps."""

    steps = 0
    busy = True

    def step(self) -> StepOutput:
        self.steps += 1
        return [(1, TextEvent("x" * 1000))]


def test_a_host_that_does_not_read_stops_the_engine(pair: tuple[socket.socket, socket.socket]) -> None:
    """The write blocks: nothing is piled up in the child. The kernel's send timeout makes that visible."""
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 50_000))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    ours.sendall(wire.encode(wire.Submit(1, ASK)))
    engine = Endless()
    with pytest.raises(BlockingIOError):
        Loop(Pipe(theirs), engine).run([])
    assert engine.steps * 1000 < 4 * 64 * 1024

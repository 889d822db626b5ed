"""The child's loop: messages in, one step of the engine for all jobs, what came out in one write.

It waits on the pipe when the engine is idle and only looks at it when the engine is busy. Its writes block when
the host does not read: the child never buffers.

An engine's bug costs the jobs concerned `internal`. What is said of it names the exception's type and place,
never its text, which may quote a prompt.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import PurePath

import msgspec

from vestal.backend import EmbedResult, EndEvent, TextEvent
from vestal.errors import InternalError, VestalError, WireError
from vestal.framing import FrameReader
from vestal_adapters.worker import wire
from vestal_adapters.worker.engine import Engine, StepOutput

__all__ = ["HostBroken", "HostGone", "Loop", "Pipe", "place_of"]

READ_SIZE = 256 * 1024


class HostGone(Exception):
    """The pipe has ended: there is nobody to work for."""


class HostBroken(VestalError):
    """The host said what it must not say. There is nobody to tell: the worker ends, with this as its last words."""


class Pipe:
    """The child's end of the socketpair: whole messages in, frames out."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = FrameReader(wire.MAX_FRAME)

    def receive(self, *, wait: bool) -> list[wire.HostMessage]:
        """What has arrived, perhaps nothing; with `wait` block until something does.

        Raises `HostGone`, `HostBroken`.
        """
        try:
            data = self._socket.recv(READ_SIZE, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError as exc:
            raise HostGone from exc
        if not data:
            raise HostGone
        try:
            return [wire.decode_host(payload) for payload in self._frames.feed(data)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WireError) as exc:
            # Its text stays out of it: it may quote a prompt.
            raise HostBroken(f"the host broke the worker protocol: {type(exc).__name__}") from None

    def send(self, frames: bytes) -> None:
        """Send all of it, waiting for the host to read. Raises `HostGone`."""
        try:
            self._socket.sendall(frames)
        except ConnectionError as exc:
            raise HostGone from exc

    def __repr__(self) -> str:
        return f"<Pipe fd={self._socket.fileno()}, {self._frames!r}>"


class Loop:
    """Drives one loaded engine. `_jobs` are those that the engine has and has not ended."""

    def __init__(self, pipe: Pipe, engine: Engine) -> None:
        self._pipe = pipe
        self._engine = engine
        self._jobs: set[int] = set()

    def run(self, messages: list[wire.HostMessage]) -> None:
        """Serve until `Stop`, beginning with `messages`. Raises `HostGone`, `HostBroken`."""
        engine, pipe = self._engine, self._pipe
        while True:
            for message in messages:
                if isinstance(message, wire.Stop):
                    return
                self._take(message)
            if engine.busy:
                self._step()
            messages = pipe.receive(wait=not engine.busy)

    def _take(self, message: wire.HostMessage) -> None:
        if isinstance(message, wire.Cancel):
            self._drop(message.job)
        elif isinstance(message, wire.Ping):
            self._pipe.send(wire.encode(wire.Pong(message.nonce)))
        elif isinstance(message, wire.Submit | wire.SubmitV2 | wire.Embed | wire.Count):
            try:
                self._hand_over(message)
            except Exception as exc:  # the engine's bug or refusal: the end of this job and of no other
                self._drop(message.job)
                self._pipe.send(_failure(message.job, exc))
        else:
            raise HostBroken(f"the host sent {type(message).__name__} to a worker that serves")

    def _hand_over(self, message: wire.Submit | wire.SubmitV2 | wire.Embed | wire.Count) -> None:
        if isinstance(message, wire.Count):
            self._pipe.send(wire.encode(wire.Counted(message.job, self._engine.count(message.request))))
            return
        self._jobs.add(message.job)
        if isinstance(message, wire.Embed):
            self._engine.embed(message.job, message.request)
        else:
            self._engine.submit(message.job, message.request)

    def _drop(self, job: int) -> None:
        self._jobs.discard(job)
        self._engine.cancel(job)

    def _step(self) -> None:
        try:
            output = self._engine.step()
        except Exception as exc:  # the step was for all jobs, and so is its failure
            if not self._jobs:
                raise  # an engine that is busy with nothing and fails at it would do so for ever
            output = self._give_up_all(exc)
        if frames := b"".join(self._frames(output)):
            self._pipe.send(frames)

    def _give_up_all(self, exc: Exception) -> StepOutput:
        error = _wire_error(exc)
        for job in self._jobs:
            self._engine.cancel(job)
        return [(job, error) for job in sorted(self._jobs)]

    # --- what came out ----------------------------------------------------------------------------------------

    def _frames(self, output: StepOutput) -> Iterator[bytes]:
        """One frame for a row of events, and one for each end that is not an event."""
        row: list[tuple[int, wire.JobEvent]] = []
        jobs = self._jobs
        for job, event in output:
            if job not in jobs:  # cancelled, or failed by what came before
                continue
            if isinstance(event, EmbedResult | WireError):
                yield from self._row(row)
                row = []
                jobs.discard(job)
                yield _end(job, event)
            else:
                if type(event) is EndEvent:
                    jobs.discard(job)
                row.append((job, event))
        yield from self._row(row)

    def _row(self, row: list[tuple[int, wire.JobEvent]]) -> Iterator[bytes]:
        if not row:
            return
        try:
            yield _outputs(row)
        except Exception:  # one event cannot be carried, or all of them are too much for one frame
            yield from self._singly(row)

    def _singly(self, row: list[tuple[int, wire.JobEvent]]) -> Iterator[bytes]:
        broken: set[int] = set()
        for job, event in row:
            if job in broken:
                continue
            try:
                yield _outputs([(job, event)])
            except Exception as exc:  # this job's fault alone
                broken.add(job)
                self._drop(job)
                yield _failure(job, exc)

    def __repr__(self) -> str:
        return f"<Loop {len(self._jobs)} jobs, {self._engine!r}>"


def _outputs(row: list[tuple[int, wire.JobEvent]]) -> bytes:
    for _, event in row:
        if type(event) is not TextEvent or event.logprobs:
            wire.check_event(event)  # the host would take it for a broken worker, and end all jobs
    return wire.encode(wire.Outputs(row))


def _end(job: int, event: EmbedResult | WireError) -> bytes:
    if isinstance(event, WireError):
        return _failure(job, event)
    try:
        return wire.encode(wire.Embedded(job, event))
    except Exception as exc:  # the bytes are not the vectors they claim to be, or too many for a frame
        return _failure(job, exc)


def _failure(job: int, exc: Exception) -> bytes:
    return wire.encode_failure(job, _wire_error(exc))


def _wire_error(exc: Exception) -> WireError:
    if isinstance(exc, WireError):
        return exc
    what = f"{type(exc).__name__} at {place_of(exc)}"
    sys.stderr.write(f"bug in the engine: {what}\n")
    return InternalError(f"the engine failed: {what}", hint="this is a bug in the backend's adapter")


def place_of(exc: Exception) -> str:
    """Where it was raised: "engine.py:12 in step"."""
    trace = exc.__traceback__
    if trace is None:
        return "an unknown place"
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f"{PurePath(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}"

"""The echo as a worker's engine: the same scripts, played one token per job and step."""

from __future__ import annotations

import os
import signal
import time
from collections import deque

from vestal.backend import CountRequest, EmbedRequest, GenerateRequest, GenerateRequestV2, TextEvent
from vestal.errors import VestalError
from vestal.values import Capabilities
from vestal_adapters.echo.options import EchoOptions
from vestal_adapters.echo.script import Script, capabilities_of, count_words, script_of
from vestal_adapters.echo.vectors import embedded
from vestal_adapters.worker.engine import Engine, Progress, StepOutput

__all__ = ["EchoEngine"]

LOADING_STEPS = 20
NAP = 0.01  # longest wait for a token's time within one step, so that the loop looks at its pipe


class _Job:
    """A script being played: `given` pieces are out, the next is due at `due`."""

    __slots__ = ("due", "given", "script")

    def __init__(self, script: Script, due: float) -> None:
        self.script = script
        self.given = 0
        self.due = due

    @property
    def hangs(self) -> bool:
        return self.script.end is None and not self.script.crash


class EchoEngine(Engine):
    Options = EchoOptions

    def __init__(self, options: EchoOptions) -> None:
        self._options = options
        self._fault = options.requested_fault
        self._delay = options.token_seconds
        self._jobs: dict[int, _Job] = {}
        self._embeds: deque[tuple[int, EmbedRequest]] = deque()

    def load(self, progress: Progress) -> Capabilities:
        for step in range(LOADING_STEPS if self._options.ready_seconds else 0):
            progress(100 * step / LOADING_STEPS, "waiting, as ready_delay says")
            time.sleep(self._options.ready_seconds / LOADING_STEPS)
        if self._fault.kind == "start":
            raise VestalError("the echo backend was asked to fail: fault = 'start'", hint="leave `fault` out")
        return capabilities_of(self._options)

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        self._jobs[job] = _Job(script_of(request, self._fault), time.monotonic() + self._delay)

    def embed(self, job: int, request: EmbedRequest) -> None:
        if not self._options.embed:
            super().embed(job, request)
        self._embeds.append((job, request))

    def count(self, request: CountRequest) -> int:
        return count_words(request)

    def cancel(self, job: int) -> None:
        self._jobs.pop(job, None)
        self._embeds = deque(waiting for waiting in self._embeds if waiting[0] != job)

    @property
    def busy(self) -> bool:
        return bool(self._embeds) or any(not job.hangs for job in self._jobs.values())

    def step(self) -> StepOutput:
        output: StepOutput = []
        if self._embeds:
            number, request = self._embeds.popleft()
            output.append((number, embedded(request)))
        due = self._due()
        for number in due:
            self._play(number, self._jobs[number], output)
        return output

    def _due(self) -> list[int]:
        """The jobs whose next token may be given now; waits a little if there are none, and nothing else to do."""
        playing = {number: job for number, job in self._jobs.items() if not job.hangs}
        if not self._delay:
            return list(playing)
        now = time.monotonic()
        due = [number for number, job in playing.items() if job.due <= now]
        if not due and playing and not self._embeds:
            time.sleep(min(min(job.due for job in playing.values()) - now, NAP))
        return due

    def _play(self, number: int, job: _Job, output: StepOutput) -> None:
        script = job.script
        if job.given < len(script.pieces):
            output.append((number, TextEvent(script.pieces[job.given])))
            job.given += 1
            job.due += self._delay
        elif script.crash:
            os.abort()
        if job.given == len(script.pieces) and script.end is not None:
            output.append((number, script.end))
            del self._jobs[number]

    def close(self) -> None:
        if self._fault.kind == "ignore_stop":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                signal.pause()
        self._jobs.clear()

    def __repr__(self) -> str:
        return f"<EchoEngine {len(self._jobs)} of {self._options.slots} slots, {len(self._embeds)} embeddings wait>"

"""Engines for the tests, loaded in the worker: this folder is put on the child's import path."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable

from vestal.backend import (
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    PromptEvent,
    TextEvent,
)
from vestal.errors import InvalidRequest, VestalError
from vestal.values import Capabilities, Usage
from vestal_adapters.worker.engine import Engine, Progress, StepOutput


class PuppetOptions(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`at_load` and `at_submit` name what to do then; `raw` are bytes to put on the pipe past the protocol.

    `model` is what it is to serve, which it says that it does unless `claims` is something else.
    """

    model: str = ""
    claims: str = ""
    at_load: str = ""
    at_submit: str = ""
    at_step: str = ""
    raw: bytes = b""


class Puppet(Engine):
    """Says "x " for ever, or `max_tokens` times. `count` tells how many jobs the engine has: the test's window."""

    Options = PuppetOptions

    def __init__(self, options: PuppetOptions) -> None:
        self.options = options
        self.jobs: dict[int, int] = {}
        self.embeds: list[int] = []

    def load(self, progress: Progress) -> Capabilities:
        progress(10.0, "first part")
        self._do(self.options.at_load)
        progress(90.0, "second part")
        progress(50.0, "an engine that counts back")
        return Capabilities(count=True, embed=True, slots=8, model=self._model())

    def _model(self) -> str:
        if self.options.claims == "nothing":
            return ""
        return self.options.claims or self.options.model or os.environ.get("PUPPET_MODEL", "")

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        self._do(self.options.at_submit)
        text = str(request.messages[-1].content)
        if text == "refuse":
            raise InvalidRequest("not this one", details={"field": "messages"})
        if text == "bug":
            raise KeyError(text + " quoting the prompt")
        self.jobs[job] = request.options.max_tokens or -1

    def embed(self, job: int, request: EmbedRequest) -> None:
        self.embeds.append(job)

    def count(self, request: CountRequest) -> int:
        return len(self.jobs) + len(self.embeds)

    def cancel(self, job: int) -> None:
        self.jobs.pop(job, None)
        self.embeds = [waiting for waiting in self.embeds if waiting != job]

    @property
    def busy(self) -> bool:
        return bool(self.jobs)

    def step(self) -> StepOutput:
        self._do(self.options.at_step)
        output: StepOutput = []
        for job, left in list(self.jobs.items()):
            output.append((job, TextEvent("x ")))
            self.jobs[job] = left - 1
            if left == 1:
                del self.jobs[job]
                output.append((job, EndEvent("length", Usage(1, 0, 1))))
        return output

    def close(self) -> None:
        self.jobs.clear()

    def _do(self, deed: str) -> None:
        if deed:
            what, _, argument = deed.partition(":")
            DEEDS[what](self, argument)


def _pipe() -> int:
    return int(sys.argv[sys.argv.index("--fd") + 1])


def _say_and_exit(puppet: Puppet, status: str) -> None:
    sys.stderr.write("something went wrong\n\nfile not readable: /models/x\n")
    sys.stderr.flush()
    os._exit(int(status))


def _raise(puppet: Puppet, kind: str) -> None:
    if kind == "vestal":
        raise VestalError("the model is of a family that nobody knows", hint="take another one")
    raise KeyError("words of the prompt")


def _write(puppet: Puppet, argument: str) -> None:
    os.write(_pipe(), puppet.options.raw)


def _sleep(puppet: Puppet, seconds: str) -> None:
    time.sleep(float(seconds))


def _show(puppet: Puppet, argument: str) -> None:
    os.environ["PUPPET_MODEL"] = json.dumps(sorted(os.environ))


def _shut(puppet: Puppet, argument: str) -> None:
    """Leave the pipe, and live on: deaf and mute, but not dead."""
    os.close(_pipe())
    time.sleep(3600)


def _kill(puppet: Puppet, number: str) -> None:
    os.kill(os.getpid(), int(number))
    signal.pause()


def _chatter(puppet: Puppet, amount: str) -> None:
    sys.stdout.write("tensor\n" * (int(amount) // 7))
    sys.stdout.flush()


DEEDS: dict[str, Callable[[Puppet, str], None]] = {
    "chatter": _chatter,
    "exit": _say_and_exit,
    "kill": _kill,
    "raise": _raise,
    "show": _show,
    "shut": _shut,
    "sleep": _sleep,
    "write": _write,
}


class BadVectors(Puppet):
    """Answers every embedding with vectors nobody asked for."""

    @property
    def busy(self) -> bool:
        return bool(self.embeds)

    def step(self) -> StepOutput:
        job = self.embeds.pop()
        return [(job, EmbedResult(count=3, dimensions=1, data=b"\0" * 12, input_tokens=0))]


class Impossible(Puppet):
    """Each job gets what no frame can carry, or no engine can mean, as the request's text says."""

    def __init__(self, options: PuppetOptions) -> None:
        super().__init__(options)
        self.texts: dict[int, str] = {}

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        super().submit(job, request)
        self.texts[job] = str(request.messages[-1].content)

    def step(self) -> StepOutput:
        output = super().step()
        for job in self.jobs:
            if self.texts[job] == "surrogate":
                output += [(job, TextEvent("ok ")), (job, TextEvent("\ud800"))]
            elif self.texts[job] == "usage":
                output.append((job, EndEvent("end", Usage(1, 5, 0))))
            elif self.texts[job] == "prompt":
                output.append((job, PromptEvent(-1)))
        return output

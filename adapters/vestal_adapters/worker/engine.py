"""What runs inside a worker: an engine that the child's plain loop drives one step at a time.

The child has no event loop. It polls its pipe, hands new jobs to the engine, calls `step()` once for all of
them, sends what came out in one write, and polls again. So a job joins, leaves or is cancelled between two
steps, and an engine that batches needs nothing more than this.

An engine names jobs by the host's numbers. It raises `vestal.errors.WireError` from `submit`, `embed` and
`count` for what it will not run; an exception of any other kind is a bug and costs that job `internal`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

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
    ThinkingEvent,
    ToolUseEvent,
)
from vestal.errors import Unsupported, WireError
from vestal.values import Capabilities

__all__ = ["Engine", "EngineEvent", "Progress", "StepOutput"]

EngineEvent = PromptEvent | TextEvent | ThinkingEvent | ToolUseEvent | EndEvent | EmbedResult | WireError
StepOutput = list[tuple[int, EngineEvent]]
"""(job, event) in the order they happened. `EndEvent`, `EmbedResult` and `WireError` end their job."""

Progress = Callable[[float, str], None]
"""(percent 0 to 100, what is being done)."""


class Engine(ABC):
    """One loaded model, made in the child from the adapter's options: `open`, then the sandbox, then `load`."""

    Options: ClassVar[type[BackendOptions]] = BackendOptions

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on an NVIDIA GPU, so that the sandbox has to leave it the driver's devices."""
        return False

    def open(self, progress: Progress) -> Sequence[int]:
        """Open, verify and hold the files that `load` reads; called before the sandbox and parsing nothing.

        Returns the descriptors of files on disk, so that the sandbox lets `load` open them again by
        `/proc/self/fd/N`; a memfd needs no rule. No thread may be left running. Raises as `load` does.
        """
        return ()

    @abstractmethod
    def load(self, progress: Progress) -> Capabilities:
        """Load the model; raise `VestalError` with what is wrong and what to do.

        Where the options have a `model`, that is the capabilities' too: requests go by it, and no worker may choose it.
        """

    @abstractmethod
    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        """Take a generation job; at most `capabilities.slots` at once."""

    def embed(self, job: int, request: EmbedRequest) -> None:
        """Take an embedding job; any number may wait."""
        raise Unsupported("this engine does not embed", details={"option": "embed"})

    def count(self, request: CountRequest) -> int:
        """Input tokens of a conversation; answered between two steps, without a slot."""
        raise Unsupported("this engine does not count tokens", details={"option": "count"})

    @abstractmethod
    def cancel(self, job: int) -> None:
        """Forget a job and free what it held; unknown and ended jobs are no error. No event follows for it."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether `step()` has something to do."""

    @abstractmethod
    def step(self) -> StepOutput:
        """Advance every job by one step: at most one decode of the native library, so that it stays short."""

    @abstractmethod
    def close(self) -> None:
        """Free the model. Idempotent."""

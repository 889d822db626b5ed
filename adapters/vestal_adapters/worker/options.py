"""What every adapter with a worker lets its operator choose: how the worker is confined, and when it counts as dead."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from vestal.backend import BackendOptions
from vestal.durations import parse_duration
from vestal.options import DurationText, Trait, about
from vestal_adapters.worker.sandbox import SandboxMode

__all__ = ["WorkerOptions"]


class WorkerOptions(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the options of an adapter with a worker."""

    sandbox: Annotated[
        SandboxMode,
        about('how its worker is confined; "best_effort" goes without the layers that the kernel lacks', "best_effort"),
    ] = "required"
    memory_limit: Annotated[
        Annotated[int, Meta(ge=2**26)] | None,
        about("most bytes of private memory for its worker; by default any", 4 * 2**30),
        Trait(unit="bytes"),
    ] = None
    """A mapped model file does not count. What is refused shows as a failure to allocate, which may end the worker."""
    heartbeat: Annotated[
        DurationText, about("how long its worker may give no answer before it is killed and replaced", "1m")
    ] = "30s"
    """A step is never cut short, so it must be longer than the longest: `batch` tokens of prefill."""

    def __post_init__(self) -> None:
        try:
            seconds = parse_duration(self.heartbeat)
        except ValueError as exc:
            raise ValueError(f"heartbeat: {exc}") from None
        if seconds <= 0:
            raise ValueError("heartbeat: an answer takes longer than 0 seconds")

    @property
    def heartbeat_seconds(self) -> float:
        return parse_duration(self.heartbeat)

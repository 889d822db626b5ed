"""What a `[[backend]]` table with `adapter = "echo"` may hold.

Durations may be strings ("10ms", "5m") or seconds, as TOML gives them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from vestal.durations import parse_duration
from vestal.options import DurationText, Trait, about
from vestal_adapters.worker.options import WorkerOptions

__all__ = ["EchoOptions", "Fault"]

LEGAL_FAULTS = '"", "start", "before", "after:N", "hang", "ignore_stop", or, with isolation = "process", "crash:N"'
_FAULT = re.compile(r"start|before|hang|ignore_stop|(?P<kind>after|crash):(?P<count>[0-9]{1,9})")


class Fault(Struct, frozen=True):
    """A fault on request; `count` is the N of `after:N` and `crash:N`."""

    kind: Literal["", "start", "before", "after", "hang", "ignore_stop", "crash"] = ""
    count: int = 0


class EchoOptions(WorkerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the echo backend; those of a worker mean something with `isolation = "process"`."""

    slots: Annotated[int, Meta(ge=1, le=4096), about("requests that run at once", 4)] = 1
    ready_delay: Annotated[DurationText, about("how long loading takes; it reports percent on the way", "3s")] = "0s"
    token_delay: Annotated[DurationText, about("pause before each token", "20ms")] = "0s"  # noqa: S105  # not that kind of token
    v2: Annotated[bool, about("whether it speaks version 2", False)] = True
    embed: Annotated[bool, about("whether it embeds: deterministic vectors of 8 dimensions", True)] = False
    fault: Annotated[str, about("what goes wrong", "after:3"), Trait(form=LEGAL_FAULTS)] = ""
    isolation: Annotated[
        Literal["none", "process"], about('"process" runs it in a worker, like any native engine', "process")
    ] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("ready_delay", "token_delay"):
            try:
                parse_duration(getattr(self, option))
            except ValueError as exc:
                raise ValueError(f"{option}: {exc}") from None
        if self.requested_fault.kind == "crash" and self.isolation != "process":
            raise ValueError(f'fault: {self.fault!r} kills a worker, so it needs isolation = "process"')

    @property
    def ready_seconds(self) -> float:
        return parse_duration(self.ready_delay)

    @property
    def token_seconds(self) -> float:
        return parse_duration(self.token_delay)

    @property
    def requested_fault(self) -> Fault:
        """`fault`, parsed; raises `ValueError` that names the legal forms."""
        match = _FAULT.fullmatch(self.fault)
        if match is None and self.fault:
            raise ValueError(f"fault: {self.fault[:64]!r} is none of {LEGAL_FAULTS}")
        if match is None or match["kind"] is None:
            return Fault(kind=self.fault)  # type: ignore[arg-type]  # the pattern lists the literals
        return Fault(kind=match["kind"], count=int(match["count"]))  # type: ignore[arg-type]  # the same

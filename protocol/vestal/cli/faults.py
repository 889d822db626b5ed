"""A configuration that the daemon will not have: every fault in it on a line of stderr."""

from __future__ import annotations

from vestal import InvalidRequest
from vestal.cli.failures import FAILED
from vestal.cli.terminal import Screen

__all__ = ["told"]


def told(refused: InvalidRequest) -> int:
    """The exit code, once they are told. Raises `refused` again if it is about something else."""
    faults = refused.details.get("faults")
    if not isinstance(faults, list):
        raise refused
    screen = Screen()
    for fault in faults:
        screen.note(f"vestal: {fault}")
    screen.note("vestal: nothing was changed")
    return FAILED

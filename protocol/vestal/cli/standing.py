"""How a backend stands, in a few words: its state, and what keeps requests from it although it is ready. Pure."""

from __future__ import annotations

from math import ceil

from vestal import messages as m

__all__ = ["COLOURS", "colour_of", "standing"]

COLOURS = {
    "ready": "green", "starting": "yellow", "loading": "yellow", "draining": "yellow", "stopping": "yellow",
    "unavailable": "red", "failed": "red",
}  # fmt: skip
"""Of the states of the daemon and of backends."""


def standing(backend: m.BackendStatus) -> str:
    """`ready`, `ready, draining`, `ready, cold 22 s` while its breaker is open, `ready, on trial` half open."""
    words: list[str] = [backend.state]
    if backend.draining:
        words.append("draining")
    if backend.breaker.state == "open":
        left = backend.breaker.cold_ms
        words.append("cold" if left is None else f"cold {ceil(left / 1000)} s")
    elif backend.breaker.state == "half_open":
        words.append("on trial")
    return ", ".join(words)


def colour_of(backend: m.BackendStatus) -> str:
    """The colour of its standing; none for a state that needs no looking at."""
    if backend.state != "ready":
        return COLOURS.get(backend.state, "")
    if backend.breaker.state == "open":
        return "red"
    return "yellow" if backend.draining or backend.breaker.state == "half_open" else "green"

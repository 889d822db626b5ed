"""Refusals in the log: the first at once, the rest summed up, and an end told too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vestald import digest
from vestald.digest import Digest
from vestald.events import EventHub


def run(monkeypatch: pytest.MonkeyPatch, period: float, *, rings: int) -> list[dict[str, Any]]:
    """What is told of a hundred refusals in one turn, and of a failure after the period has rung `rings` times."""
    monkeypatch.setattr(digest, "_PERIOD", period)
    told: list[dict[str, Any]] = []

    async def live() -> None:
        events, rang = EventHub(), asyncio.Event()
        summary = Digest(events)
        events.subscribe(summary.event)

        def hear(_seq: int, kind: str, facts: dict[str, Any]) -> None:
            if kind == "refusals":
                told.append(facts)
                rang.set()

        events.subscribe(hear)
        for code in ["queue_full"] * 99 + ["malformed_frame"]:
            events.emit("refused", level="debug", code=code)
        events.emit("daemon_state", state="ready")
        for _ in range(rings):
            rang.clear()
            await rang.wait()
        events.emit("request_failed", level="debug", code="internal")
        summary.close()
        summary.close()

    asyncio.run(live())
    return told


def test_the_first_is_told_at_once_and_the_others_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, 0.01, rings=1) == [
        {"codes": {"queue_full": 1}, "seconds": 0.0},
        {"codes": {"queue_full": 98, "malformed_frame": 1}, "seconds": 0.01},
        {"codes": {"internal": 1}, "seconds": 0.01},
    ]


def test_what_is_left_at_the_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, 1000.0, rings=0) == [
        {"codes": {"queue_full": 1}, "seconds": 0.0},
        {"codes": {"queue_full": 98, "malformed_frame": 1, "internal": 1}, "seconds": 1000.0},
    ]

"""Waiting for seconds in which this process runs: what holds the event loop up is not counted, within a bound."""

from __future__ import annotations

import asyncio
import time

import pytest

from vestald import patience
from vestald.patience import wait_awake

HELD_UP = 0.2  # seconds of each turn


async def steps(number: int, taken: list[int]) -> None:
    """Something that takes turns of the loop, each of which the machine holds up."""
    for turn in range(number):
        taken.append(turn)
        time.sleep(HELD_UP)
        await asyncio.sleep(0)


def test_what_is_done_in_time_of_its_own_is_not_late() -> None:
    async def main() -> None:
        slow = asyncio.ensure_future(steps(3, []))
        assert await wait_awake({slow}, 0.4) == ({slow}, set())

    asyncio.run(main())


def test_what_never_ends_is_late_after_the_timeout() -> None:
    async def main() -> None:
        never = asyncio.get_running_loop().create_future()
        done = asyncio.ensure_future(asyncio.sleep(0))
        began = time.monotonic()
        assert await wait_awake({never, done}, 0.1) == ({done}, {never})
        assert time.monotonic() - began >= 0.1

    asyncio.run(main())


def test_a_loop_that_is_always_late_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_MOST_HELD_UP", 0.5)
    taken: list[int] = []

    async def main() -> None:
        hog = asyncio.ensure_future(steps(1000, taken))
        never = asyncio.get_running_loop().create_future()
        assert await wait_awake({never}, 2.0) == (set(), {never})
        hog.cancel()

    asyncio.run(main())
    assert len(taken) < 20, "its forty slices would be as many turns"

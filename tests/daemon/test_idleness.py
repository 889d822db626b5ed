"""Leaving when nobody is connected: only a ready daemon, only with a limit, and not once somebody came."""

from __future__ import annotations

import asyncio

from vestald.idleness import IdleExit


def test_it_leaves_after_the_limit_and_says_why() -> None:
    async def watch() -> str:
        why: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        idle = IdleExit(0.01, why.set_result)
        idle.saw(1, ready=True)
        assert repr(idle) == "<IdleExit needed limit=0.01>"
        idle.saw(0, ready=True)
        idle.saw(0, ready=True)
        return await why

    assert asyncio.run(watch()) == "nobody was connected for 0.01 s (daemon.idle_exit = 0.01 s)"


def test_somebody_who_comes_stops_the_clock_and_whoever_goes_starts_it_anew() -> None:
    async def watch() -> list[float]:
        loop = asyncio.get_running_loop()
        idle = IdleExit(60.0, lambda _: None)
        ends = []
        for connections in (0, 1, 0):
            idle.saw(connections, ready=True)
            ends.append(0.0 if idle._timer is None else idle._timer.when())
        idle.saw(1, ready=True)
        assert loop.time() + 60 >= ends[2]
        return ends

    first, none, second = asyncio.run(watch())
    assert none == 0.0
    assert second > first


def test_one_that_loads_or_drains_stays_and_so_does_one_without_a_limit() -> None:
    async def watch() -> None:
        idle = IdleExit(0.0, lambda _: None)
        idle.saw(0, ready=False)
        assert idle._timer is None
        forever = IdleExit(None, lambda _: None)
        forever.saw(0, ready=True)
        assert forever._timer is None

    asyncio.run(watch())


def test_the_first_is_waited_for_longer() -> None:
    async def watch() -> float:
        loop = asyncio.get_running_loop()
        idle = IdleExit(0.01, lambda _: None)
        now = loop.time()
        idle.saw(0, ready=True)
        assert idle._timer is not None
        return idle._timer.when() - now

    assert asyncio.run(watch()) >= 5.0

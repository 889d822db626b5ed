"""Whether new work is taken, in every state of the daemon's life."""

from __future__ import annotations

import asyncio

import pytest

from vestal.errors import ShuttingDown
from vestal.values import LifecycleState
from vestald.config import BackendTable, Config
from vestald.house import House
from vestald.lifecycle import DAEMON

CONFIG = Config(backends=(BackendTable(name="echo", adapter="echo", options={}),))


@pytest.mark.parametrize("state", sorted(DAEMON))
def test_work_is_refused_only_once_the_daemon_leaves(state: LifecycleState) -> None:
    async def ask() -> None:
        house = House(CONFIG, lambda _deadline, _why: None)
        house.machine.state = state
        house.refuse_new_work()

    if state in ("loading", "ready"):  # loading: between the gate's two binds
        asyncio.run(ask())
    else:
        with pytest.raises(ShuttingDown, match=f"the daemon is {state}"):
            asyncio.run(ask())

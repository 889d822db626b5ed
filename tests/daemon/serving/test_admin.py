"""Each command of an operator is looked at anew, whatever let the connection in."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.daemon.inside import Scripted, daemon
from vestal import messages as m
from vestald.entrance.peer import Peer


def test_a_session_that_is_no_operators_may_command_nothing(short_dir: Path) -> None:
    async def live() -> None:
        async with daemon(short_dir / "r", Scripted()) as inside:
            operator = await inside.call("admin")
            (session,) = inside.app.house.sessions
            session.peer = Peer(pid=1, uid=12345, gid=0, groups=(0,))
            for command in (m.Drain(id=1), m.Stop(id=2), m.Status(id=3)):
                operator.send(command)
                error = await operator.error(command.id)
                assert (error.code, error.details) == ("not_authorized", {"rule": "owner", "uid": 12345})
            assert inside.app.house.state == "ready"

    asyncio.run(live())

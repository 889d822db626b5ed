"""A thousand connections that say nothing: dropped at the handshake's deadline, and nobody else notices them.

How little a good client notices is `python -m benchmarks silent`'s to measure.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import RawPeer
from vestal import messages as m

SILENT = 1000
FILES = 4 * SILENT


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Let this process have its end of all those connections open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"the system lets a process open {hard} files, and {FILES} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def crowd(stack: ExitStack, daemon: Daemon) -> list[RawPeer]:
    """Connections that say nothing, or half a length, or a frame's beginning."""
    peers = [stack.enter_context(daemon.raw("infer")) for _ in range(SILENT)]
    for index, peer in enumerate(peers):
        if said := (b"", b"\0\0", b"\0\0\0\x40\x82\xa4type")[index % 3]:
            with suppress(BrokenPipeError):  # one too many, and told so already
                peer.write(said)
    return peers


def only_one_is_left(daemon: Daemon) -> bool:
    """Whether the daemon has let go of all but the operator who asks; asked until it is so."""
    with daemon.admin() as admin:
        while admin.command(m.Status(id=1), m.StatusReport).connections > 1:
            pass
    return True


def test_silent_connections_are_dropped_at_the_deadline_and_a_good_client_is_served_meanwhile(start: Start) -> None:
    daemon = start(
        echo(slots=4),
        sockets={"handshake_timeout": "1s", "connections_per_uid": 2 * SILENT},
        open_files=FILES,
    )
    with ExitStack() as stack:
        good = stack.enter_context(daemon.infer(client="good"))
        silent = crowd(stack, daemon)
        assert good.generate(1)[1].stop_reason == "end"
        for id, peer in enumerate(silent, 2):
            if id % 20 == 0:
                assert good.generate(id)[1].stop_reason == "end"
            error = peer.error()
            assert error["code"] == "deadline_exceeded"
            assert peer.read() is None
        with daemon.infer(client="newcomer") as newcomer:
            assert newcomer.generate(1)[1].stop_reason == "end"
        assert good.generate(1)[1].stop_reason == "end"
    assert only_one_is_left(daemon)


def test_one_users_silent_connections_cannot_take_more_places_than_one_user_has(start: Start) -> None:
    daemon = start(
        echo(),
        sockets={"handshake_timeout": "1s", "connections_per_uid": 100},
        open_files=FILES,
    )
    with ExitStack() as stack:
        good = stack.enter_context(daemon.infer(client="good"))
        codes = [peer.error()["code"] for peer in crowd(stack, daemon)]
        assert codes[0] == "deadline_exceeded"
        assert set(codes) == {"deadline_exceeded", "queue_full"}
        assert good.generate(1)[1].stop_reason == "end"
    assert only_one_is_left(daemon)

"""Mangled frames through the sockets of a running daemon: each is answered or hung up on, and the daemon stays calm.

A twentieth of VESTAL_FUZZ goes to each kind of connection. After every frame the daemon is asked something, so that
what it said of the frame is all here.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import RawPeer, framed
from tests.fuzz.corpus import PLACES, Place, frames
from tests.fuzz.mangler import Mangler, unfinished
from vestal import messages as m
from vestal.codec import Codec
from vestal.errors import ERROR_CLASSES, WireError
from vestal.framing import FrameReader

FRAMES = int(os.environ.get("VESTAL_FUZZ", "5000")) // 20
OF_ONE = 50  # frames that one connection is given, unless it ends before
MARK = {"type": "ping", "nonce": 2**40}
OBEYED: Codec[m.AnyMessage] = Codec(m.AdminRequest)
EVERY = [place for places in PLACES.values() for place in places]

pytestmark = pytest.mark.timeout(60 + FRAMES // 10)


def would_stop(data: bytes) -> bool:
    """Whether an operator's frame is a command that ends, or holds up, what the others are to be asked."""
    try:
        said = [OBEYED.decode(payload) for payload in FrameReader(2**32).feed(data)]
    except WireError:
        return False
    commands = m.Stop | m.Drain | m.RemoveBackend | m.DrainBackend | m.RestartBackend
    return any(isinstance(message, commands) for message in said)


def is_mark(frame: dict[str, Any]) -> bool:
    """The answer to `MARK`: before the handshake it is refused."""
    if frame["type"] == "pong":
        return bool(frame["nonce"] == MARK["nonce"])
    return frame.get("code") == "unknown_message" and bool(frame["details"]["type"] == "ping")


def errors_after(peer: RawPeer, data: bytes) -> tuple[list[str], bool]:
    """The codes of the errors that the data brought, and whether the connection goes on."""
    codes: list[str] = []
    with suppress(BrokenPipeError, ConnectionResetError):  # it was hung up on before all was sent
        peer.write(data)
        if unfinished(data):
            peer.half_close()
        else:
            peer.write(framed(MARK))
    with suppress(ConnectionResetError):  # and had not read all
        while (frame := peer.read()) is not None:
            if is_mark(frame):
                return codes, True
            if frame["type"] == "error":
                codes.append(frame["code"])
    return codes, False


def besiege(daemon: Daemon, place: Place, seed: int, seen: Counter[str]) -> None:
    mangler = Mangler(frames(place, "client"), seed)
    left = FRAMES
    while left > 0:
        with daemon.raw(*place) as peer:
            for _ in range(OF_ONE if place[1] is not None else 1):
                left -= 1
                data = mangler.frame()
                if place[0] == "admin" and would_stop(data):
                    continue
                codes, goes_on = errors_after(peer, data)
                seen.update(codes or ["taken" if goes_on else "hung up"])
                assert "internal" not in codes
                closing = [code for code in codes if ERROR_CLASSES[code].closes]
                assert len(closing) <= 1
                if not goes_on:
                    assert closing, f"it was not told why: {codes} after {data!r}"
                    assert codes[-1:] == closing
                    break


def test_a_daemon_that_is_sent_mangled_frames_answers_and_goes_on(start: Start) -> None:
    daemon = start(echo(embed=True, slots=8), echo("v1", v2=False), echo("guest", isolation="process", slots=4))
    seen: Counter[str] = Counter()
    with daemon.infer(client="bystander") as bystander:
        for seed, place in enumerate(EVERY):
            besiege(daemon, place, 400 + seed, seen)
            assert bystander.generate(1 + seed, "still being served")[0] == "still being served"
    print(dict(seen))
    assert {"malformed_frame", "frame_too_large", "invalid_request", "unknown_message", "taken"} <= set(seen), seen
    assert daemon.backend("guest").restarts == 0
    with daemon.admin() as admin:
        assert 'outcome="internal"' not in admin.command(m.Metrics(id=1), m.MetricsReport).text
    logged = [line for line in daemon.stderr.splitlines() if line.startswith("{")]
    levels = Counter(msgspec.json.decode(line)["level"] for line in logged)
    assert set(levels) <= {"debug", "info", "warning"}, daemon.stderr

"""The scripted daemon is as strict as a real one, and what goes wrong in a script reaches the test."""

from __future__ import annotations

from pathlib import Path

import pytest

import vestal
from vestal import messages as m
from vestal.errors import LocalProtocolError
from vestal.testing import Gone, Peer, Script, ScriptedDaemon, done, echo


def test_a_script_that_expects_something_else_fails_the_block() -> None:
    with pytest.raises(AssertionError, match=r"expected Count, the client sent GenerateV2"):
        _generate_once(lambda peer: _ignore(peer.expect(m.Count)))


def test_a_client_that_leaves_too_early_fails_the_block() -> None:
    with pytest.raises(Gone, match="has closed its end"):
        _generate_once(_expect_two)


def _generate_once(script: Script) -> None:
    with ScriptedDaemon(infer=script) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        client.generate("Hi")


def _ignore(message: object) -> None:
    pass


def _expect_two(peer: Peer) -> None:
    peer.send(done(peer.expect(m.GenerateV2).id))
    peer.expect(m.GenerateV2)


def test_a_test_that_fails_by_itself_keeps_its_own_error() -> None:
    def fail_by_itself() -> None:
        with ScriptedDaemon(infer=_expect_two) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
            client.connect()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_by_itself()


def test_a_script_cannot_send_what_a_daemon_may_not() -> None:
    def script(peer: Peer) -> None:
        request = peer.expect(m.GenerateV2)
        peer.send(done(request.id))
        with pytest.raises(LocalProtocolError, match="not in flight"):
            peer.send(done(request.id))

    with ScriptedDaemon(infer=script) as daemon, vestal.Client(runtime_dir=daemon.runtime_dir) as client:
        client.generate("Hi")


def test_scripts_play_in_order_and_the_last_stays() -> None:
    def first(peer: Peer) -> None:
        peer.send(done(peer.expect(m.GenerateV2).id, "length"))

    with ScriptedDaemon(infer=[first, echo]) as daemon:
        for expected in ("length", "end", "end"):
            with vestal.Client(runtime_dir=daemon.runtime_dir) as client:
                assert client.generate("Hi").stop_reason == expected


def test_sockets_appear_and_vanish_and_a_directory_of_its_own_goes_with_it(short_dir: Path) -> None:
    with ScriptedDaemon() as daemon:
        client = vestal.Client(runtime_dir=daemon.runtime_dir)
        with pytest.raises(vestal.DaemonNotRunning):
            client.connect()
        daemon.open("infer", echo)
        with client:
            client.connect()
        daemon.close("infer")
        assert not daemon.path("infer").exists()
    assert not daemon.runtime_dir.exists()
    with ScriptedDaemon(infer=echo, runtime_dir=short_dir) as elsewhere:
        assert elsewhere.path("infer") == short_dir / "infer.sock"
    assert short_dir.exists()

"""Who may use a socket is what the kernel says of who connected: rules by user and group, passed descriptors, lies."""

from __future__ import annotations

import os
import socket
import stat
import struct
from typing import Any

import msgspec
import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from tests.e2e.peers import Peer, RawPeer, framed
from tests.e2e.users import connected_as, needs_root, open_to_all
from vestal import messages as m
from vestal.audit_files import file_names, lines_of
from vestal.connection import SocketKind

pytestmark = needs_root

ANN, BOB, STAFF = 12345, 12346, 23456
HELLO = framed({"type": "hello", "versions": [2], "client": "root says it is root"})


class Handed(RawPeer):
    """A peer on a connection that somebody else made."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(20.0)
        self._data = bytearray()


def greeting(daemon: Daemon, kind: SocketKind, uid: int, groups: tuple[int, ...] = ()) -> dict[str, Any]:
    """What a user is answered: a `welcome`, or the `error` and then the end of the connection."""
    with Handed(connected_as(daemon.path(kind), uid, groups)) as peer:
        peer.write(HELLO)
        said = peer.read()
        assert said is not None
        if said["type"] == "error":
            assert peer.read() is None
        return said


def audited(daemon: Daemon, event: str) -> list[dict[str, Any]]:
    where = daemon.home / f"audit-{daemon.runtime_dir.name}"
    lines = [msgspec.json.decode(line) for name in file_names(where) for line in lines_of(where / name)]
    return [line for line in lines if line["event"] == event]


def test_a_denied_user_is_told_which_rule_and_audited_and_others_are_served(start: Start) -> None:
    daemon = open_to_all(start(sockets={"mode": "0666"}, **{"sockets.infer": {"deny_users": [ANN]}}))
    refused = greeting(daemon, "infer", ANN)
    assert (refused["code"], refused["details"]) == ("not_authorized", {"rule": "deny_users", "uid": ANN})
    assert refused["message"] == f"uid {ANN} is kept out by sockets.infer.deny_users"
    assert greeting(daemon, "infer", BOB)["type"] == "welcome"
    assert daemon.stop() == 0
    (line,) = audited(daemon, "connection_refused")
    assert (line["uid"], line["gid"], line["code"], line["socket"]) == (ANN, ANN, "not_authorized", "infer")


@pytest.mark.parametrize(
    ("rules", "uid", "groups", "rule"),
    [
        ({"allow_users": [ANN]}, ANN, (), None),
        ({"allow_users": [ANN]}, BOB, (), "allow"),
        ({"allow_users": [ANN]}, BOB, (STAFF,), "allow"),
        ({"allow_groups": [STAFF]}, BOB, (STAFF,), None),
        ({"allow_groups": [BOB]}, BOB, (), None),
        ({"allow_groups": [STAFF]}, BOB, (), "allow"),
        ({"deny_groups": [STAFF]}, BOB, (7, STAFF), "deny_groups"),
        ({"allow_users": [BOB], "deny_groups": [STAFF]}, BOB, (STAFF,), "deny_groups"),
        ({"deny_groups": [STAFF]}, BOB, (*range(40_000, 40_600), STAFF), "deny_groups"),
    ],
)
def test_users_and_groups_are_the_kernels(
    start: Start, rules: dict[str, list[int]], uid: int, groups: tuple[int, ...], rule: str | None
) -> None:
    daemon = open_to_all(start(**{"sockets.infer": rules}))
    said = greeting(daemon, "infer", uid, groups)
    assert said.get("details", {}).get("rule") == rule
    assert (said["type"] == "welcome") == (rule is None)


def test_each_socket_has_rules_of_its_own(start: Start) -> None:
    rules = {"sockets.infer": {"deny_users": [ANN]}, "sockets.embed": {"deny_users": [BOB]}}
    daemon = open_to_all(start(echo(embed=True), **rules))
    assert greeting(daemon, "infer", ANN)["type"] == "error"
    assert greeting(daemon, "embed", ANN)["type"] == "welcome"
    assert greeting(daemon, "infer", BOB)["type"] == "welcome"
    assert greeting(daemon, "embed", BOB)["type"] == "error"


def test_whoever_turns_away_frees_its_place(start: Start) -> None:
    daemon = open_to_all(start(sockets={"connections_per_uid": 2}, **{"sockets.infer": {"deny_users": [ANN]}}))
    for _ in range(20):
        assert greeting(daemon, "infer", ANN)["code"] == "not_authorized"
    assert daemon.status().connections == 1


def test_an_admin_connection_of_another_user_stays_theirs_in_roots_hands(start: Start) -> None:
    daemon = open_to_all(start())
    with Handed(connected_as(daemon.path("admin"), ANN)) as peer:
        assert peer.error()["code"] == "not_authorized"
    with Handed(connected_as(daemon.path("admin"), 0)) as peer:
        peer.write(HELLO)
        assert (peer.read() or {})["type"] == "welcome"


def test_what_a_message_says_of_its_sender_is_not_believed(start: Start) -> None:
    daemon = open_to_all(start(echo(fault="hang")))
    with Handed(connected_as(daemon.path("infer"), ANN)) as peer:
        me = (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", os.getpid(), 0, 0))
        peer.sock.sendmsg([HELLO], [me])
        assert (peer.read() or {})["type"] == "welcome"
        ask = {"type": "generate", "id": 1, "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}
        peer.sock.sendmsg([framed({**ask, "uid": 0})], [me])
        peer.sock.sendmsg([framed({"type": "ping", "nonce": 1})], [me])
        assert (peer.read() or {})["type"] == "pong"
        assert [entry.uid for entry in daemon.queue().entries] == [ANN]


def test_the_sockets_modes_hold_from_the_first_moment_of_their_names(start: Start) -> None:
    daemon = start(echo(embed=True), sockets={"mode": "0600"})
    modes = {kind: stat.S_IMODE(daemon.path(kind).stat().st_mode) for kind in ("admin", "infer", "embed")}
    assert modes == {"admin": 0o600, "infer": 0o600, "embed": 0o600}
    assert stat.S_IMODE(daemon.runtime_dir.stat().st_mode) == 0o700
    assert sorted(path.name for path in daemon.runtime_dir.iterdir()) == ["admin.sock", "embed.sock", "infer.sock"]


def test_the_owner_may_be_kept_from_a_socket_and_never_from_admin(start: Start) -> None:
    daemon = start(**{"sockets.infer": {"deny_users": [0]}})
    with Peer(daemon.path("infer"), "infer") as peer:
        assert isinstance(peer.welcome, m.Error)
        assert peer.welcome.code == "not_authorized"
    assert daemon.status().state == "ready"


def test_a_rule_for_nobody_is_a_reason_not_to_start(start: Start) -> None:
    daemon = start(wait=False, **{"sockets.embed": {"allow_groups": ["no-such-group"]}})
    assert daemon.wait() == 78
    assert "sockets.embed.allow_groups: there is nobody called 'no-such-group'" in daemon.last_words[-1]

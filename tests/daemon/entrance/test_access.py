"""Who may use a socket: deny over allow, groups as the kernel has them, nobody exempt, nothing told of the others."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from vestal.errors import NotAuthorized
from vestald.config import AccessConfig
from vestald.entrance.access import Access, resolved
from vestald.entrance.peer import Peer
from vestald.failures import BadConfiguration

ANN = Peer(pid=1, uid=1000, gid=1000, groups=(4, 27))


@pytest.mark.parametrize(
    ("lists", "rule"),
    [
        ({}, None),
        ({"allow_users": {1000}}, None),
        ({"allow_users": {1001}}, "allow"),
        ({"allow_groups": {1000}}, None),
        ({"allow_groups": {27}}, None),
        ({"allow_groups": {28}}, "allow"),
        ({"allow_users": {1001}, "allow_groups": {27}}, None),
        ({"allow_users": {1001}, "allow_groups": {28}}, "allow"),
        ({"deny_users": {1000}}, "deny_users"),
        ({"deny_users": {1001}}, None),
        ({"deny_groups": {1000}}, "deny_groups"),
        ({"deny_groups": {4}}, "deny_groups"),
        ({"deny_groups": {5}}, None),
        ({"allow_users": {1000}, "deny_groups": {4}}, "deny_groups"),
        ({"allow_groups": {27}, "deny_users": {1000}}, "deny_users"),
    ],
)
def test_deny_outweighs_allow_and_an_allow_list_is_for_those_on_it(
    lists: dict[str, set[int]], rule: str | None
) -> None:
    access = Access("infer", **{name: frozenset(ids) for name, ids in lists.items()})
    assert access.broken_by(ANN) == rule


def test_root_and_the_owner_are_not_exempt() -> None:
    assert Access("infer", deny_users=frozenset({0})).broken_by(Peer(pid=1, uid=0, gid=0)) == "deny_users"
    assert Access("infer", allow_users=frozenset({7})).broken_by(Peer(pid=1, uid=os.geteuid(), gid=7)) == "allow"


def test_the_refusal_names_the_rule_and_nobody_else() -> None:
    access = Access("embed", allow_users=frozenset({4242}), deny_groups=frozenset({27, 5151}))
    with pytest.raises(NotAuthorized) as refused:
        access.check(ANN)
    assert refused.value.message == "uid 1000 is kept out by sockets.embed.deny_groups"
    assert refused.value.details == {"rule": "deny_groups", "uid": 1000}
    with pytest.raises(NotAuthorized, match=r"is on neither sockets\.embed\.allow_users nor allow_groups") as refused:
        access.check(Peer(pid=1, uid=1000, gid=1000))
    assert "4242" not in str(refused.value)
    assert "5151" not in str(refused.value)


def test_names_become_numbers_and_numbers_stay() -> None:
    me, mine = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    config = AccessConfig(allow_users=[me.pw_name, 4242], deny_groups=[mine.gr_name, 5151])
    access = resolved("infer", config)
    assert access.allow_users == {me.pw_uid, 4242}
    assert access.deny_groups == {mine.gr_gid, 5151}


@pytest.mark.parametrize("key", ["allow_users", "deny_users", "allow_groups", "deny_groups"])
def test_a_name_that_nobody_has_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(BadConfiguration, match=rf"sockets\.infer\.{key}: there is nobody called 'no-such-one'"):
        resolved("infer", AccessConfig(**{key: ["no-such-one"]}))  # type: ignore[arg-type]  # one of its fields

"""Which users may use a socket: lists of users and groups, compared with what the kernel says of the peer.

Deny outweighs allow. With an `allow_` list, only who is on one of the two may come in; without, everybody who can
open the socket may. Nobody is exempt: a rule that silently spared root or the owner would be another rule than the
one that was written. Groups are those the peer had at `connect`, primary and supplementary. Names
become numbers once, at the start.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from vestal.errors import NotAuthorized
from vestald.config import AccessConfig
from vestald.entrance.peer import Peer
from vestald.failures import BadConfiguration

__all__ = ["Access", "Rule", "require_operator", "resolved"]

Rule = Literal["deny_users", "deny_groups", "allow"]


class Access(Struct, frozen=True):
    """The rules of one socket, in numbers; `socket` is its name in messages and in the configuration."""

    socket: str
    allow_users: frozenset[int] = frozenset()
    deny_users: frozenset[int] = frozenset()
    allow_groups: frozenset[int] = frozenset()
    deny_groups: frozenset[int] = frozenset()

    def broken_by(self, peer: Peer) -> Rule | None:
        """The rule that keeps `peer` out, if one does."""
        groups = {peer.gid, *peer.groups}
        if peer.uid in self.deny_users:
            return "deny_users"
        if groups & self.deny_groups:
            return "deny_groups"
        if not (self.allow_users or self.allow_groups):
            return None
        return None if peer.uid in self.allow_users or groups & self.allow_groups else "allow"

    def check(self, peer: Peer) -> None:
        """Raise `NotAuthorized` naming the rule; who else is on the lists is nobody's business."""
        rule = self.broken_by(peer)
        if rule is None:
            return
        if rule == "allow":
            why = f"is on neither sockets.{self.socket}.allow_users nor allow_groups"
        else:
            why = f"is kept out by sockets.{self.socket}.{rule}"
        raise NotAuthorized(
            f"uid {peer.uid} {why}",
            hint="the daemon's operator decides who may use this socket",
            details={"rule": rule, "uid": peer.uid},
        )


def require_operator(peer: Peer, what: str) -> None:
    """Raise `NotAuthorized` unless the peer is the daemon's owner or root."""
    if peer.uid not in (0, os.geteuid()):
        raise NotAuthorized(
            f"uid {peer.uid} may not {what}: the admin socket is for uid {os.geteuid()} and root",
            hint="run it as that user",
            details={"rule": "owner", "uid": peer.uid},
        )


def resolved(socket: str, rules: AccessConfig) -> Access:
    """The configured rules in numbers. Raises `BadConfiguration` for a name that nobody has."""
    where = f"sockets.{socket}."
    return Access(
        socket,
        allow_users=_numbers(where + "allow_users", rules.allow_users, _uid_of),
        deny_users=_numbers(where + "deny_users", rules.deny_users, _uid_of),
        allow_groups=_numbers(where + "allow_groups", rules.allow_groups, _gid_of),
        deny_groups=_numbers(where + "deny_groups", rules.deny_groups, _gid_of),
    )


def _numbers(key: str, who: Iterable[str | int], number_of: Callable[[str], int]) -> frozenset[int]:
    numbers = set()
    for one in who:
        try:
            numbers.add(one if isinstance(one, int) else number_of(one))
        except KeyError:
            raise BadConfiguration(
                f"{key}: there is nobody called {one!r} here", hint="write a name that `getent` knows, or a number"
            ) from None
    return frozenset(numbers)


def _uid_of(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid_of(name: str) -> int:
    return grp.getgrnam(name).gr_gid

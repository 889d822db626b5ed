"""What a configuration table says about callers, by the uid that the kernel will name them with.

A key is a uid (`"1000"`), a user's name (`"alice"`) or a group (`"@staff"`: its members, and those whose own group
it is). They are resolved once, when the daemon starts. A user's own entry counts before a group's, and of several
groups the most generous.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from typing import Generic, TypeVar

from vestald.failures import BadConfiguration

__all__ = ["CallerTable"]

N = TypeVar("N", bound=float)
_MOST = 2**32 - 2  # uid_t; the highest value means nobody to the kernel


class CallerTable(Generic[N]):
    """A number a caller. Raises `BadConfiguration` naming the key that means nobody, or somebody twice."""

    def __init__(self, where: str, table: Mapping[str, N], default: N) -> None:
        self._default = default
        self._by_uid: dict[int, N] = {}
        users: dict[int, str] = {}
        for key, value in sorted(table.items(), key=lambda entry: entry[1]):
            if key.startswith("@"):
                self._by_uid.update(dict.fromkeys(_members(f'{where}."{key}"', key[1:]), value))
        for key, value in table.items():
            if not key.startswith("@"):
                uid = _uid(f'{where}."{key}"', key)
                if uid in users:
                    raise BadConfiguration(f'{where}: "{users[uid]}" and "{key}" are both uid {uid}', hint="keep one")
                users[uid], self._by_uid[uid] = key, value

    def __call__(self, uid: int) -> N:
        return self._by_uid.get(uid, self._default)

    def __repr__(self) -> str:
        return f"<CallerTable of {len(self._by_uid)} uids, else {self._default}>"


def _uid(where: str, key: str) -> int:
    if key.isascii() and key.isdigit():
        if int(key) > _MOST:
            raise BadConfiguration(f"{where}: a uid is at most {_MOST}")
        return int(key)
    try:
        return pwd.getpwnam(key).pw_uid
    except (KeyError, ValueError):  # ValueError: a NUL in it
        raise BadConfiguration(f"{where}: there is no user {key!r}", hint="`getent passwd` lists them") from None


def _members(where: str, name: str) -> set[int]:
    try:
        group = grp.getgrnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL in it
        raise BadConfiguration(f"{where}: there is no group {name!r}", hint="`getent group` lists them") from None
    everyone = pwd.getpwall()
    return {user.pw_uid for user in everyone if user.pw_gid == group.gr_gid or user.pw_name in group.gr_mem}

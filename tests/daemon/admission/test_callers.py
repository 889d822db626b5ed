"""A key of a table means the uids that the kernel will name; one that means nobody, or somebody twice, is refused."""

from __future__ import annotations

import grp
import pwd

import pytest

from vestald.admission.callers import CallerTable
from vestald.failures import BadConfiguration


def user(name: str, uid: int, gid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/sh"))


@pytest.fixture(autouse=True)
def people(monkeypatch: pytest.MonkeyPatch) -> None:
    """alice and bob of group staff (bob by his own group), and carol of guests alone."""
    users = [user("alice", 1001, 1), user("bob", 1002, 50), user("carol", 1003, 60)]
    groups = {
        "staff": grp.struct_group(("staff", "x", 50, ["alice", "gone"])),
        "guests": grp.struct_group(("guests", "x", 60, ["alice"])),
    }
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(pwd, "getpwnam", {u.pw_name: u for u in users}.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", groups.__getitem__)


def test_a_uid_a_name_and_a_group() -> None:
    table = CallerTable("weights", {"4711": 2.0, "carol": 3.0, "@staff": 0.5}, 1.0)
    assert [table(uid) for uid in (4711, 1003, 1001, 1002, 9)] == [2.0, 3.0, 0.5, 0.5, 1.0]


def test_a_users_own_entry_counts_before_a_groups_and_the_most_generous_group_counts() -> None:
    table = CallerTable("quotas", {"@guests": 10, "bob": 5, "@staff": 100}, 0)
    assert [table(uid) for uid in (1001, 1002, 1003)] == [100, 5, 10]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("nobody-here", 'weights."nobody-here": there is no user'),
        ("", "there is no user"),
        ("@nowhere", 'weights."@nowhere": there is no group'),
        ("4294967295", "a uid is at most"),
        ("-1", "there is no user"),
    ],
)
def test_a_key_that_means_nobody_is_refused(key: str, says: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        CallerTable("weights", {key: 1.0}, 1.0)
    assert says in refused.value.message


def test_one_user_under_two_names_is_refused() -> None:
    with pytest.raises(BadConfiguration, match='"1001" and "alice" are both uid 1001'):
        CallerTable("weights", {"1001": 1.0, "alice": 2.0}, 1.0)

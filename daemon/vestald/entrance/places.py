"""Who may stay connected: a bound on the connections of one uid, and one on all of them together.

Operators do not count: `admin.sock` has descriptors of its own (see `descriptors`). A bound learns how often a place
comes free from those who leave, and that is what `retry_after_ms` says to whoever finds it full. Pure: the time is
passed in.
"""

from __future__ import annotations

from vestal.errors import QueueFull

__all__ = ["Places"]

_MEMORY = 0.2  # the weight of the latest interval in the average between two who leave


class _Bound:
    """How many of `limit` places are taken, and how often one comes free."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._left_at: float | None = None
        self._interval: float | None = None

    def leave(self, now: float) -> None:
        self.taken -= 1
        if self._left_at is not None:
            latest = now - self._left_at
            self._interval = latest if self._interval is None else _mix(self._interval, latest)
        self._left_at = now

    def retry_after_ms(self) -> int | None:
        """Milliseconds until one more will have left, if those who did go on as they did."""
        return None if self._interval is None else max(1, round(1000 * self._interval))

    def __repr__(self) -> str:
        return f"{self.taken} of {self.limit}"


class Places:
    """The connections of apps, counted in all and by uid."""

    def __init__(self, in_all: int, per_uid: int) -> None:
        self._all = _Bound(in_all)
        self._per_uid = per_uid
        self._by_uid: dict[int, _Bound] = {}

    @property
    def in_all(self) -> int:
        return self._all.limit

    @in_all.setter
    def in_all(self, limit: int) -> None:
        """Those who are inside stay, however many they are."""
        self._all.limit = limit

    @property
    def per_uid(self) -> int:
        return self._per_uid

    @per_uid.setter
    def per_uid(self, limit: int) -> None:
        """Those who are inside stay, however many they are."""
        self._per_uid = limit
        for own in self._by_uid.values():
            own.limit = limit

    @property
    def taken(self) -> int:
        return self._all.taken

    def enter(self, uid: int) -> None:
        """Take a place. Raises `QueueFull` naming the bound that is reached."""
        own = self._by_uid.get(uid) or _Bound(self._per_uid)
        if own.taken >= own.limit:
            raise _full(
                own,
                "connections_per_uid",
                f"uid {uid} has {own.taken} connections, and {own.limit} is the limit for one uid",
                "close one, share one between requests, or raise sockets.connections_per_uid",
            )
        if self._all.taken >= self._all.limit:
            raise _full(
                self._all,
                "connections",
                f"{self._all.taken} connections are open, and {self._all.limit} is the limit for all users together",
                "try again later, or let the daemon have more open files (ulimit -n, LimitNOFILE=)",
            )
        own.taken += 1
        self._all.taken += 1
        self._by_uid[uid] = own

    def leave(self, uid: int, now: float) -> None:
        """Give a place back that `enter` took."""
        own = self._by_uid[uid]
        own.leave(now)
        self._all.leave(now)
        if not own.taken:
            del self._by_uid[uid]

    def __repr__(self) -> str:
        return f"<Places {self._all!r}, {self._per_uid} a uid>"


def _mix(average: float, latest: float) -> float:
    return average + _MEMORY * (latest - average)


def _full(bound: _Bound, name: str, message: str, hint: str) -> QueueFull:
    return QueueFull(
        message,
        hint=hint,
        details={"bound": name, "limit": bound.limit, "current": bound.taken},
        retry_after_ms=bound.retry_after_ms(),
    )

"""Tokens per caller and minute: what was used in the last sixty seconds, and what runs or waits now. Pure.

A request is reserved by its estimate when it is taken on, and counts so until it ends; then what it used counts
for the minute after. A request larger than the whole quota is taken when nothing else counts, and paid off later:
otherwise it could never run.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

from vestal.errors import QuotaExceeded

__all__ = ["MINUTE", "Quotas"]

MINUTE = 60.0  # seconds


class _Account:
    """One caller's tokens: held by requests that have not ended, and used by those that ended in the last minute."""

    def __init__(self) -> None:
        self.held = 0.0
        self.ended: deque[tuple[float, float]] = deque()  # (when, tokens)
        self._recent = 0.0

    def used(self, now: float) -> float:
        while self.ended and self.ended[0][0] <= now - MINUTE:
            self._recent -= self.ended.popleft()[1]
        if not self.ended:
            self._recent = 0.0  # no rounding error outlives the minute
        return self.held + self._recent

    def spend(self, tokens: float, now: float) -> None:
        if tokens:
            self.ended.append((now, tokens))
            self._recent += tokens

    def until(self, excess: float, now: float) -> float:
        """Seconds until `excess` tokens have left the minute; a whole one if what still runs must end first."""
        for when, tokens in self.ended:
            excess -= tokens
            if excess <= 0:
                return when + MINUTE - now
        return MINUTE


class Quotas:
    """Every caller's account; `limit_of(uid)` is its tokens a minute, 0 for no limit."""

    def __init__(self, limit_of: Callable[[int], int]) -> None:
        self._limit_of = limit_of
        self._accounts: defaultdict[int, _Account] = defaultdict(_Account)

    def check(self, uid: int, tokens: float, now: float) -> None:
        """Raise `QuotaExceeded` if a request of so many tokens cannot be taken on now."""
        limit = self._limit_of(uid)
        if not limit or (account := self._accounts.get(uid)) is None:
            return
        used = account.used(now)
        excess = used + min(tokens, limit) - limit
        if excess > 0:
            raise QuotaExceeded(
                f"uid {uid} has used {used:.0f} tokens in a minute and asks for about {tokens:.0f} more; "
                f"{limit} a minute are allowed",
                hint="retry after retry_after_ms, or ask for less with max_tokens",
                details={"limit": limit, "used": round(used), "asked": round(tokens)},
                retry_after_ms=max(1, round(1000 * account.until(excess, now))),
            )

    def reserve(self, uid: int, tokens: float) -> None:
        """A request was taken on. One that was taken on without a quota is not held against a later one."""
        if self._limit_of(uid):
            self._accounts[uid].held += tokens

    def settle(self, uid: int, reserved: float, used: float, now: float) -> None:
        """A request has ended: `used` tokens count instead of those `reserved`."""
        account = self._accounts.get(uid)
        if account is not None:  # also where the quota was lifted since, so that nothing stays held
            account.held = max(0.0, account.held - reserved)
            if self._limit_of(uid):
                account.spend(used, now)

    def __repr__(self) -> str:
        return f"<Quotas of {len(self._accounts)} callers>"

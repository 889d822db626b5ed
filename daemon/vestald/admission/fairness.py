"""Start-time fair queueing over a tree: callers by uid, below each its connections, below each a FIFO.

Goyal, Vin, Cheng: "Start-time Fair Queueing" (SIGCOMM 1996). Each share of a node has a start tag; the backlogged
share with the lowest tag is served, and its tag moves on by cost / weight. A share that was idle starts at the
node's virtual time: it gets no credit for not having asked.

Costs are estimates in tokens. `settle` replaces one by what was used, so over time shares are equal in tokens used,
not in tokens guessed. The virtual time is the served share's tag without what it has in flight: had it counted
guesses, a flood of overestimates would put a newcomer behind tokens that are given back later. With one slot and
true costs this is the paper's. Pure: no clock, no I/O. Amortised O(log shares) an operation.

Keys come and go (every connection is one), so a node holds no more than a few idle shares: those with something in
flight, and those that owe most.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["FairNode", "Fifo", "Item"]


class Item(Protocol):
    """What is queued: `cost` in tokens, and whether it still waits (a cancelled item stays until it is passed)."""

    cost: float

    @property
    def waiting(self) -> bool: ...


I = TypeVar("I", bound=Item)  # noqa: E741  # the item's type; the module knows no other
_COMPACT_AT = 32  # entries that are of no use any more, before they are cleared away


class Fifo(Generic[I]):
    """The leaf: one connection's requests in the order they came."""

    def __init__(self) -> None:
        self._items: deque[I] = deque()
        self.live = 0

    def push(self, item: I, keys: tuple[Hashable, ...]) -> None:
        self._items.append(item)
        self.live += 1

    def pop(self) -> I:
        while not (item := self._items.popleft()).waiting:
            pass
        self.live -= 1
        return item

    def drop(self, keys: tuple[Hashable, ...]) -> None:
        """One item has stopped waiting."""
        self.live -= 1
        if len(self._items) > 2 * self.live + _COMPACT_AT:
            self._items = deque(item for item in self._items if item.waiting)

    def settle(self, keys: tuple[Hashable, ...], charged: float, used: float) -> None:
        """A FIFO keeps no account."""

    def order(self) -> Iterator[I]:
        return (item for item in self._items if item.waiting)


class _Share(Generic[I]):
    __slots__ = ("child", "in_flight", "stamp", "start", "weight")

    def __init__(self, child: FairNode[I] | Fifo[I], weight: float, start: float) -> None:
        self.child = child
        self.weight = weight
        self.start = start
        self.in_flight = 0.0  # charged for items that were popped and are not settled
        self.stamp = 0  # the heap entry with this stamp is the valid one


class FairNode(Generic[I]):
    """A node whose children share by tokens; `keys` is the path from here down, one key a level."""

    def __init__(
        self,
        make_child: Callable[[], FairNode[I] | Fifo[I]],
        weight_of: Callable[[Hashable], float] = lambda _key: 1.0,
    ) -> None:
        self._make_child = make_child
        self._weight_of = weight_of
        self._shares: dict[Hashable, _Share[I]] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._stamp = 0
        self.virtual_time = 0.0
        self.live = 0

    def push(self, item: I, keys: tuple[Hashable, ...]) -> None:
        key = keys[0]
        share = self._shares.get(key) or self._open(key)
        was_idle = not share.child.live
        share.child.push(item, keys[1:])
        self.live += 1
        if was_idle:
            share.start = max(share.start, self.virtual_time)
            self._enter(key, share)

    def pop(self) -> I:
        """The next item; the caller has seen `live` > 0."""
        while True:
            _, stamp, key = heapq.heappop(self._heap)
            share = self._shares.get(key)
            if share is not None and share.stamp == stamp and share.child.live:
                break
        self.virtual_time = max(self.virtual_time, share.start - share.in_flight / share.weight)
        item = share.child.pop()
        self.live -= 1
        share.start += item.cost / share.weight
        share.in_flight += item.cost
        if share.child.live:
            self._enter(key, share)
        return item

    def drop(self, keys: tuple[Hashable, ...]) -> None:
        self._shares[keys[0]].child.drop(keys[1:])
        self.live -= 1

    def settle(self, keys: tuple[Hashable, ...], charged: float, used: float) -> None:
        """An item popped under `keys` is over: it was charged `charged` tokens and has used `used`."""
        share = self._shares[keys[0]]  # never closed while something is in flight
        share.in_flight -= charged
        share.start += (used - charged) / share.weight
        share.child.settle(keys[1:], charged, used)
        if share.child.live and used != charged:
            self._enter(keys[0], share)

    def order(self) -> Iterator[I]:
        """The waiting items in the order they would be popped if nothing else happened."""
        heap = [
            (share.start, share.stamp, share.weight, share.child.order())
            for share in self._shares.values()
            if share.child.live
        ]
        heapq.heapify(heap)
        stamp = self._stamp
        while heap:
            start, _, weight, rest = heapq.heappop(heap)
            item = next(rest, None)
            if item is not None:
                yield item
                stamp += 1
                heapq.heappush(heap, (start + item.cost / weight, stamp, weight, rest))

    def reweigh(self) -> None:
        """`weight_of` answers differently now. What is in flight is charged by the new weight, what is over stays."""
        for key, share in self._shares.items():
            before, share.weight = share.weight, self._weight_of(key)
            if before != share.weight:
                share.start += share.in_flight * (1 / share.weight - 1 / before)
                if share.child.live:
                    self._enter(key, share)

    def forget(self) -> None:
        """End of a busy period: nothing waits, nothing runs; all accounts are closed."""
        self._shares.clear()
        self._heap.clear()
        self.virtual_time = 0.0

    def _open(self, key: Hashable) -> _Share[I]:
        if len(self._shares) > 2 * self.live + _COMPACT_AT:
            self._close_idle()
        share = self._shares[key] = _Share(self._make_child(), self._weight_of(key), self.virtual_time)
        return share

    def _close_idle(self) -> None:
        """Close the accounts of idle shares, but for some that owe most: the rest have no advantage to lose."""
        idle = {
            key: share.start for key, share in self._shares.items() if not share.child.live and share.in_flight <= 0
        }
        owing = sorted((key for key, start in idle.items() if start > self.virtual_time), key=idle.__getitem__)
        for key in idle.keys() - owing[-_COMPACT_AT // 2 :]:
            del self._shares[key]

    def _enter(self, key: Hashable, share: _Share[I]) -> None:
        if len(self._heap) > 2 * len(self._shares) + _COMPACT_AT:
            self._heap = [(s.start, s.stamp, k) for k, s in self._shares.items() if s.child.live and s is not share]
            heapq.heapify(self._heap)
        self._stamp += 1
        share.stamp = self._stamp
        heapq.heappush(self._heap, (share.start, self._stamp, key))

    def __repr__(self) -> str:
        return f"<FairNode live={self.live} shares={len(self._shares)} v={self.virtual_time:.0f}>"

"""Who has which sequence of the cache, and whose computed tokens may be used again. Pure: the cache is a protocol.

A slot is free or taken. A free slot keeps what its last request left in the cache, tagged with that request's
scope; a new request takes over what its own prompt begins with, and the rest is dropped. Nothing is ever compared
with, copied from or kept for another scope, so that no answer tells by its speed what somebody else has sent; what
scopes do share is the room, and it goes to whoever comes, the least recently used content first. Scope `None` uses
nothing and leaves nothing.

Where a request goes: to the free slot that holds the longest beginning of its prompt, unless that would throw away
more than it saves. Such a fork, like a beginning that a running request holds, is copied into an empty slot, else
into the least recently used. If a running request is just computing a beginning that the new one has too, the new one
waits and takes a copy then: both would otherwise compute the same. Who is waited for never waits, is at least as far
as the waiting one could be, and computes in every step; when it leaves, those who wait go on from where it was, one of
them now ahead of the others. So nobody waits for ever, or longer than computing itself would take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

__all__ = ["Memory", "Slot", "Slots", "common_prefix"]

_LEAST_COPIED = 16


class Memory(Protocol):
    """What the cache can do with a sequence. Positions count from 0."""

    def keep(self, sequence: int, count: int) -> bool:
        """Drop all but the first `count` tokens; `False` if this model's cache cannot, with nothing changed."""

    def copy(self, source: int, target: int, count: int) -> None:
        """Make the first `count` tokens of `source` all that `target` holds."""

    def shift(self, sequence: int, start: int, count: int) -> None:
        """Drop `count` tokens from position `start` on, and move what follows down to there."""

    def forget(self, sequence: int) -> None:
        """Drop everything."""


class Slot:
    """One sequence of the cache. `tokens[:cached]` are in it; `prompt` is how many of the tokens were given.

    `pure` of the cached tokens are as computing the prompt from nothing would have made them. `reused` is how many the
    request found computed. `leader` is the slot it waits for, until that has `awaits` tokens in the cache.
    """

    __slots__ = ("awaits", "cached", "index", "leader", "prompt", "pure", "reused", "scope", "taken", "tokens", "used")

    def __init__(self, index: int) -> None:
        self.index = index
        self.tokens: list[int] = []
        self.prompt = self.cached = self.pure = self.reused = self.awaits = self.used = 0
        self.scope: str | None = None
        self.leader: Slot | None = None
        self.taken = False

    def __repr__(self) -> str:
        if not self.taken:
            return f"<Slot {self.index} free{f', {self.cached} tokens kept' if self.cached else ''}>"
        doing = "decoding" if self.decoding else "prefilling"
        if self.leader is not None:
            doing = f"waiting for slot {self.leader.index}"
        return f"<Slot {self.index} {doing}, {self.cached} of {len(self.tokens)} tokens cached>"

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.tokens) - self.cached

    @property
    def decoding(self) -> bool:
        """Whether the prompt is in the cache."""
        return self.cached >= self.prompt

    @property
    def running(self) -> bool:
        """Whether it is taken and has something to compute now."""
        return self.taken and self.leader is None

    def advance(self, count: int) -> None:
        """The next `count` pending tokens are in the cache."""
        if self.pure == self.cached:
            self.pure += count
        self.cached += count

    def clear(self) -> None:
        """Nothing is in the cache, and nobody's."""
        self.tokens, self.scope, self.taken, self.leader = [], None, False, None
        self.prompt = self.cached = self.pure = self.reused = 0


class Slots:
    """All slots of a context of `length` tokens each. With `reuse` off every request starts from nothing."""

    def __init__(self, count: int, memory: Memory, length: int, *, reuse: bool = True) -> None:
        self._slots = [Slot(index) for index in range(count)]
        self._memory = memory
        self._reuse = reuse
        # A copy moves the whole slot's memory, used or not: 10 ms for 4,096 tokens, the price of one to three tokens.
        self._least = max(_LEAST_COPIED, length // 256)
        self._uses = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __repr__(self) -> str:
        return f"<Slots {sum(slot.taken for slot in self._slots)} of {len(self._slots)} taken>"

    # --- a request comes and goes -----------------------------------------------------------------------------

    def take(self, prompt: Sequence[int], scope: str | None, *, fresh: bool = False) -> Slot | None:
        """Give the prompt a slot; `None` if all are taken. A `fresh` one reuses nothing, and still leaves something."""
        scope = scope if self._reuse else None
        slot = self._choose(prompt, scope)
        if slot is None:
            return None
        mine = scope is not None and slot.scope == scope and not fresh
        kept = self._shared(slot, prompt) if mine else 0
        self._hold(slot, kept)
        slot.tokens, slot.prompt, slot.scope, slot.taken = list(prompt), len(prompt), scope, True
        slot.reused = slot.cached
        self._touch(slot)
        if not fresh:
            self._settle(slot)
        return slot

    def free(self, slot: Slot) -> None:
        """The slot's request is over; what it computed is kept for the next of its scope."""
        self._hold(slot, slot.pure if slot.scope is not None else 0)
        del slot.tokens[slot.cached :]
        slot.taken, slot.leader, slot.prompt, slot.reused = False, None, 0, 0
        if not slot.cached:
            slot.clear()
        self._touch(slot)
        self._release(slot)

    def drop(self, slot: Slot) -> None:
        """The slot's request is over, and what the cache holds of it is not to be trusted."""
        self._memory.forget(slot.index)
        slot.clear()
        self._release(slot)

    def settle(self) -> None:
        """Those that waited for what is computed now stop waiting. Call it before every step."""
        for slot in self._slots:
            if slot.leader is not None and slot.leader.cached >= slot.awaits:
                self._settle(slot)

    def shift(self, slot: Slot, keep: int) -> int:
        """Make room in a full slot: drop the older half of what follows its first `keep` tokens; returns how many."""
        count = max(1, (slot.cached - keep) // 2)
        self._memory.shift(slot.index, keep, count)
        del slot.tokens[keep : keep + count]
        slot.cached -= count
        slot.pure = min(slot.pure, keep)  # the rest was computed in sight of what is gone
        slot.prompt = keep + max(0, slot.prompt - keep - count)
        return count

    # --- where to ---------------------------------------------------------------------------------------------

    def _choose(self, prompt: Sequence[int], scope: str | None) -> Slot | None:
        free = [slot for slot in self._slots if not slot.taken]
        if not free:
            return None
        if scope is not None:
            mine = [slot for slot in free if slot.scope == scope]
            best = max(mine, key=lambda slot: (self._shared(slot, prompt), -slot.index), default=None)
            if best is not None and self._worth_taking(best, prompt):
                return best
        # Empty ones have never been used or hold nothing: the lowest, since llama.cpp runs neighbours together.
        return min(free, key=lambda slot: (slot.cached > 0, slot.used if slot.cached else 0, slot.index))

    def _worth_taking(self, slot: Slot, prompt: Sequence[int]) -> bool:
        """Whether taking the slot over throws away no more than it saves, or next to nothing."""
        shared = self._shared(slot, prompt)
        return shared > 0 and slot.cached - shared <= max(shared, self._least)

    def _settle(self, slot: Slot) -> None:
        """Take the longest beginning there is, or wait for a longer one that is being computed."""
        slot.leader = None
        others = [other for other in self._slots if other is not slot and self._readable(other, slot)]
        if slot.scope is None or not others:
            return
        source = max(others, key=lambda other: (self._shared(other, slot.tokens), -other.index))
        leader = max(others, key=lambda other: (self._promised(other, slot), other.cached, -other.index))
        now = max(slot.cached, self._shared(source, slot.tokens))
        promised = self._promised(leader, slot)
        if promised - now >= self._least and leader.cached >= now:
            slot.leader, slot.awaits = leader, promised
        elif now - slot.cached >= self._least:
            self._memory.copy(source.index, slot.index, now)
            slot.cached = slot.pure = slot.reused = now
            self._touch(source)

    def _readable(self, other: Slot, slot: Slot) -> bool:
        return other.scope is not None and other.scope == slot.scope and other.leader is None

    def _shared(self, slot: Slot, prompt: Sequence[int]) -> int:
        """How much of the prompt is in the slot's cache. Its last token never counts: its output is wanted."""
        return min(common_prefix(slot.tokens, prompt), slot.pure, slot.cached, len(prompt) - 1)

    def _promised(self, other: Slot, slot: Slot) -> int:
        """How much of the slot's prompt `other` will have once it has its own prompt in the cache."""
        if not other.taken or other.decoding:
            return self._shared(other, slot.tokens)
        return min(common_prefix(other.tokens, slot.tokens), slot.prompt - 1)

    # --- the cache --------------------------------------------------------------------------------------------

    def _hold(self, slot: Slot, count: int) -> None:
        """Leave the first `count` tokens of a slot in the cache, or none where that cannot be done."""
        if count == slot.cached > 0:
            return
        if count == 0 or not self._memory.keep(slot.index, count):
            self._memory.forget(slot.index)
            count = 0
        slot.cached = slot.pure = count

    def _release(self, leader: Slot) -> None:
        for slot in self._slots:
            if slot.leader is leader:
                self._settle(slot)

    def _touch(self, slot: Slot) -> None:
        self._uses += 1
        slot.used = self._uses


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning. Slices are compared in C: some microseconds for thousands."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

"""One generation's events on their way from the channel to whoever consumes them.

Back pressure. The channel never stops reading, since one unread stream would stall its neighbours. So a stream
keeps what arrives and nobody reads: past `MAX_EVENTS` its text is put together into fewer, longer events (their
`tokens` add up), so that it costs what its text costs; past `MAX_CHARACTERS`, which is more than any request
can ask for, it fails with `slow_consumer`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, groupby

from vestal.backend import EndEvent, PromptEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.errors import SlowConsumer, WireError
from vestal_adapters.worker import wire

__all__ = ["Stream"]

MAX_EVENTS = 16 * 1024
MAX_CHARACTERS = wire.MAX_FRAME
LOGPROB_WORTH = 100  # characters: about the memory one token's probability takes

_V1_KINDS = frozenset({PromptEvent, TextEvent, EndEvent})
_V2_KINDS = frozenset({*_V1_KINDS, ThinkingEvent, ToolUseEvent})


class Stream:
    """The consumer empties `events`; when they are used up and the stream has not `ended`, it awaits `arrival`."""

    __slots__ = ("_characters", "_kinds", "_prompted", "_waiter", "ended", "error", "events", "number")

    def __init__(self, number: int, *, v2: bool) -> None:
        self.number = number
        self.events: deque[wire.JobEvent] = deque()
        self.ended = False
        self.error: WireError | None = None
        self._kinds: frozenset[type] = _V2_KINDS if v2 else _V1_KINDS
        self._characters = 0
        self._prompted = False
        self._waiter: asyncio.Future[None] | None = None

    async def arrival(self) -> None:
        """Return when there are more events, or the end."""
        self._characters = 0
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def put(self, event: wire.JobEvent) -> None:
        """Take one event from the worker; raises `ValueError` for one that cannot be meant."""
        if type(event) is TextEvent and not event.logprobs:  # nearly all are, so the checks are spelled out here
            if not 0 <= event.tokens <= wire.MAX_COUNT:
                raise ValueError(f"job {self.number}: a text of {event.tokens} tokens")
            self._characters += len(event.text)
        else:
            self._judge(event)
        self.events.append(event)
        if self._waiter is not None:
            self._wake()
        elif len(self.events) > MAX_EVENTS or self._characters > MAX_CHARACTERS:
            self._relieve()

    def _judge(self, event: wire.JobEvent) -> None:
        if type(event) not in self._kinds:
            raise ValueError(f"job {self.number}: a {type(event).__name__} in answer to a v1 request")
        wire.check_event(event)
        if type(event) is PromptEvent:
            if self._prompted:
                raise ValueError(f"job {self.number}: a second prompt event")
            self._prompted = True
        else:
            self._characters += _size(event)
        self.ended = type(event) is EndEvent

    def fail(self, error: WireError) -> None:
        """End with `error`, after what has arrived before it."""
        self.error, self.ended = error, True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():  # a cancelled consumer leaves a done one behind
            waiter.set_result(None)

    def _relieve(self) -> None:
        joined = list(_joined(self.events))
        self.events.clear()
        self.events.extend(joined)
        self._characters = sum(map(_size, joined))
        if len(joined) > MAX_EVENTS or self._characters > MAX_CHARACTERS:
            self.events.clear()
            self.fail(
                SlowConsumer(
                    f"{len(joined)} pieces with {self._characters} characters of the answer wait unread",
                    details={"limit": {"events": MAX_EVENTS, "characters": MAX_CHARACTERS}},
                )
            )

    def __repr__(self) -> str:
        return f"<Stream {self.number} {'ended' if self.ended else 'open'}, {len(self.events)} events unread>"


def _joined(events: Iterable[wire.JobEvent]) -> Iterator[wire.JobEvent]:
    for kind, group in groupby(events, type):
        if kind is TextEvent:
            texts = [event for event in group if isinstance(event, TextEvent)]
            logprobs = tuple(chain.from_iterable(event.logprobs for event in texts))
            yield TextEvent("".join(event.text for event in texts), sum(event.tokens for event in texts), logprobs)
        elif kind is ThinkingEvent:
            thoughts = [event for event in group if isinstance(event, ThinkingEvent)]
            yield ThinkingEvent("".join(event.text for event in thoughts), sum(event.tokens for event in thoughts))
        else:
            yield from group


def _size(event: wire.JobEvent) -> int:
    if isinstance(event, TextEvent):
        return len(event.text) + sum(LOGPROB_WORTH * (1 + len(token.top)) for token in event.logprobs)
    return len(event.text) if isinstance(event, ThinkingEvent) else 0

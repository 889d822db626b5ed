"""What a request has produced so far, and its one terminal frame.

Backend events become wire messages here and nowhere else. Whoever ends a request calls `done`, `fail` or
`interrupted`; the first call sends the terminal frame, later ones find it sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import structs

from vestal import messages as m
from vestal.backend import EndEvent, PromptEvent, TextEvent, ThinkingEvent, ToolUseEvent
from vestal.codec import error_frame
from vestal.errors import BackendUnavailable, FrameTooLarge, ShuttingDown, WireError
from vestal.values import (
    ContentBlock,
    Notice,
    StopReason,
    TextBlock,
    ThinkingBlock,
    Timings,
    TokenLogprob,
    ToolUseBlock,
    Usage,
)
from vestald.metrics.meter import Meter
from vestald.routing.blame import internal_error
from vestald.serving.job import Ended, Job
from vestald.serving.session import Session

__all__ = ["Answer", "Collected", "Terminal"]


class Terminal:
    """The promise of exactly one terminal frame, for one request of one session."""

    def __init__(self, session: Session, job: Job, ended: Callable[[Job, str, Usage], None]) -> None:
        self.session = session
        self.job = job
        self.sent = False
        self.model = ""
        self.started: float | None = None  # time.monotonic, seconds
        self.notices: list[Notice] = []  # of what the daemon did beside handing the request over
        self._attempts: list[dict[str, str]] = []
        self._ended = ended

    def usage(self) -> Usage:
        """What is known to have been used, for a request that did not come to its own end."""
        return Usage(output_tokens=self.job.output_tokens)

    def end(self, frame: m.Done | m.Embeddings | m.Error, outcome: str, usage: Usage) -> None:
        """Send the terminal frame, unless one was sent or nobody is there to read it."""
        if self.sent:
            return
        self.sent = True
        if self.session.alive:
            try:
                self.session.send(frame)
            except Exception as fault:  # too long for a frame, or an adapter's value that MessagePack cannot say
                error = fault if isinstance(fault, FrameTooLarge) else internal_error(self.job.backend, fault)
                outcome, usage = error.code, self.usage()
                self.session.send(error_frame(error, self.job.id))
        self._ended(self.job, outcome, usage)

    def fail(self, error: WireError) -> None:
        """End with `error`."""
        if self._attempts:
            error.details["attempts"] = [*self._attempts, {"backend": self.job.backend, "code": error.code}]
        self.job.details = error.details
        self.end(error_frame(error, self.job.id), error.code, self.usage())

    def interrupted(self, why: Ended) -> None:
        """End because somebody outside ended it."""
        if why is Ended.SHUTDOWN:
            self.fail(ShuttingDown(f"{why.value}; {self.job.output_tokens} tokens were made", hint="ask again later"))
        elif why is Ended.STOPPED:
            made = f"{why.value}, {self.job.backend!r}, and its time to finish is over"
            self.fail(BackendUnavailable(f"{made}; {self.job.output_tokens} tokens were made", hint="ask again"))
        else:
            notices = [Notice("cancelled_by_operator", why.value)] if why is Ended.OPERATOR else []
            self.end(self.done("cancelled", self.usage(), notices), "cancelled", self.usage())

    def done(self, reason: StopReason, usage: Usage, notices: list[Notice]) -> m.Done:
        """The frame of a request that ended without fault."""
        return m.Done(
            id=self.job.id,
            stop_reason=reason,
            usage=usage,
            backend=self.job.backend,
            model=self.model,
            timings=self.timings(),
            notices=[*self.notices, *notices],
        )

    def retried(self, backend: str, error: WireError, other: str) -> None:
        """A backend failed, and the request goes to `other`: whatever comes of it, the client is told."""
        self._attempts.append({"backend": backend, "code": error.code})
        self.notices.append(
            Notice("retried", f"backend {backend!r} failed with {error.code}: {error.message}; {other!r} was asked")
        )

    def timings(self) -> Timings:
        started = time.monotonic() if self.started is None else self.started
        return Timings(queue_ms=_ms(started - self.job.accepted))


class Collected:
    """The blocks of an answer that is not streamed; text of one kind in a row is one block."""

    def __init__(self) -> None:
        self._blocks: list[ContentBlock] = []
        self._kind: type[TextBlock] | type[ThinkingBlock] = TextBlock
        self._pieces: list[str] = []
        self.logprobs: list[TokenLogprob] = []

    def add(self, event: TextEvent | ThinkingEvent | ToolUseEvent) -> None:
        if isinstance(event, ToolUseEvent):
            self._close()
            self._blocks.append(ToolUseBlock(call_id=event.call_id, name=event.name, input=event.input))
            return
        if isinstance(event, TextEvent):
            kind: type[TextBlock] | type[ThinkingBlock] = TextBlock
            self.logprobs += event.logprobs
        else:
            kind = ThinkingBlock
        if kind is not self._kind:
            self._close()
            self._kind = kind
        self._pieces.append(event.text)

    def blocks(self) -> list[ContentBlock]:
        self._close()
        return self._blocks

    def _close(self) -> None:
        if self._pieces:
            self._blocks.append(self._kind("".join(self._pieces)))
            self._pieces = []


class Answer(Terminal):
    """The answer to one `generate`: pieces as they come, times, and the terminal frame."""

    def __init__(
        self,
        session: Session,
        job: Job,
        ended: Callable[[Job, str, Usage], None],
        *,
        stream: bool,
    ) -> None:
        super().__init__(session, job, ended)
        self.meter = Meter()
        self._first: float | None = None
        self._last = 0.0
        self._used: Usage | None = None
        self._prompt = PromptEvent(input_tokens=0)
        self._collected = None if stream else Collected()
        self._piece: type[m.Token] | type[m.Text] = m.Token if session.conn.version == 1 else m.Text

    def add(self, event: TextEvent | ThinkingEvent | ToolUseEvent | PromptEvent) -> None:
        """Take one event of the backend, and send it on if the client streams."""
        if isinstance(event, PromptEvent):
            self._prompt = event
            return
        self.job.output_tokens += event.tokens
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self.meter.began(now - self.job.accepted)
        else:
            self.meter.paused(now - self._last)
        self._last = now
        if self._collected is not None:
            self._collected.add(event)
        elif type(event) is TextEvent:
            self.session.send(self._piece(self.job.id, event.text, event.logprobs))
        elif isinstance(event, ThinkingEvent):
            self.session.send(m.ThinkingDelta(self.job.id, event.text))
        elif isinstance(event, ToolUseEvent):
            self.session.send(m.ToolUse(id=self.job.id, call_id=event.call_id, name=event.name, input=event.input))

    @property
    def empty(self) -> bool:
        """Whether nothing of it has come."""
        return self._first is None

    def usage(self) -> Usage:
        return self._used or Usage(
            input_tokens=self._prompt.input_tokens,
            cached_tokens=self._prompt.cached_tokens,
            output_tokens=self.job.output_tokens,
        )

    def finish(self, end: EndEvent) -> None:
        """End as the backend ended."""
        self._used = end.usage
        self.end(self.done(end.stop_reason, end.usage, end.notices), end.stop_reason, end.usage)

    def done(self, reason: StopReason, usage: Usage, notices: list[Notice]) -> m.Done:
        frame = super().done(reason, usage, notices)
        if self._collected is None:
            return frame
        frame = structs.replace(frame, logprobs=tuple(self._collected.logprobs))
        blocks = self._collected.blocks()
        if self.session.conn.version == 1:
            return structs.replace(frame, text="".join(b.text for b in blocks if isinstance(b, TextBlock)))
        return structs.replace(frame, content=blocks)

    def timings(self) -> Timings:
        now, first = time.monotonic(), self._first
        return structs.replace(
            super().timings(),
            prefill_ms=round(self._prompt.prefill_ms, 3),
            first_token_ms=0.0 if first is None else _ms(first - self.job.accepted),
            decode_ms=0.0 if first is None else _ms(now - first),
        )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)

"""A backend in memory that plays what a test tells it to, for tests of whatever calls a backend.

    go = asyncio.Event()
    backend = ScriptedBackend("chat", [TextEvent("Hel"), go, TextEvent("lo"), end(2)], [BackendCrashed("it died")])

Each request plays the next list, the last one stays. An event of the port is given out, an error is raised, an
`asyncio.Event` is waited for: so a test holds an answer where it wants it, without a sleep. `running`,
`most_running` and `released` count; `requests` keeps what was asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from vestal.backend import (
    Backend,
    BackendOptions,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    PromptEvent,
    Report,
    TextEvent,
    ThinkingEvent,
    TokenEvent,
    TokenEventV2,
    ToolUseEvent,
)
from vestal.errors import BackendUnavailable, VestalError
from vestal.values import Capabilities, StopReason, Usage

__all__ = ["Play", "ScriptedBackend", "end"]

Play = Sequence[PromptEvent | TextEvent | ThinkingEvent | ToolUseEvent | EndEvent | VestalError | asyncio.Event]

_CAPABILITIES = Capabilities(v2=True, tools=True, thinking=True, slots=4, model="scripted")


def end(output_tokens: int = 0, stop_reason: StopReason = "end", *, input_tokens: int = 1) -> EndEvent:
    """The last event of a play."""
    return EndEvent(stop_reason, Usage(input_tokens, 0, output_tokens))


class ScriptedBackend(Backend):
    """Plays `plays` one after another; `loading` is what a start reports, or raises, or waits for."""

    def __init__(
        self,
        name: str,
        *plays: Play,
        capabilities: Capabilities = _CAPABILITIES,
        loading: Sequence[float | VestalError | asyncio.Event] = (),
        vectors: Sequence[EmbedResult | VestalError | asyncio.Event] = (),
    ) -> None:
        super().__init__(name, BackendOptions())
        self.capabilities = capabilities
        self.requests: list[GenerateRequest | GenerateRequestV2 | EmbedRequest] = []
        self.running = self.most_running = self.released = 0
        self._plays = deque(plays)
        self._loading = loading
        self._vectors = deque(vectors)
        self._ready = False
        self.report: Report | None = None
        """What the daemon handed to `start`: a test says with it that the engine is lost, or back."""

    @property
    def ready(self) -> bool:
        return self._ready

    async def start(self, report: Report) -> None:
        self.report = report
        for step in self._loading:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, VestalError):
                raise step
            else:
                report(Loading(step))
        self._ready = True

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        return self._play(request)  # type: ignore[return-value]  # what a v1 play holds is its author's business

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self._play(request) if self.capabilities.v2 else super().generate_v2(request)

    async def _play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        if not self._ready:
            raise BackendUnavailable(f"backend {self.name!r} is not ready", details={"backend": self.name})
        self.requests.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for step in self._next_play():
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, VestalError):
                    raise step
                else:
                    yield step
        finally:
            self.running -= 1
            self.released += 1

    def _next_play(self) -> Play:
        if not self._plays:
            return [TextEvent("scripted"), end(1)]
        return self._plays.popleft() if len(self._plays) > 1 else self._plays[0]

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        self.requests.append(request)
        while self._vectors:
            step = self._vectors.popleft()
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, VestalError):
                raise step
            else:
                return step
        return await super().embed(request)

    async def stop(self, timeout: float) -> None:
        self._ready = False

    def __repr__(self) -> str:
        state = "ready" if self._ready else "not ready"
        return f"<ScriptedBackend {self.name!r} {state}, {self.running} running, {len(self._plays)} plays>"

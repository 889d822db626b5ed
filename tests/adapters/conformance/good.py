"""A backend that keeps all promises of the port, for others to break one of; and what the kit says of those."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from vestal.backend import (
    Backend,
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EmbedResult,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    PromptEvent,
    Ready,
    Report,
    TextEvent,
    TokenEventV2,
    ToolUseEvent,
    Unavailable,
)
from vestal.errors import BackendUnavailable, ContextOverflow, VestalError
from vestal.testing import NotConforming, check_backend
from vestal.values import Capabilities, TokenLogprob, Usage, blocks_text

__all__ = ["ABLE", "SLOTS", "WORDS", "Good", "fails", "outage"]

SLOTS = 2
WORDS = ["one ", "two ", "three ", "four ", "five"]
ABLE = Capabilities(
    v2=True, embed=True, count=True, tools=True, grammar=True, json_schema=True, logprobs=True, slots=SLOTS,
    context_length=64, embedding_dimensions=2, embedding_tasks=("query",), embedding_shortest=1, embedding_longest=2,
    embedding_raw=True, model="small", options=("max_tokens", "temperature", "stop"),
)  # fmt: skip


class Good(Backend):
    """Keeps the port, with everything that a check asks for."""

    able: ClassVar[Capabilities] = ABLE
    percents: ClassVar[tuple[float, ...]] = (0, 50, 100)

    def __init__(self) -> None:
        super().__init__("small", BackendOptions())
        self.capabilities = self.able
        self._ready = False
        self._free = asyncio.Semaphore(SLOTS)
        self._stopping = asyncio.Event()
        self.report: Report = print

    @property
    def ready(self) -> bool:
        return self._ready

    async def start(self, report: Report) -> None:
        self._stopping.clear()
        self.report = report
        for percent in self.percents:
            report(Loading(percent))
            await asyncio.sleep(0)
            if self._stopping.is_set():
                raise VestalError("stopped while it was loading")
        self._ready = True

    async def stop(self, timeout: float) -> None:
        self._ready = False
        self._stopping.set()

    def lose(self) -> None:
        self._ready = False
        self._stopping.set()
        self.report(Unavailable("its engine is gone"))

    def regain(self) -> None:
        self._stopping.clear()
        self._ready = True
        self.report(Ready())

    def generate(self, request: GenerateRequest) -> Any:
        return self.play(request)

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        return self.play(request)

    async def play(self, request: GenerateRequest | GenerateRequestV2) -> AsyncIterator[TokenEventV2]:
        if not self._ready:
            raise BackendUnavailable("not ready")
        async with self._free:
            for event in self.events(request):
                await asyncio.sleep(0)
                if self._stopping.is_set():
                    raise BackendUnavailable("stopped")
                yield event

    def events(self, request: GenerateRequest | GenerateRequestV2) -> list[TokenEventV2]:
        content = request.messages[0].content
        asked = len((content if isinstance(content, str) else blocks_text(content)).split())
        if asked > 64:
            raise ContextOverflow("too long")
        if isinstance(request, GenerateRequestV2) and request.tool_choice == "required":
            call = ToolUseEvent("1", request.tools[0].name, {"on": True}, 3)
            return [call, EndEvent("tool_use", Usage(asked, 0, 3))]
        words, reason = self.words(request)
        logprobs = (TokenLogprob(b"", 0.0),) if request.options.logprobs is not None else ()
        usage = Usage(asked, 0, len(words))
        return [PromptEvent(asked), *(TextEvent(word, 1, logprobs) for word in words), EndEvent(reason, usage)]

    def words(self, request: GenerateRequest | GenerateRequestV2) -> tuple[list[str], Any]:
        options = request.options
        if options.grammar:
            return ["yes"], "end"
        if options.response_format:
            return [json.dumps({"ok": True})], "end"
        for index, word in enumerate(WORDS):
            if any(stop in word for stop in options.stop):
                return WORDS[:index], "stop_sequence"
        limit = options.max_tokens or len(WORDS)
        return WORDS[:limit], "length" if limit < len(WORDS) else "end"

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        length = request.dimensions or 2
        rows = [[1.0, 0.0][:length] if "house" in text else [0.0, 1.0][-length:] for text in request.input]
        data = b"".join(struct.pack(f"<{length}f", *row) for row in rows)
        return EmbedResult(count=len(rows), dimensions=length, data=data, input_tokens=9)

    async def count(self, request: CountRequest) -> int:
        assert request.messages
        return len(request.messages[0].content.split())


@asynccontextmanager
async def outage(backend: Any) -> AsyncGenerator[None]:
    backend.lose()
    yield
    backend.regain()


def fails(check: str, make: Any, **how: Any) -> str:
    """What the one check says of a broken backend."""
    with pytest.raises(NotConforming) as raised:
        asyncio.run(check_backend(make, only=[check], **how))
    (outcome,) = raised.value.report.broken
    assert outcome.check == check
    return outcome.why

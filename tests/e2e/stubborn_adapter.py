"""A backend of somebody else's making that does what no adapter may: something in it will not end when it is told to.

It is installed as any adapter is, by an entry point; `test_stubborn_adapters` makes the folder that it is found in.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from vestal.backend import (
    Backend,
    BackendOptions,
    CountRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Loading,
    Report,
    TextEvent,
)
from vestal.values import Capabilities, Usage

__all__ = ["StubbornBackend"]


class StubbornOptions(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stays_in: Annotated[
        Literal["start", "restart", "stream", "close", "cancelled_close", "count", "stop", "thread"],
        Meta(description="what does not end"),
    ]


class StubbornBackend(Backend):
    Options: ClassVar[type[BackendOptions]] = StubbornOptions
    starts: ClassVar[int] = 0  # of all: a restart makes another backend

    def __init__(self, name: str, options: BackendOptions) -> None:
        super().__init__(name, options)
        assert isinstance(options, StubbornOptions)
        self._stays_in = options.stays_in
        self.capabilities = Capabilities(v2=True, count=True, slots=1, model="stubborn")

    @property
    def ready(self) -> bool:
        return True

    async def start(self, report: Report) -> None:
        StubbornBackend.starts += 1
        report(Loading(10, "for ever"))
        if self._stays_in == "start" or (self._stays_in == "restart" and self.starts > 1):
            await never()
        if self._stays_in == "thread":
            threading.Thread(target=threading.Event().wait, name="somebody else's").start()

    def generate(self, request: GenerateRequest) -> AsyncIterator[Any]:
        return self._stream()

    def generate_v2(self, request: GenerateRequestV2) -> AsyncIterator[Any]:
        return self._stream()

    async def _stream(self) -> AsyncIterator[Any]:
        try:
            yield TextEvent("one ")
            if self._stays_in == "stream":
                await never()
            if self._stays_in == "cancelled_close":
                await asyncio.get_running_loop().create_future()
            if self._stays_in == "close":
                while True:  # it goes on making tokens until it is closed
                    await asyncio.sleep(0.001)  # its pace, not a wait for anything
                    yield TextEvent("more ")
        finally:
            if self._stays_in == "close":
                await never()
            if self._stays_in == "cancelled_close":
                await asyncio.get_running_loop().create_future()
        yield EndEvent("end", Usage(1, 0, 1))

    async def count(self, request: CountRequest) -> int:
        if self._stays_in == "count":
            await never()
        return 1

    async def stop(self, timeout: float) -> None:
        if self._stays_in == "stop":
            await never()


async def never() -> None:
    """Swallow every cancellation."""
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            continue

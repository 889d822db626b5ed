"""Backends that embed numbers, so that every vector says which text it is of, and a daemon to play scenes on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.daemon.inside import Caller, Inside, Scripted, daemon
from vestal import messages as m
from vestal.backend import EmbedRequest, EmbedResult
from vestal.errors import ContextOverflow, WireError
from vestald.backends.registry import Declared
from vestald.config import RouterConfig

__all__ = [
    "MODEL",
    "Embedder",
    "Play",
    "Scene",
    "ask",
    "begun",
    "embedded",
    "hold",
    "occupy",
    "parts",
    "played",
    "texts",
    "too_long",
    "units",
    "vectors",
    "vectors_of",
]

Scene = Callable[[Inside, Caller], Awaitable[None]]
"""What happens, with a caller on embed.sock."""
Play = Callable[..., None]
"""`play(scene, *backends, router=..., **admission)`: the fixture of that name."""
MODEL = "vectors"


def vectors(texts: Sequence[str], dimensions: int = 1) -> EmbedResult:
    """The vector of "7" is made of sevens, and it has one token."""
    data = b"".join(struct.pack("<f", float(text)) * dimensions for text in texts)
    return EmbedResult(count=len(texts), dimensions=dimensions, data=data, input_tokens=len(texts))


class Embedder(Scripted):
    """Embeds numbers. What it was asked is in `asked`; it answers when it `may`, and with `wrong` does it wrong.

    `begun` is set when it is asked, `left` when it has an answer or is cancelled, and `gone` once it also `lets_go`.
    """

    def __init__(self, name: str, wrong: Callable[[EmbedRequest], Any] | None = None, **capabilities: Any) -> None:
        given = {"model": MODEL, "embedding_dimensions": 1, "embedding_batch": 10, "generate": False, **capabilities}
        super().__init__(name=name, embed=self._answer, **given)
        self.asked: list[list[str]] = []
        self.requests: list[EmbedRequest] = []
        self.begun, self.may, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.lets_go, self.gone = asyncio.Event(), asyncio.Event()
        self.may.set()
        self.lets_go.set()
        self._wrong, self.dimensions = wrong, 1

    async def _answer(self, request: EmbedRequest) -> EmbedResult:
        self.asked.append(request.input)
        self.requests.append(request)
        self.begun.set()
        try:
            await self.may.wait()
        finally:
            self.left.set()
            try:
                await self.lets_go.wait()
            finally:
                self.gone.set()
        if self._wrong is not None:
            result = self._wrong(request)
            if isinstance(result, BaseException):
                raise result
            assert isinstance(result, EmbedResult)
            return result
        return vectors(request.input, request.dimensions or self.dimensions)


def played(
    directory: Path, scene: Scene, *backends: Scripted | Declared, router: RouterConfig | None = None, **admission: Any
) -> None:
    """Run `scene` on a daemon with these backends; afterwards nothing of a request is left."""

    async def main() -> None:
        async with asyncio.timeout(20), daemon(directory, *backends, router=router, **admission) as inside:
            await scene(inside, await inside.call("embed"))
            await inside.app.house.jobs.idle()
            scheduler = inside.app.house.embedding.scheduler
            assert (scheduler.running, scheduler.waiting) == (0, 0)

    asyncio.run(main())


def units(inside: Inside) -> list[Any]:
    return inside.app.house.supervisor.units


# --- what backends do -----------------------------------------------------------------------------------------


def hold(*backends: Embedder) -> None:
    """None of them answers until it `may`."""
    for backend in backends:
        backend.may.clear()


async def begun(*backends: Embedder) -> None:
    """Return when each of them has been asked."""
    for backend in backends:
        await backend.begun.wait()


def too_long(_request: EmbedRequest) -> WireError:
    return ContextOverflow("input[3] has 9 tokens, and input[13] too", details={"field": "input[3]"})


# --- what callers do ------------------------------------------------------------------------------------------


def ask(caller: Caller, count: int, id: int = 1, **options: Any) -> None:
    caller.send(m.Embed(id=id, input=texts(count), **options))


async def occupy(caller: Caller, backend: Embedder, id: int) -> None:
    """`embed` number `id`, of one text, has the backend's slot until it `may` answer."""
    hold(backend)
    caller.send(m.Embed(id=id, input=["7"], model=backend.name))
    await begun(backend)


async def vectors_of(caller: Caller, id: int = 1) -> m.Embeddings:
    """The end of a request, which is no error."""
    frame = await caller.end(id)
    assert isinstance(frame, m.Embeddings), frame
    return frame


def texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def embedded(caller: Caller, count: int, id: int = 1, **options: Any) -> m.Embeddings:
    """The answer to an `embed` of `count` texts, which is the right one."""
    ask(caller, count, id, **options)
    frame = await vectors_of(caller, id)
    assert (frame.count, frame.usage.input_tokens, frame.model) == (count, count, MODEL)
    assert frame.data == vectors(texts(count), frame.dimensions).data
    return frame


def parts(frame: m.Embeddings) -> list[tuple[str, int]]:
    return [(part.backend, part.count) for part in frame.parts]

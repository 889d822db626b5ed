"""A server that says exactly the bytes a test wants it to, in the test's own event loop.

    async with Server(answer) as server:
        ... server.url ...

`answer(asked)` is called for each request with what came, and writes what it likes: well-formed or not, at once or
when an event is set. `server.asked` keeps every request, and `gone` of each is set when its client has left.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Asked", "Server", "chat_like", "chunk", "done", "head", "sse"]


class Asked:
    """One request, and the connection to answer it on."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter):
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.writer = writer
        self.gone = asyncio.Event()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
        await self.writer.drain()

    async def reply(self, body: bytes | object, status: int = 200, kind: str = "application/json", **more: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": kind, "Content-Length": str(len(data))} | {
            name.replace("_", "-"): value for name, value in more.items()
        }
        await self.send(head(status, **headers), data)

    async def stream(self, *pieces: bytes, kind: str = "text/event-stream") -> None:
        """Pieces of a stream, chunked; the caller may send more, and `end_stream`."""
        await self.send(head(200, **{"Content-Type": kind, "Transfer-Encoding": "chunked"}))
        await self.more(*pieces)

    async def more(self, *pieces: bytes) -> None:
        for piece in filter(None, pieces):  # a chunk of nothing would be the end
            await self.send(f"{len(piece):x}\r\n".encode(), piece, b"\r\n")

    async def one_by_one(self, pieces: Iterable[bytes]) -> None:
        """The rest of a stream, a chunk at a time, while there is a client."""
        for piece in pieces:
            if self.gone.is_set():
                return
            await self.more(piece)
            await asyncio.sleep(0)  # whoever reads may leave now
        await self.end_stream()

    async def end_stream(self) -> None:
        await self.send(b"0\r\n\r\n")


Answer = Callable[[Asked], Awaitable[None]]


class Server:
    """Listens on a free port of the loopback, or on a Unix socket."""

    def __init__(self, answer: Answer, *, path: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._path, self._tls = answer, path, tls
        self.asked: list[Asked] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        if self._path is not None:
            return "http://localhost/v1"
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def listen(self) -> None:
        if self._path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for asked in self.asked:  # what nobody reads any more would keep a connection open beyond the loop's end
            asked.writer.transport.abort()

    def kill(self) -> None:
        """Listen no more, and break off whatever is being said. With a path, it can `listen` there again."""
        assert self._server is not None
        self._server.close()
        for asked in self.asked:
            asked.writer.transport.abort()

    def kill_soon(self) -> None:
        """The same, from another thread."""
        assert self._server is not None
        self._server.get_loop().call_soon_threadsafe(self.kill)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            asked = await _read(reader, writer)
            self.asked.append(asked)
            watching = asyncio.create_task(_watch(reader, asked.gone))
            try:
                await self._answer(asked)
            finally:
                watching.cancel()
                await asyncio.wait({watching})
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the test has ended
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    top, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = top.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body, writer)


async def _watch(reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    with suppress(ConnectionError):
        await reader.read()
    gone.set()


def head(status: int = 200, /, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def sse(*data: object) -> bytes:
    """Events of a stream: JSON, or text as it is."""
    texts = [item if isinstance(item, str) else json.dumps(item) for item in data]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    content = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": content | delta, "finish_reason": finish}]}


def done(prompt: int = 7, completion: int = 2) -> list[Any]:
    """The usage and the end marker."""
    return [{"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}, "[DONE]"]


MODELS = {"object": "list", "data": [{"id": "small", "object": "model", "max_model_len": 64}]}


def chat_like(answer: Answer | None = None, models: object = MODELS, words: Iterable[str] = ("Hel", "lo")) -> Answer:
    """A server that is well, lists one model, and streams `words`, or lets `answer` answer chats."""

    async def serve(asked: Asked) -> None:
        if asked.path == "/v1/models":
            await asked.reply(models)
        elif asked.path == "/health":
            await asked.reply(b"")
        elif asked.path == "/v1/chat/completions" and answer is not None:
            await answer(asked)
        elif asked.path == "/v1/chat/completions":
            await asked.stream(sse(chunk(role="assistant"), *map(chunk, words), chunk(finish="stop"), *done()))
            await asked.end_stream()
        else:
            await asked.reply({"error": {"message": "Not Found"}}, 404)

    return serve

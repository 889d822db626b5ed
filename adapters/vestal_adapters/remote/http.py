"""One server over HTTP: bounded in time and size, its failures translated into errors of the wire.

A request has four deadlines: to connect, to begin its answer, to go on with it, and in all. What counts as going on
is a whole event, so neither comments nor single bytes keep a stream alive. Redirects are not followed, proxies and
cookies not used, answers not decompressed: what the operator wrote down is where the request goes, and a small
answer cannot become a large one. Each request has a connection of its own, which closing or cancelling it closes:
so the server stops, and no request fails because an idle connection had been closed meanwhile.

Exceptions of the client library carry the request's headers, the key among them. They end here, without a chain.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from vestal.durations import parse_duration
from vestal.errors import BackendCrashed, BackendUnavailable, DeadlineExceeded, VestalError, WireError
from vestal_adapters.remote.key import Key, as_bearer, read_key
from vestal_adapters.remote.ndjson import LineParser
from vestal_adapters.remote.options import RemoteOptions
from vestal_adapters.remote.refusals import MAX_ERROR_BODY, Refusal, one_line, read_refusal, refused
from vestal_adapters.remote.sse import Event, EventTooLarge, SseParser

__all__ = ["MAX_ANSWER", "MAX_PAGE", "Deadlines", "Headers", "Upstream"]

T = TypeVar("T")
Headers = Callable[[Key | None], dict[str, str]]
"""The headers of every request, the key among them."""
_Parser = SseParser | LineParser

MAX_PAGE = 8 << 20  # bytes of what a server says of itself, which becomes objects many times as large
MAX_ANSWER = 64 << 20  # bytes of an answer that comes whole: 2,048 vectors of 1,536 dimensions in JSON are half of it
_ERROR_BODY_TIME = 5.0  # seconds that the reason for a refusal is waited for
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "vestald"}


class Deadlines(Struct, frozen=True):
    """Seconds."""

    connect: float
    first_byte: float
    between: float
    total: float

    @classmethod
    def of(cls, options: RemoteOptions) -> Deadlines:
        return cls(
            parse_duration(options.connect_timeout),
            parse_duration(options.first_byte_timeout),
            parse_duration(options.between_tokens_timeout),
            parse_duration(options.total_timeout),
        )


class Upstream:
    """The server of one backend. Made in the event loop that uses it; `close` ends what is under way."""

    def __init__(self, backend: str, options: RemoteOptions, headers: Headers = as_bearer) -> None:
        self._backend = backend
        self._headers = headers
        self._url = options.url
        self._deadlines = Deadlines.of(options)
        self.key = read_key(options.api_key_env, options.api_key_file)
        self._waiting: set[asyncio.Timeout] = set()
        self._running = 0
        self.heard_at = 0.0
        """When the server last sent anything, by the monotonic clock."""
        self._session = aiohttp.ClientSession(
            connector=_connector(options),
            cookie_jar=aiohttp.DummyCookieJar(),
            # `connect` is finding the address too, and all of those that it has.
            timeout=aiohttp.ClientTimeout(connect=self._deadlines.connect, sock_connect=self._deadlines.connect),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
        )

    # --- what is asked ----------------------------------------------------------------------------------------

    async def get(self, path: str, shape: type[T], *, timeout: float) -> T:
        """The JSON at `path`, which begins with a slash if it counts from the root of the host."""
        return await self._json("GET", path, None, shape, timeout)

    async def alive(self, path: str, *, timeout: float) -> None:
        """Whether `path` is answered with 200, whatever it says. Raises `WireError` if not."""
        try:
            async with asyncio.timeout(timeout), self._answer("GET", path, None, self._deadline()):
                pass
        except TimeoutError:
            raise self._silent(f"did not answer within {timeout:g} s") from None

    async def post(self, path: str, body: object, shape: type[T], *, timeout: float | None = None) -> T:
        """The JSON that answers `body`: a page with a `timeout` of its own, and else an answer."""
        return await self._json("POST", path, body, shape, timeout)

    def events(self, path: str, body: object) -> AsyncGenerator[Event]:
        """The event stream that answers `body`, up to its end; closing the iterator closes the connection."""
        return self._stream(path, body, SseParser())

    def lines(self, path: str, body: object) -> AsyncGenerator[Event]:
        """The lines of JSON that answer `body`, likewise."""
        return self._stream(path, body, LineParser())

    async def _json(self, method: str, path: str, body: object, shape: type[T], timeout: float | None) -> T:
        end, limit = self._deadline(), MAX_ANSWER if timeout is None else MAX_PAGE
        try:
            async with asyncio.timeout(timeout), self._answer(method, path, body, end) as response:
                return self._decoded(await self._whole(response, end, limit), shape)
        except TimeoutError:
            raise self._silent(f"did not answer within {timeout or 0:g} s") from None

    async def _stream(self, path: str, body: object, parser: _Parser) -> AsyncGenerator[Event]:
        end, patience = self._deadline(), self._deadlines.first_byte
        due = time.monotonic() + patience
        async with self._answer("POST", path, body, end) as response:
            if response.content_type != parser.media_type:
                raise await self._no_stream(response, parser)
            while data := await self._read(response, due, end, patience):
                for event in self._parsed(parser, data):
                    yield event
                    patience = self._deadlines.between
                    due = time.monotonic() + patience
            if parser.unfinished:
                raise self._cut("in the middle of an event")

    async def close(self) -> None:
        """End everything: whoever waits for the server gets an error now. Idempotent."""
        await self._session.close()
        for waiting in self._waiting:
            if not waiting.expired():
                waiting.reschedule(0)  # long past

    # --- one answer -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _answer(self, method: str, path: str, body: object, end: float) -> AsyncGenerator[aiohttp.ClientResponse]:
        """A response with status 200, closed at the end together with its connection."""
        patience = self._deadlines.first_byte
        due = min(end, time.monotonic() + patience)
        response = await self._translated(self._request(method, path, body), due, end, patience)
        self._running += 1
        try:
            if response.status != 200:
                raise await self._refused(response)
            if _is_compressed(response):
                raise self._broken("compressed its answer, which was not asked for")
            yield response
        finally:
            self._running -= 1
            _hang_up(response)

    async def _request(self, method: str, path: str, body: object) -> aiohttp.ClientResponse:
        headers = self._headers(self.key) | ({"Content-Type": "application/json"} if body is not None else {})
        data = None if body is None else io.BytesIO(msgspec.json.encode(body))
        return await self._session.request(method, self._at(path), data=data, headers=headers, allow_redirects=False)

    def _at(self, path: str) -> str:
        if not path.startswith("/"):
            return f"{self._url}/{path}"
        scheme, _, rest = self._url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}{path}"

    async def _whole(self, response: aiohttp.ClientResponse, end: float, limit: int) -> bytes:
        body = bytearray()
        patience = self._deadlines.between
        while data := await self._read(response, time.monotonic() + patience, end, patience):
            body += data
            if len(body) > limit:
                raise self._broken(f"answered with more than {limit} bytes")
        return bytes(body)

    async def _read(self, response: aiohttp.ClientResponse, due: float, end: float, patience: float) -> bytes:
        """What came next; nothing at the end."""
        return await self._translated(response.content.readany(), min(due, end), end, patience)

    async def _refused(self, response: aiohttp.ClientResponse) -> WireError:
        return refused(await self._refusal(response), self._backend, self.key)

    async def _refusal(self, response: aiohttp.ClientResponse) -> Refusal:
        """What the beginning of its body says."""
        body = bytearray()
        most = 0 if _is_compressed(response) else MAX_ERROR_BODY  # what nobody can read is no reason
        try:
            async with asyncio.timeout(_ERROR_BODY_TIME):
                while len(body) < most and (data := await response.content.readany()):
                    body += data
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # a refusal is one with or without all of its reason
        return read_refusal(response.status, response.headers, bytes(body), self.key, time.time())

    async def _no_stream(self, response: aiohttp.ClientResponse, parser: _Parser) -> WireError:
        """Of a page that is JSON it may be worth knowing what it says: some put their errors into a 200."""
        how = f"answered with {self._shown(response.content_type)} instead of {parser.known_as}"
        if response.content_type == "application/json" and (said := (await self._refusal(response)).message):
            how += f": {said}"
        return self._broken(how)

    def _decoded(self, body: bytes, shape: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise self._broken(f"answered with what is not the JSON it should be: {self._shown(str(exc))}") from None

    def _parsed(self, parser: _Parser, data: bytes) -> list[Event]:
        try:
            return parser.feed(data)
        except EventTooLarge as exc:
            raise self._broken(f"sent too much: {exc}") from None

    # --- failures ---------------------------------------------------------------------------------------------

    async def _translated(self, work: Awaitable[T], due: float, end: float, patience: float) -> T:
        """Await `work` until `due`, which is `patience` after the last event; what fails is an error of the wire."""
        try:
            async with asyncio.timeout(max(0.0, due - time.monotonic())) as waiting:
                self._waiting.add(waiting)
                try:
                    done = await work
                finally:
                    self._waiting.remove(waiting)
            self.heard_at = time.monotonic()
            return done
        except aiohttp.ConnectionTimeoutError:
            raise self._unreachable(f"no connection within {self._deadlines.connect:g} s") from None
        except TimeoutError:
            raise self._late(patience, due >= end) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError) as exc:
            raise self._unreachable(f"TLS failed: {self._shown(str(exc))}", retryable=False) from None
        except (aiohttp.InvalidURL, UnicodeError) as exc:
            raise self._unreachable(f"base_url is no address ({type(exc).__name__})", retryable=False) from None
        except aiohttp.ClientConnectorError as exc:
            known = (exc.errno or 0) > 0  # a name that does not resolve has a number of another kind
            why = os.strerror(exc.errno or 0) if known else self._shown(str(exc.os_error))
            raise self._unreachable(why) from None
        except (aiohttp.ClientPayloadError, aiohttp.ServerConnectionError, ConnectionError) as exc:
            raise self._cut(type(exc).__name__) from None
        except aiohttp.ClientResponseError as exc:
            raise self._broken(f"did not answer in HTTP: {self._shown(exc.message)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise self._cut(type(exc).__name__) from None
        except RuntimeError as exc:
            if not self._session.closed:
                raise
            raise self._cut(type(exc).__name__) from None  # what a closed session says of its connections

    def _late(self, patience: float, in_all: bool) -> WireError:
        if self._session.closed:
            return self._stopping()
        if in_all:
            return DeadlineExceeded(
                f"the server of backend {self._backend!r} took longer than {self._deadlines.total:g} s in all",
                hint="ask for fewer tokens; the operator may allow more with total_timeout",
                details={"backend": self._backend, "limit_s": self._deadlines.total},
            )
        return self._silent(f"was silent for {patience:g} s")

    def _silent(self, how: str) -> BackendUnavailable:
        return BackendUnavailable(f"the server of backend {self._backend!r} {how}", details={"backend": self._backend})

    def _unreachable(self, why: str, retryable: bool = True) -> BackendUnavailable:
        return BackendUnavailable(
            f"the server of backend {self._backend!r} cannot be reached: {why}",
            details={"backend": self._backend, "unreachable": True},
            retryable=retryable,
        )

    def _cut(self, how: str) -> WireError:
        if self._session.closed:
            return self._stopping()
        return BackendCrashed(
            f"the server of backend {self._backend!r} broke off its answer ({how})", details={"backend": self._backend}
        )

    def _stopping(self) -> BackendUnavailable:
        return BackendUnavailable(f"backend {self._backend!r} is stopping", details={"backend": self._backend})

    def _broken(self, how: str) -> BackendCrashed:
        """It broke the rules of HTTP or of its API: doing the same again will not help."""
        return BackendCrashed(
            f"the server of backend {self._backend!r} {how}", details={"backend": self._backend}, retryable=False
        )

    def _shown(self, text: str) -> str:
        return one_line(self.key.masked(text) if self.key else text)

    def _deadline(self) -> float:
        return time.monotonic() + self._deadlines.total

    def __repr__(self) -> str:
        return f"<Upstream {self._url} {self.key or 'without a key'}, {self._running} running>"


def _is_compressed(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Encoding", "").lower() not in ("", "identity")


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """Without a farewell: that of TLS waits half a minute for a server that goes on talking."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def _connector(options: RemoteOptions) -> aiohttp.BaseConnector:
    if options.unix_socket is not None:
        return aiohttp.UnixConnector(options.unix_socket, force_close=True, limit=0)
    return aiohttp.TCPConnector(force_close=True, limit=0, ssl=_trusted(options.ca_file), family=socket.AF_UNSPEC)


def _trusted(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise VestalError(f"ca_file {ca_file} cannot be used: {exc}", hint="it must be a PEM file") from exc

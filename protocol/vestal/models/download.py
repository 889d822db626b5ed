"""One file from the web, into a file that an earlier attempt may have begun.

What is there is kept: the request asks for the rest, and a server that sends the whole instead is taken at its word
and written from the start. Which server the first part came from does not matter, nor whether the file there has
changed since: what counts is the SHA-256 over all of it in the end, and a file that fails it is removed.

The standard library does this: an HTTP client would be the only reason for a dependency. Proxies and certificates are
those of the environment (`https_proxy`, `SSL_CERT_FILE`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from vestal import __version__
from vestal.errors import ModelError
from vestal.models.address import Address
from vestal.models.remedies import translated

if TYPE_CHECKING:
    from http.client import HTTPResponse

__all__ = ["download"]

_Progress = Callable[[int, int | None], None]

_PIECE = 1 << 20
_SILENCE = 60.0  # seconds without a byte after which a server is given up
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_BY_HAND = "`vestal pull ./FILE.gguf --sha256 HEX`"
_LATER = "try again later"
_HINTS = {
    401: f"it wants credentials: fetch it with a program that has them, then {_BY_HAND}",
    403: f"it is not for everybody: fetch it with a program that may, then {_BY_HAND}",
    408: _LATER,
    429: _LATER,
}


def download(address: Address, target: Path, digest: str, progress: _Progress) -> None:
    """Complete the file `target` from `address` and check it; `progress` gets the bytes there and those in all.

    `ModelError` says what failed. After a wrong digest nothing is left; after anything else, what came is.
    """
    with translated(f"cannot write {target}"), target.open("ab+") as file:
        incoming = _Incoming(file, progress)
        kept = incoming.done
        # An earlier attempt may have been interrupted between its last byte and this check.
        if incoming.digest != digest:
            _complete(address, incoming)
    if incoming.digest == digest:
        return
    target.unlink()
    message = f"{address} has the digest {incoming.digest}, and {digest} was asked for"
    if kept:
        hint = f"the first {kept:,} bytes were of an earlier attempt, all is removed: the same command begins anew"
    else:
        hint = "it is not the file that was meant, or the digest is of another: nothing of it is kept"
    raise ModelError(message, hint=hint)


class _Incoming:
    """The file, with the digest of all that is in it."""

    def __init__(self, file: IO[bytes], progress: _Progress) -> None:
        self.file = file
        self.done = 0
        self.total: int | None = None
        self._progress = progress
        self._begin()
        file.seek(0)
        while piece := file.read(_PIECE):
            self._count(piece)

    @property
    def digest(self) -> str:
        return f"sha256-{self._hash.hexdigest()}"

    def expect(self, start: int, total: int | None) -> None:
        """The server sends what comes after `start`, of `total` bytes."""
        if start == 0:
            self.file.truncate(0)
            self._begin()
        self.total = total
        self._check_room()
        self._progress(self.done, total)

    def take(self, piece: bytes) -> None:
        self.file.write(piece)
        self._count(piece)
        self._progress(self.done, self.total)

    def _begin(self) -> None:
        import hashlib

        self._hash, self.done = hashlib.sha256(), 0

    def _count(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.done += len(piece)

    def _check_room(self) -> None:
        """The file is copied into the store when it is there, so it takes its size twice for a moment."""
        if self.total is None:
            return
        needed, free = 2 * self.total - self.done, shutil.disk_usage(self.file.fileno()).free
        if needed > free:
            hint = "`vestal rm NAME` and `vestal gc` free some; or set VESTAL_HOME to where there is more"
            raise ModelError(f"{needed:,} bytes are needed on the disk, and {free:,} are free", hint=hint)


def _complete(address: Address, incoming: _Incoming) -> None:
    asked = _request(address, incoming.done)
    try:
        with _open(asked, address) as answer:
            incoming.expect(*_place(answer, address, incoming.done))
            while piece := answer.read1(_PIECE):  # what is there: `read` would hold back what an interrupt then loses
                incoming.take(piece)
    except HTTPError as error:
        if error.code == 416 and incoming.done:  # it has no more than is there: the digest decides
            return
        raise _refused(address, error) from None
    except (HTTPException, TimeoutError, ConnectionError, URLError) as error:
        raise _interrupted(address, incoming, _reason(error)) from error
    if incoming.total is not None and incoming.done < incoming.total:
        raise _interrupted(address, incoming, "the connection ended too early")


def _request(address: Address, kept: int) -> Request:
    headers = {"User-Agent": f"vestal/{__version__}", "Accept-Encoding": "identity"}
    if kept:
        headers["Range"] = f"bytes={kept}-"
    return Request(address.url, headers=headers)  # noqa: S310  # `Address` lets https and loopback through only


def _open(request: Request, address: Address) -> HTTPResponse:
    handlers = [_Redirects(address), *([ProxyHandler({})] if address.local else [])]
    answer: HTTPResponse = build_opener(*handlers).open(request, timeout=_SILENCE)
    return answer


class _Redirects(HTTPRedirectHandler):
    """Follows to where `Address` lets it."""

    def __init__(self, address: Address) -> None:
        self._at = address

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self._at = self._at.redirected(newurl)
        return super().redirect_request(req, fp, code, msg, headers, self._at.url)


def _place(answer: HTTPResponse, address: Address, kept: int) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the file is."""
    if answer.status == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != kept:
            said = answer.headers.get("Content-Range", "nothing")
            raise ModelError(f"{address} was asked for what follows byte {kept:,} and sends {said[:80]!r}")
        return kept, None if match[2] == "*" else int(match[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _refused(address: Address, error: HTTPError) -> ModelError:
    error.close()
    hint = _HINTS.get(error.code, _LATER if error.code >= 500 else "check the address")
    return ModelError(f"{address} answered {error.code} {str(error.reason)[:80]}", hint=hint)


def _interrupted(address: Address, incoming: _Incoming, why: str) -> ModelError:
    if not incoming.done:
        return ModelError(f"{address} cannot be fetched: {why}", hint="check the network and the address")
    of = "" if incoming.total is None else f" of {incoming.total:,}"
    message = f"{address} was interrupted: {why}; {incoming.done:,}{of} bytes are here"
    return ModelError(message, hint="the same command goes on from there")


def _reason(error: Exception) -> str:
    """What a person needs of it: the operating system's words, or the certificate's fault."""
    inner = error.reason if isinstance(error, URLError) else error
    if isinstance(inner, TimeoutError):
        return f"it sent nothing for {_SILENCE:g} s"
    if isinstance(inner, OSError) and inner.errno and inner.errno > 0 and not hasattr(inner, "verify_message"):
        return os.strerror(inner.errno)
    return str(getattr(inner, "verify_message", inner))[:200] or type(inner).__name__

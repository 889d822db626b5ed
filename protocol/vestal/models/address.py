"""Which web addresses a model may come from, and how they are shown.

`https` from anywhere; `http` only from this very machine, where nobody sits in between. The digest holds what comes
in either case; what `https` adds is that nobody on the way learns which model it is, or keeps it back. A redirect may
not leave these rules, nor lead from `https` to `http`. What follows a `?` is often a signature that grants access, so
it is sent and never shown, logged or stored.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from vestal.errors import ModelError

__all__ = ["Address"]

_SCHEMES = ("https", "http")


class Address:
    """One address that is allowed."""

    def __init__(self, text: str) -> None:
        """Raises `ModelError` for an address that is not allowed."""
        self._parts = _split(text)
        self.url = self._parts._replace(fragment="").geturl()

    @property
    def local(self) -> bool:
        """Whether it is on this machine, and so never behind a proxy."""
        return _is_loopback(self._parts.hostname or "")

    @property
    def host(self) -> str:
        return self._parts.netloc

    @property
    def filename(self) -> str:
        """The last part of the path, as a file would be called."""
        return PurePosixPath(unquote(self._parts.path)).name

    def redirected(self, to: str) -> Address:
        """Where a redirect leads. Raises `ModelError` if this may not be followed."""
        try:
            target = Address(urljoin(self.url, to))
        except ModelError as error:
            raise ModelError(f"{self} redirects to where it may not: {error.message}", hint=error.hint) from None
        if self._parts.scheme == "https" and target._parts.scheme != "https":
            hint = "give the address that it leads to, if you trust the way there"
            raise ModelError(f"{self} redirects to {target}, from https to http", hint=hint)
        return target

    def __str__(self) -> str:
        return self._parts._replace(query="", fragment="").geturl()

    def __repr__(self) -> str:
        return f"<Address {self}>"


def _split(text: str) -> SplitResult:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ModelError(f"{text[:80]!r} is not an address", hint="write what is not ASCII as %XX")
    try:
        parts = urlsplit(text)
        _ = parts.port  # a port that is no number is noticed only here
    except ValueError as error:
        raise ModelError(f"{text[:80]!r} is not an address: {error}", hint="it looks like https://host/file") from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        shown = f"{parts.scheme}://{parts.hostname or ''}"
        raise ModelError(f"models are not fetched from {shown}", hint="give an address that begins with https://")
    if parts.username is not None or parts.password is not None:
        hint = "fetch it with a program that has them, then `vestal pull ./FILE.gguf --sha256 HEX`"
        raise ModelError(f"the address of {parts.hostname} holds a name or password, which is not sent", hint=hint)
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        hint = f"is it there as https://{parts.hostname}? http is for this machine alone"
        raise ModelError(f"{parts.hostname} would be asked over http, where anybody can listen", hint=hint)
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

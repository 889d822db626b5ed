"""Where a client connects, and how it introduces itself: settled when the client is made, used at each connect."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from msgspec import Struct

from vestal import messages as m
from vestal import requests
from vestal.connection import SocketKind
from vestal.errors import ConnectionFailed, LocalProtocolError, PermissionRefused
from vestal.paths import MAX_SOCKET_PATH, socket_path

__all__ = ["Endpoint", "Place", "StrPath", "refuse_foreign"]

StrPath = str | os.PathLike[str]


class Place(TypedDict, total=False):
    """The arguments of every client: where to connect, and how to introduce itself."""

    socket: StrPath | None
    runtime_dir: StrPath | None
    client: str
    versions: Sequence[int]
    require: Sequence[str]
    features: Sequence[str]
    connect_timeout: float


class Endpoint(Struct, frozen=True):
    """The socket of `kind` at `path`, the greeting, and the seconds that connecting with handshake may take."""

    kind: SocketKind
    path: Path
    hello: m.Hello
    connect_timeout: float

    @classmethod
    def of(
        cls,
        kind: SocketKind,
        *,
        socket: StrPath | None,
        runtime_dir: StrPath | None,
        client: str,
        versions: Sequence[int],
        require: Sequence[str],
        features: Sequence[str],
        connect_timeout: float,
    ) -> Endpoint:
        """From a client's arguments. Raises `ConnectionFailed` for a path that can never work, `InvalidRequest`."""
        path = Path(socket) if socket is not None else socket_path(kind, Path(runtime_dir) if runtime_dir else None)
        _check_length(path)
        hello = requests.hello_message(versions=versions, client=client, features=features, require=require)
        return cls(kind, path, hello, connect_timeout)

    @property
    def directory(self) -> Path:
        """The daemon's runtime directory: where the other sockets are."""
        return self.path.parent

    def check_startable(self) -> None:
        """Raise `LocalProtocolError` if no daemon that is started can have this socket."""
        if self.path.name != f"{self.kind}.sock":
            raise LocalProtocolError(
                f"autostart: no vestald would listen at {self.path}", hint=f"give runtime_dir: it has {self.kind}.sock"
            )

    def within(self, seconds: float) -> Endpoint:
        """The same, with at most `seconds` for connecting."""
        return Endpoint(self.kind, self.path, self.hello, max(min(self.connect_timeout, seconds), 0))

    def admin(self, timeout: float) -> Endpoint:
        """The same daemon's admin socket; what the app requires of a backend counts for nothing there."""
        greeting = m.Hello(versions=self.hello.versions, client=self.hello.client)
        return Endpoint("admin", self.directory / "admin.sock", greeting, timeout)


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        error = ConnectionFailed(
            f"the socket path {path} has {size} bytes, and a Unix socket's may have {MAX_SOCKET_PATH}",
            hint="set VESTAL_RUNTIME_DIR to a shorter directory, for vestald too",
        )
        error.retryable = False
        raise error


def refuse_foreign(directory: Path) -> None:
    """`/tmp` is everybody's: whoever made our fallback directory first could be listening to our prompts.

    To be called between connecting and the first word. Raises `PermissionRefused`.
    """
    uid = os.getuid()
    if directory != Path(f"/tmp/vestal-{uid}"):  # noqa: S108  # this is the check of that directory
        return
    owner = directory.lstat().st_uid
    if owner not in (uid, 0):
        raise PermissionRefused(
            f"{directory} belongs to uid {owner}, not to you (uid {uid}): a daemon in it would not be yours",
            hint="remove it, or set VESTAL_RUNTIME_DIR to a directory of your own",
        )

"""Where the sockets are: one rule, for the daemon that binds them and the client that looks for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["MAX_SOCKET_PATH", "default_runtime_dir", "socket_path"]

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path on Linux: `sun_path` holds 108 with its final NUL (unix(7))."""


def default_runtime_dir(environ: Mapping[str, str] | None = None) -> Path:
    """`$VESTAL_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/vestal`, else `/tmp/vestal-<uid>`."""
    environ = os.environ if environ is None else environ
    if own := environ.get("VESTAL_RUNTIME_DIR"):
        return Path(own)
    if session := environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "vestal"
    return Path(f"/tmp/vestal-{os.getuid()}")  # noqa: S108  # the daemon checks owner and mode before it uses it


def socket_path(kind: str, runtime_dir: Path | str | None = None) -> Path:
    """The path of the `infer`, `embed` or `admin` socket."""
    return Path(runtime_dir or default_runtime_dir()) / f"{kind}.sock"

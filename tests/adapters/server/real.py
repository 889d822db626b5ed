"""The real servers that there are, and backends on them with the small model."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import pytest

from vestal_adapters.server.backend import ServerBackend
from vestal_adapters.server.options import ServerOptions

__all__ = ["PROFILES", "made", "table"]

LLAMA_SERVER = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
CONTEXT = 256
PROFILES = [
    pytest.param(
        "llama-server",
        marks=pytest.mark.skipif(LLAMA_SERVER is None, reason="no llama-server on PATH or in $LLAMA_SERVER"),
    ),
    pytest.param(
        "llama_cpp.server",
        marks=pytest.mark.skipif(
            any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "uvicorn", "sse_starlette")),
            reason="llama_cpp.server is not installed: pip install 'llama-cpp-python[server]'",
        ),
    ),
]


def table(profile: str, **options: Any) -> dict[str, Any]:
    binary = {"binary": LLAMA_SERVER} if profile == "llama-server" else {}
    return {"profile": profile, "model": "smollm2-135m", "context_length": CONTEXT, "threads": 1} | binary | options


def made(profile: str, **options: Any) -> ServerBackend:
    return ServerBackend("served", ServerOptions(**table(profile, **options)))

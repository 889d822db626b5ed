"""Backends whose server is a puppet, what they report, and what they are asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vestal.backend import GenerateRequest
from vestal.values import GenerateOptions, Message
from vestal_adapters.server.backend import ServerBackend
from vestal_adapters.server.options import ServerOptions

__all__ = ["made", "request"]

HERE = Path(__file__).parent


def made(*arguments: str, place: str = "socket", **options: Any) -> ServerBackend:
    """A backend whose server is a puppet."""
    own = ["-P", str(HERE / "puppet.py"), f"--{place}", f"{{{place}}}"]
    table: dict[str, Any] = {
        "binary": sys.executable,
        "arguments": [*own, *arguments],
        "environment": {"PUPPET_KEY": "{key}"},
        "readable": [str(HERE)],
        "preset": "llamacpp",
        "ready_timeout": "50s",
    }
    table["environment"] |= options.pop("environment", {})
    return ServerBackend("served", ServerOptions(profile="custom", **(table | options)))


def request(text: str) -> GenerateRequest:
    return GenerateRequest(messages=[Message("user", text)], options=GenerateOptions(), cache_scope="1")

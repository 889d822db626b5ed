"""The reference backend: answers with what it was asked, deterministically, and with faults on request."""

from vestal_adapters.echo.backend import EchoBackend
from vestal_adapters.echo.options import EchoOptions

__all__ = ["EchoBackend", "EchoOptions"]

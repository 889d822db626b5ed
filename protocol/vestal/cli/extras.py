"""The extra `cli`: what the commands that fill a screen are drawn with, loaded by them alone."""

from __future__ import annotations

from importlib.util import find_spec

from vestal.cli.failures import MissingExtra

__all__ = ["require"]


def require(command: str, package: str) -> None:
    """Raise `MissingExtra` where `package` is not installed; nothing is loaded."""
    if find_spec(package) is None:
        raise MissingExtra(f"`vestal {command}` needs {package}, which is not installed: pip install 'vestal[cli]'")

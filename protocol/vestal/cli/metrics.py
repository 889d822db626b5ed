"""`vestal metrics`: the daemon's counters in Prometheus' text format."""

from __future__ import annotations

import sys
from argparse import Namespace

from vestal.cli.failures import OK
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.terminal import escaped_answer

__all__ = ["execute", "parser"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `metrics`: none of its own."""
    return Parser(command, purpose)


def execute(args: Namespace) -> int:
    """Print them as they came; on a terminal without control characters."""
    with admin(args) as client:
        text = client.metrics()
    sys.stdout.write(escaped_answer(text) if sys.stdout.isatty() else text)
    return OK

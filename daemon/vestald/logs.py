"""The daemon's log: one line an entry, ASCII only, whoever's text is in it.

At a terminal a line is for people; anywhere else it is one JSON object, with the facts of an event as its members.
Text is bounded, and a fault is told by its type and place: what it says may quote the prompt it happened in.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

__all__ = ["MAX_TEXT", "bounded", "configure", "report_fault", "set_level"]

MAX_TEXT = 2048
"""Characters of one text in a line."""

_OWN = ("time", "level", "event", "message", "trace")


def configure(level: str, stream: TextIO) -> None:
    """Send every log of the process to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_ForPeople() if stream.isatty() else _ForMachines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def set_level(level: str) -> None:
    """The least level that is logged from now on."""
    logging.getLogger().setLevel(level.upper())


def report_fault(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """The event loop's exception handler: what it says by itself quotes the exception, and a callback's arguments."""
    fault = context.get("exception")
    log = logging.getLogger("vestald")
    if isinstance(fault, BaseException):
        log.error("a fault in a task or callback", exc_info=(type(fault), fault, fault.__traceback__))
    else:
        log.error("event loop: %s", context.get("message", "?"))


def bounded(text: str) -> str:
    """`text`, or its beginning and how much there was of it."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}...[{len(text) - MAX_TEXT} more]"


class _ForMachines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {"time": time, "level": record.levelname.lower()}
        event = getattr(record, "event", None)
        if event is None:
            fields["message"] = bounded(record.getMessage())
        else:
            fields["event"] = event
            facts: Mapping[str, Any] = getattr(record, "facts", {})
            fields |= {(f"{name}_" if name in _OWN else name): _plain(value) for name, value in facts.items()}
        if trace := _trace_of(record):
            fields["trace"] = trace
        return json.dumps(fields, ensure_ascii=True, separators=(",", ":"), default=_shown)


class _ForPeople(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")  # people's own clock
        text = bounded(record.getMessage())
        lines = [text if text.isascii() and text.isprintable() else ascii(text)[1:-1]]
        lines += _trace_of(record).splitlines()
        return "\n".join([f"{time} {record.levelname:<7} {lines[0]}", *(ascii(line)[1:-1] for line in lines[1:])])


def _trace_of(record: logging.LogRecord) -> str:
    """Where a fault showed, and its type; never its text."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    places = "".join(traceback.format_tb(record.exc_info[2]))
    return f"Traceback (most recent call last):\n{places}{record.exc_info[0].__name__}"


def _plain(value: object) -> object:
    return bounded(value) if isinstance(value, str) else value


def _shown(value: object) -> str:
    return bounded(repr(value))

"""`vestal logs`: where the daemon's log goes, asked of the daemon itself, and its latest lines.

Only the daemon knows what its standard error is. A file is read here, a unit's journal by journalctl; for a
terminal or a pipe there is nothing to read, and the answer says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from time import sleep
from typing import BinaryIO

from vestal import DaemonNotRunning
from vestal.autostart import LOG
from vestal.cli.events import line_of
from vestal.cli.failures import FAILED, OK, MissingExtra
from vestal.cli.parser import Parser, whole
from vestal.cli.reach import admin
from vestal.cli.terminal import Screen, Style, printable, style_of
from vestal.paths import socket_path

__all__ = ["execute", "parser", "readable"]

_BLOCK = 64 * 1024
_PAUSE = 0.25  # seconds between two looks at a file: the standard library has no event for its growth

_MORE = """\
On a terminal lines are for people; elsewhere they come as they are, one JSON
object each. Without a daemon the log of the last one that was started on
demand is shown."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `logs`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("-n", "--lines", metavar="N", type=whole, default=100, help="so many of the last lines (100)")
    made.add_argument("-f", "--follow", action="store_true", help="and go on with new ones until Ctrl-C")
    made.add_argument("--where", action="store_true", help="only say where the log is")
    return made


def execute(args: Namespace) -> int:
    """Find it, show it."""
    place = _place(args)
    kind, _, where = place.partition(":")
    if args.where:
        sys.stdout.write(f"{printable(place or 'unknown')}\n")
        return OK
    if kind == "file":
        return _show(Path(where), args)
    if kind == "journal":
        return _journal(where, args)
    at = {"terminal": f"the terminal {where}", "pipe": "a pipe: whoever started it reads it", "none": "nowhere"}
    Screen().note(f"vestal: vestald writes its log to {at.get(kind, 'a place that it cannot tell')}")
    return FAILED


def _place(args: Namespace) -> str:
    """Where it goes, in the words of SPEC.md. Raises `DaemonNotRunning` where there is none, and none was."""
    try:
        with admin(args) as client:
            return client.status().log
    except DaemonNotRunning:
        left = socket_path("admin", args.runtime_dir).with_name(LOG)
        if not left.is_file():
            raise
        Screen().note(f"vestal: no vestald runs; this is the log of the last that was started on demand: {left}")
        return f"file:{left}"


def _show(path: Path, args: Namespace) -> int:
    style = style_of(sys.stdout)
    shape = (lambda line: readable(line, style)) if sys.stdout.isatty() else str
    try:
        file = path.open("rb")
    except OSError as fault:
        Screen().note(f"vestal: vestald writes its log to {path}, which cannot be read: {fault.strerror}")
        return FAILED
    with file:
        for line in _lines(file, args.lines, follow=args.follow):
            sys.stdout.write(f"{shape(line)}\n")
            sys.stdout.flush()
    return OK


def _lines(file: BinaryIO, number: int, *, follow: bool) -> Iterator[str]:
    """The last lines of a file, and then whole lines as they are written; cut short, it is read from its start."""
    file.seek(_begin_of_last(file, number))
    rest = b""
    while True:
        while data := file.read(_BLOCK):
            *whole_lines, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole_lines)
        if not follow:
            break
        sleep(_PAUSE)
        at = file.tell()
        file.seek(at if file.seek(0, 2) >= at else 0)
    if rest:
        yield rest.decode(errors="replace")


def _begin_of_last(file: BinaryIO, number: int) -> int:
    """Where the last `number` lines begin; looks at no more of the file than it must."""
    at, left = file.seek(0, 2), number + 1  # the newline at the end ends a line and begins none
    while at > 0:
        size = min(_BLOCK, at)
        at -= size
        file.seek(at)
        data = file.read(size)
        end = len(data)
        while (end := data.rfind(b"\n", 0, end)) >= 0:
            left -= 1
            if left == 0:
                return at + end + 1
    return 0


def readable(line: str, style: Style) -> str:
    """A line of the log for people; what is not of the log's own form is shown as it is, made printable."""
    try:
        fields = json.loads(line)
        when = datetime.fromisoformat(fields.pop("time")).astimezone().strftime("%H:%M:%S")
        level = str(fields.pop("level"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return printable(line)
    kind = fields.pop("event", None) or fields.pop("message", "")
    return line_of(when, str(kind), fields, style, level)


def _journal(unit: str, args: Namespace) -> int:
    follow = ["--follow"] if args.follow else []
    match = [f"_SYSTEMD_USER_UNIT={unit}", "+", f"_SYSTEMD_UNIT={unit}"]  # a user's unit, or the system's
    command = ["journalctl", "--no-pager", f"--lines={args.lines}", *follow, *match]
    try:
        return subprocess.run(command, check=False).returncode  # the user's own journalctl is meant
    except FileNotFoundError:
        raise MissingExtra(f"vestald logs to the journal, unit {unit}, and there is no journalctl to read it") from None

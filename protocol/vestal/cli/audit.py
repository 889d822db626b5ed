"""`vestal audit`: whether the audit log is whole, and its latest lines.

It reads the files, so it needs no daemon; `verify` ends with 1 if anything was found.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections import deque
from pathlib import Path
from typing import Any

from vestal.audit import Head, parse_head, read_line
from vestal.audit_files import default_audit_dir, file_names, lines_of, verify
from vestal.cli.failures import FAILED, NOT_PERMITTED, OK, UsageError
from vestal.cli.parser import Parser
from vestal.cli.terminal import Screen, printable
from vestal.cli.wording import count

__all__ = ["execute", "parser"]

_MORE = """\
`verify` reads the whole log and names each line that was removed, altered, moved
or added, by file and line. What it cannot see by itself, an end that was cut or a
log made anew, it finds with --head and a head that was noted before: `vestal
status --json` has it as audit.seq and audit.hash, and each verify prints it.
`tail` prints the latest lines (-n of them) as they are with --json.

DIR is where the log is (default: $VESTAL_HOME/audit/ and the daemon's runtime
directory; `vestal status --json` names it)."""
_SHOWN = 20  # findings; the first is the one to look at
_LINES, _MOST_LINES = 20, 100_000


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `audit`."""
    made = Parser(command, purpose, words="verify|tail [DIR]", least=1, most=2, more=_MORE)
    made.add_argument("--head", metavar="SEQ:HASH", type=_head, help="a head that was noted before")
    made.add_argument("-n", type=_number, default=_LINES, metavar="N", help=f"lines of `tail` (default: {_LINES})")
    made.add_argument("--json", action="store_true", help="print the lines as they are")
    return made


def _head(text: str) -> Head:
    try:
        return parse_head(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST_LINES:
        raise ArgumentTypeError(f"{text!r}: a number from 1 to {_MOST_LINES:,}")
    return int(text)


def execute(args: Namespace) -> int:
    """One of the two deeds."""
    deed, *rest = args.words
    directory = Path(rest[0]) if rest else default_audit_dir(args.runtime_dir)
    if deed not in ("verify", "tail"):
        raise UsageError(f"audit {deed!r}: it is `verify` or `tail`")
    try:
        return _verify(directory, args.head) if deed == "verify" else _tail(directory, args.n, as_is=args.json)
    except OSError as fault:
        why = fault.strerror or str(fault)
        Screen().note(f"vestal: {directory}: {why} ({_remedy(fault)})")
        return NOT_PERMITTED if isinstance(fault, PermissionError) else FAILED


def _remedy(fault: OSError) -> str:
    if isinstance(fault, PermissionError):
        return "the log is for the daemon's user alone"
    return "`vestal status --json` names the daemon's audit.directory"


def _verify(directory: Path, pinned: Head | None) -> int:
    log = verify(directory, pinned)
    for finding in log.findings[:_SHOWN]:
        sys.stdout.write(f"{printable(str(finding))}\n")
    if len(log.findings) > _SHOWN:
        sys.stdout.write(f"and {count(len(log.findings) - _SHOWN, 'finding')} more\n")
    said = [f"{count(log.lines, 'line')} from {log.first} to {log.head.seq}"]
    if log.dropped:
        said.append(f"{count(log.dropped, 'line')} dropped by the daemon, as they say")
    if log.unfinished:
        said.append("the last line is not finished")
    said.append(count(len(log.findings), "finding") if log.findings else "the chain is whole")
    sys.stdout.write(f"{'; '.join(said)}\nhead {log.head}\n")
    return FAILED if log.findings else OK


def _tail(directory: Path, lines: int, *, as_is: bool) -> int:
    names = file_names(directory)
    if not names:
        raise FileNotFoundError(f"there is no audit log in {directory}")
    latest: deque[bytes] = deque(maxlen=lines)
    for name in names[-2:]:  # the newest may have just been begun
        latest.extend(lines_of(directory / name))
    for line in latest:
        text = line.decode("ascii", "backslashreplace").rstrip("\n") if as_is else _shown(line)
        sys.stdout.write(f"{printable(text)}\n")
    return OK


def _shown(line: bytes) -> str:
    read = read_line(line)
    if read is None:
        return f"? {line!r}"
    fields: dict[str, Any] = read[0]
    facts = (f"{name}={_value(value)}" for name, value in fields.items() if name not in ("seq", "time", "event"))
    return f"{fields['seq']} {fields.get('time', '?')} {fields['event']} {' '.join(facts)}".rstrip()


def _value(value: object) -> str:
    return value if isinstance(value, str) and value and value.isprintable() and " " not in value else json.dumps(value)

"""The audit log's chain: how a line is sealed, and how a reader finds out that one was changed.

A line is one JSON object in ASCII. Its last member, `hash`, is the SHA-256 over the hash of the line before it (64
hex digits) followed by the line itself without that member; so `printf %s%s PREVIOUS LINE | sha256sum` checks one.
The first line of every file repeats the hash before it, so a file can be read after those before it are gone.

There is no secret in it: who may write the files can make the whole chain anew, or cut its end. Against that helps
only a `Head` that was noted elsewhere (`Verifier(pinned=…)`). Pure: bytes in, findings out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

__all__ = ["BEFORE", "MAX_TEXT", "Finding", "Head", "Record", "Verifier", "parse_head", "read_line", "seal"]

MAX_TEXT = 256
"""Characters of one text in a line; what is longer is cut, and says by how much."""

_SEAL = re.compile(rb',"hash":"([0-9a-f]{64})"\}\n\Z')
_PIN = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


class Head(Struct, frozen=True):
    """The last line of a chain: its number and its hash. Who notes it elsewhere can tell later what was changed."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


BEFORE = Head(-1, "0" * 64)
"""What the first line of a chain follows."""


class Record(Struct, frozen=True):
    """What one line says. `time` is in seconds since 1970, UTC; facts are numbers, texts, and lists of them."""

    time: float
    event: str
    facts: Mapping[str, Any]


class Finding(Struct, frozen=True):
    """Something that an untouched log does not have. `line` counts from 1; 0 stands for the whole file."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


def parse_head(text: str) -> Head:
    """`SEQ:HASH`, as `str(Head)` writes it. Raises `ValueError`."""
    match = _PIN.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no head: it is written SEQ:HASH, with 64 hex digits")
    return Head(int(match[1]), match[2])


def seal(head: Head, record: Record) -> tuple[bytes, Head]:
    """The line that follows `head`, with its newline, and the head it makes."""
    stamp = datetime.fromtimestamp(record.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    facts = {name: _bounded(value) for name, value in record.facts.items()}
    fields = {"seq": head.seq + 1, "time": stamp, "event": record.event, **facts}
    body = json.dumps(fields, ensure_ascii=True, separators=(",", ":"), allow_nan=False, default=str).encode()
    hash = _hash(head.hash, body)
    return b'%s,"hash":"%s"}\n' % (body[:-1], hash.encode()), Head(head.seq + 1, hash)


def read_line(line: bytes) -> tuple[dict[str, Any], Head] | None:
    """What a line says, and the head it claims to make; None if it is no line of an audit log."""
    match = _SEAL.search(line)
    if match is None:
        return None
    try:
        fields = json.loads(_body(line, match))
    except ValueError:
        return None
    if not isinstance(fields, dict) or type(fields.get("seq")) is not int or not isinstance(fields.get("event"), str):
        return None
    return fields, Head(fields["seq"], match[1].decode())


class Verifier:
    """Reads the lines of a log's files, oldest first, and collects what is wrong with them.

    After a finding it goes on from what the line itself claims, so each change is found once and where it is.
    """

    def __init__(self, pinned: Head | None = None) -> None:
        self.findings: list[Finding] = []
        self.lines = 0
        self.dropped = 0  # lines that the writer said it had to leave out
        self.first = -1  # the number of the oldest line
        self.head = BEFORE
        self.unfinished = False  # whether the newest file ends inside a line: a crash, or a write under way
        self._pinned = pinned
        self._met_pin = False
        self._file, self._line = "", 0
        self._kept = -1  # where the log begins, as the newest file says

    def begin_file(self, name: str) -> None:
        """The next lines are of this file."""
        if self.unfinished:
            self._find("ends inside a line, and a file follows")
        self._file, self._line, self.unfinished = name, 0, False

    def add(self, line: bytes) -> None:
        """The next line, with its newline."""
        self._line += 1
        if not line.endswith(b"\n"):
            self.unfinished = True
            return
        self.lines += 1
        read = read_line(line)
        if read is None:
            self._find("is no line of an audit log")
            return
        fields, claimed = read
        if self._line == 1:
            self._open(fields, claimed)
        self._check(line, claimed)
        self.head = claimed
        if fields["event"] == "dropped" and type(fields.get("count")) is int:
            self.dropped += fields["count"]
        if self._pinned is not None and claimed.seq == self._pinned.seq:
            self._meet(claimed)

    def finish(self) -> None:
        """No more lines come."""
        if 0 <= self._kept < self.first:
            self.findings.append(
                Finding(self._file, 0, f"the log begins with line {self._kept}, and the oldest there is {self.first}")
            )
        pinned = self._pinned
        if pinned is not None and not self._met_pin:
            if pinned.seq > self.head.seq:
                what = f"the noted head is line {pinned.seq}, and the log ends with {self.head.seq}: its end was cut"
            else:
                what = f"line {pinned.seq}, the noted head, is not there"
            self.findings.append(Finding(self._file, 0, what))

    def _open(self, fields: dict[str, Any], claimed: Head) -> None:
        previous, kept = fields.get("previous"), fields.get("kept")
        if fields["event"] != "file" or not isinstance(previous, str) or type(kept) is not int:
            self._find(f"line {claimed.seq} begins the file: those before it are missing")
            return
        self._kept = kept
        if self.first < 0:
            self.first = claimed.seq
            self.head = BEFORE if claimed.seq == 0 else Head(claimed.seq - 1, previous)

    def _check(self, line: bytes, claimed: Head) -> None:
        if self.first < 0:
            self.first = claimed.seq
        missing = claimed.seq - self.head.seq - 1
        if missing > 0:
            self._find(f"line {claimed.seq} follows {self.head.seq}: {missing} missing")
        elif missing < 0:
            self._find(f"line {claimed.seq} follows {self.head.seq}: repeated or out of order")
        else:
            match = _SEAL.search(line)
            if match is None or _hash(self.head.hash, _body(line, match)) != claimed.hash:
                self._find(f"line {claimed.seq} does not match its hash: it, or the one before it, was altered")

    def _meet(self, claimed: Head) -> None:
        self._met_pin = True
        if self._pinned != claimed:
            self._find(f"line {claimed.seq} is not the one that was noted: the log was made anew")

    def _find(self, what: str) -> None:
        self.findings.append(Finding(self._file, self._line, what))

    def __repr__(self) -> str:
        return f"<Verifier lines={self.lines} head={self.head.seq} findings={len(self.findings)}>"


def _body(line: bytes, match: re.Match[bytes]) -> bytes:
    return line[: match.start()] + b"}"


def _hash(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()


def _bounded(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}...[{len(value) - MAX_TEXT} more]"
    return value

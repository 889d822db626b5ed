"""Where an audit log is, and reading it: its files in order, each named by the number of its first line.

A file is only read if it is a regular one under its own name; a symlink in the directory is a finding, not a way out.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vestal.audit import Finding, Head, Verifier
from vestal.models.store import default_root
from vestal.paths import default_runtime_dir

__all__ = ["MAX_LINE", "default_audit_dir", "file_name", "file_names", "lines_of", "verify"]

MAX_LINE = 64 * 1024
"""Bytes of one line. The writer's are far shorter; a file without line ends must not fill the reader's memory."""

_NAME = re.compile(r"audit-(\d{12})\.ndjson")


def default_audit_dir(runtime_dir: Path | str | None = None) -> Path:
    """`$VESTAL_HOME/audit/` and the runtime directory with dashes: two daemons never write one chain."""
    runtime = Path(runtime_dir or default_runtime_dir()).expanduser().absolute()
    return default_root(os.environ) / "audit" / ("-".join(runtime.parts[1:]) or "root")


def file_name(seq: int) -> str:
    """The name of the file that begins with line `seq`."""
    return f"audit-{seq:012}.ndjson"


def file_names(directory: Path | int) -> list[str]:
    """The log's files, oldest first."""
    names = os.listdir(directory)  # noqa: PTH208  # the writer has the directory as a descriptor
    return sorted(name for name in names if _NAME.fullmatch(name))


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of one file, each with its newline if it has one. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no regular file")
        yield from iter(lambda: file.readline(MAX_LINE), b"")


def verify(directory: Path, pinned: Head | None = None) -> Verifier:
    """Read the whole log. Raises `OSError` if the directory cannot be read or there is no log in it."""
    names = file_names(directory)
    if not names:
        raise FileNotFoundError(f"there is no audit log in {directory}")
    verifier = Verifier(pinned)
    for name in names:
        verifier.begin_file(name)
        try:
            for line in lines_of(directory / name):
                verifier.add(line)
        except OSError as fault:
            verifier.findings.append(Finding(name, 0, f"cannot be read: {fault.strerror or fault}"))
    verifier.finish()
    return verifier

"""docs/audit.md names every event that can stand in an audit log, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from vestald.audit import auditor

ROOT = Path(__file__).parents[2]


def test_the_table_of_events_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs" / "audit.md").read_text(), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    told = set(auditor._EVENTS)
    for path in ("auditor.py", "log.py", "journal.py"):
        text = (ROOT / "daemon" / "vestald" / "audit" / path).read_text()
        told |= set(re.findall(r"\.add\(\s*\"(\w+)\"", text)) | set(re.findall(r"Record\([\w.()]+, \"(\w+)\"", text))
    told |= {"admitted", "queued", "refused", "connection_refused"}  # chosen between
    assert documented == told

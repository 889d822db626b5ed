"""The queue to the audit log's writer: it never waits, loses nothing in silence, and ends within its patience."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vestal.audit import BEFORE, Head, Record
from vestal.audit_files import file_names, lines_of, verify
from vestald.audit.journal import Journal
from vestald.audit.log import AuditLog


class Disk:
    """A writer that takes lines only while `open`, and fails while `full`."""

    def __init__(self) -> None:
        self.head: Head = BEFORE
        self.fault = ""
        self.full = False
        self.open = threading.Event()
        self.entered = threading.Event()
        self.closed = threading.Event()
        self.lines: list[Record] = []

    def append(self, records: list[Record]) -> int:
        self.entered.set()
        self.open.wait()
        if self.full:
            self.fault = "No space left on device"
            return 0
        self.fault = ""
        self.lines += records
        self.head = Head(self.head.seq + len(records), "0" * 64)
        return len(records)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.open.set()


def test_what_was_added_is_on_disk_in_order_once_it_is_closed(tmp_path: Path) -> None:
    async def live() -> bool:
        log = AuditLog(Journal.open(tmp_path / "audit", 100_000, 1000))
        for n in range(2000):
            log.add("test", n=n)
        return await log.aclose(20.0)

    assert asyncio.run(live())
    found = verify(tmp_path / "audit")
    assert found.findings == []
    lines = [line for name in file_names(tmp_path / "audit") for line in lines_of(tmp_path / "audit" / name)]
    assert [line.split(b'"n":')[1].split(b",")[0] for line in lines if b'"test"' in line] == [
        str(n).encode() for n in range(2000)
    ]


def test_a_disk_that_hangs_costs_lines_and_never_a_wait_and_the_chain_says_how_many(disk: Disk) -> None:
    async def live() -> None:
        log = AuditLog(disk, queue=10)
        log.add("first")
        assert disk.entered.wait(10)  # the thread hangs in the write of the first
        for n in range(25):
            log.add("test", n=n)
        assert log.dropped == 15
        disk.open.set()
        await log.aclose(10.0)

    asyncio.run(live())
    assert [(line.event, line.facts.get("n")) for line in disk.lines] == [
        ("first", None),
        ("dropped", None),
        *(("test", n) for n in range(10)),
    ]
    assert disk.lines[1].facts == {"count": 15, "in_all": 15}


def test_what_a_full_disk_refuses_is_counted_and_told_once_it_takes_lines_again(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async def live() -> int:
        disk.full = True
        log = AuditLog(disk)
        for n in range(3):
            log.add("lost", n=n)
        disk.open.set()
        while log.dropped < 3:
            await asyncio.sleep(0)
        assert log.fault == "No space left on device"
        disk.full = False
        log.add("test", n=3)
        await log.aclose(10.0)
        return log.dropped

    assert asyncio.run(live()) == 3
    assert [(line.event, dict(line.facts)) for line in disk.lines] == [
        ("dropped", {"count": 3, "in_all": 3}),
        ("test", {"n": 3}),
    ]
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "audit log: No space left on device; lines are dropped until it can be written again"
    assert told[-1] == "audit log: it is written again; 3 lines were dropped in all"
    assert len(told) == 2


def test_closing_waits_no_longer_than_its_patience_and_says_what_was_left(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async def live() -> bool:
        log = AuditLog(disk)
        log.add("first")
        assert disk.entered.wait(10)
        log.add("second")
        async with asyncio.timeout(10):
            return await log.aclose(0.05)

    assert not asyncio.run(live())
    assert "did not take its last 1 lines within 0.05 s" in caplog.text
    disk.open.set()
    assert disk.closed.wait(10)  # the thread ends by itself, though its loop is gone
    assert [line.event for line in disk.lines] == ["first", "second"]


def test_a_fact_that_json_cannot_say_costs_its_batch_and_not_the_log(tmp_path: Path) -> None:
    async def live() -> int:
        log = AuditLog(Journal.open(tmp_path / "audit", 100_000, 3))
        log.add("bad", n=float("nan"))
        while not log.dropped:
            await asyncio.sleep(0)
        log.add("good")
        await log.aclose(10.0)
        return log.dropped

    assert asyncio.run(live()) == 1
    found = verify(tmp_path / "audit")
    assert (found.findings, found.dropped) == ([], 1)


def test_what_comes_after_the_end_is_counted(tmp_path: Path) -> None:
    async def live() -> int:
        log = AuditLog(Journal.open(tmp_path / "audit", 100_000, 3))
        await log.aclose(10.0)
        await log.aclose(10.0)
        log.add("late")
        return log.dropped

    assert asyncio.run(live()) == 1

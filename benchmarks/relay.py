"""Frames per second through vestald's echo backend, against a bare relay, in turn in one run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.consumer import count_frames
from benchmarks.private import private_daemon
from benchmarks.report import Row

__all__ = ["run"]

_TOKENS = 100_000
_ROUNDS = 7
_MANY = {"requests": 64, "connections": 8}
_ECHO = '[[backend]]\nname = "echo"\nadapter = "echo"\nslots = 64\n'


@contextmanager
def _bare() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vb-") as folder:
        path = Path(folder) / "infer.sock"
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare_relay", str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield path
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()


def run() -> list[Row]:
    """Rows: one stream, then 64 requests on 8 connections."""
    one: list[tuple[float, float]] = []
    many: list[tuple[float, float]] = []
    each = _TOKENS // _MANY["requests"]
    with _bare() as bare, private_daemon(_ECHO) as (runtime, _):
        ours = runtime / "infer.sock"
        for _ in range(_ROUNDS):
            one.append((count_frames(ours, _TOKENS), count_frames(bare, _TOKENS)))
            many.append((count_frames(ours, each, **_MANY), count_frames(bare, each, **_MANY)))
    single = median(rate for rate, _ in one)
    return [
        Row.of("relay, 1 request of 100,000 tokens", "frames/s", one, "bare relay", target="≥ 300,000 frames/s"),
        Row.of("relay, 64 requests on 8 connections", "frames/s", many, "bare relay"),
        Row.of(
            "  the same, against our 1 request", "frames/s", [(rate, single) for rate, _ in many], "1 request",
            target="≥ 0.80",
        ),
    ]  # fmt: skip

"""Tokens per second of SmolLM2 through the daemon, against the raw llama.cpp loop, in turn in one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vestal
from benchmarks.offload import BACKEND_LINES
from benchmarks.private import private_daemon
from benchmarks.report import Row
from benchmarks.streams import Answer, rate, together
from vestal.models import Store
from vestal_adapters.llamacpp.cores import usable_cores

__all__ = ["run"]

_MODEL = "smollm2-135m"
_TOKENS = 200
_ROUNDS = 5
_SLOTS = 8
_PROMPT = "Write a long story about a lighthouse keeper."
_BACKEND = f"""
[[backend]]
name = "chat"
adapter = "llamacpp"
model = "{_MODEL}"
slots = {_SLOTS}
context_length = 2048
{BACKEND_LINES}"""


@contextmanager
def _raw_loop(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.raw_loop", str(path), str(_SLOTS), str(usable_cores())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "GOMP_SPINCOUNT": "1000"},
    )
    try:
        _line(process)
        yield process
    finally:
        process.kill()
        process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the raw loop died; run `python -m benchmarks.raw_loop` by hand to see why")
    return line


def _raw(process: subprocess.Popen[str], streams: int, tokens: int) -> float:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"streams": streams, "tokens": tokens}) + "\n")
    process.stdin.flush()
    return float(_line(process))


def _one(client: vestal.Client) -> Answer:
    """One greedy answer."""
    stream = client.stream(_PROMPT, max_tokens=_TOKENS, temperature=0)
    times = [time.perf_counter() for _ in stream]
    return times, stream.result.usage.output_tokens


def _ours(client: vestal.Client, streams: int) -> tuple[float, int]:
    """(tokens per second of all streams, tokens of one answer)."""
    answers = together(lambda: _one(client), streams)
    return rate(answers), min(tokens for _, tokens in answers)


def run() -> list[Row]:
    """Rows: one stream, then eight together."""
    path = Store().resolve(_MODEL).path
    pairs: dict[int, list[tuple[float, float]]] = {1: [], _SLOTS: []}
    with (
        private_daemon(_BACKEND) as (runtime, _),
        vestal.Client(runtime_dir=runtime) as client,
        _raw_loop(path) as raw,
    ):
        _ours(client, 1)
        for _ in range(_ROUNDS):
            for streams, rounds in pairs.items():
                ours, tokens = _ours(client, streams)
                rounds.append((ours, _raw(raw, streams, tokens)))
    return [
        Row.of("SmolLM2 135M, 1 stream", "tokens/s", pairs[1], "raw llama.cpp loop", target="≥ 0.95"),
        Row.of(f"SmolLM2 135M, {_SLOTS} streams together", "tokens/s", pairs[_SLOTS], "raw batch of the same"),
    ]

"""The engine shared: a long prompt beside a stream, a prefix used again, a cancel, many texts at once.

Every figure comes through the whole path (client, daemon, worker), and is set against the same work uncontended,
cold, or in raw llama.cpp, in the same run. `stall` also draws the curve of target step time against both prices.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import vestal
from benchmarks.plot import Series, draw
from benchmarks.private import private_daemon
from benchmarks.report import Row
from vestal.models import Store
from vestal_adapters.llamacpp.cores import usable_cores

__all__ = ["run"]

_ROUNDS = 3
_LONG = 3300  # tokens of the prompt that must not freeze the others
_SHARED = 1000  # tokens of the prefix that two requests have in common
_TARGETS_MS = (50, 100, 200, 400)
_PLOT = Path(__file__).parent / "stall.svg"
_WORDS = [
    "the",
    "keeper",
    "climbs",
    "a",
    "tower",
    "and",
    "lights",
    "its",
    "lamp",
    "while",
    "ships",
    "pass",
    "in",
    "fog",
    "toward",
    "harbour",
    "each",
    "night",
]


def _backend(target_ms: int = 100) -> str:
    return f"""
[[backend]]
name = "chat"
adapter = "llamacpp"
model = "smollm2-135m"
slots = 4
context_length = 4096
step_target = "{target_ms}ms"
"""


_VECTORS = '[[backend]]\nname = "vectors"\nadapter = "llamacpp"\nmodel = "minilm-l6-v2"\n'


def _text(client: vestal.Client, tokens: int) -> str:
    """Random words, never the same twice, of about `tokens` tokens."""
    words = random.choices(_WORDS, k=tokens)  # nearly a token each, with the space before it
    taken = client.count(" ".join(words)).input_tokens
    return " ".join(words[: max(1, round(tokens * tokens / taken))])


def _first_token(client: vestal.Client, prompt: str, **options: object) -> tuple[float, vestal.Result]:
    """(seconds to the first piece, result) of an answer of a few tokens."""
    begun = time.perf_counter()
    stream = client.stream(prompt, max_tokens=4, temperature=0, **options)  # type: ignore[arg-type]  # options vary
    next(iter(stream))
    first = time.perf_counter() - begun
    for _ in stream:
        pass
    return first, stream.result


def _beside(client: vestal.Client, prompt: str) -> tuple[float, float]:
    """(largest gap of a decoding stream, time to first token of the long prompt beside it), seconds."""
    times: list[float] = []
    stream = client.stream("Write a long story.", max_tokens=2000, temperature=0, cache="none")
    steady = threading.Event()

    def read() -> None:
        for _ in stream:
            times.append(time.perf_counter())
            if len(times) == 20:
                steady.set()
        steady.set()

    reader = threading.Thread(target=read)
    reader.start()
    steady.wait()
    asked = time.perf_counter()
    first, _ = _first_token(client, prompt, cache="none")
    stream.cancel()
    reader.join()
    gaps = [later - earlier for earlier, later in pairwise(times) if asked <= later <= asked + first]
    return max(gaps, default=0.0), first


def _stall() -> list[Row]:
    gaps, prices = [], []
    largest, slower = [], []
    for target in _TARGETS_MS:
        with private_daemon(_backend(target)) as (runtime, _), vestal.Client(runtime_dir=runtime) as client:
            rounds = _ROUNDS if target == 100 else 1
            measured = []
            for _ in range(rounds):
                cold, _ = _first_token(client, _text(client, _LONG), cache="none")
                measured.append((*_beside(client, _text(client, _LONG)), cold))
        largest.append((float(target), 1000 * median(gap for gap, _, _ in measured)))
        slower.append((float(target), median(first / cold for _, first, cold in measured)))
        if target == 100:
            gaps = [(1000 * gap, float(target)) for gap, _, _ in measured]
            prices = [(first, cold) for _, first, cold in measured]
    draw(
        _PLOT,
        "A 3,300-token prompt beside a decoding stream",
        "target of a step, ms",
        [Series("largest gap of the stream, ms", largest), Series("its own first token, x uncontended", slower)],
    )
    return [
        Row.of("largest gap beside a 3,300-token prompt", "ms", gaps, "target", target="≤ 150 ms"),
        Row.of("first token of that prompt", "s", prices, "uncontended", target="≤ 2.2"),
    ]


def _alone() -> list[Row]:
    """A long prompt on an idle daemon, against as many tokens in raw llama.cpp."""
    path = Store().resolve("smollm2-135m").path
    pairs = []
    command = [sys.executable, "-m", "benchmarks.raw_loop", str(path), "1", str(usable_cores()), "4096"]
    with (
        _asked(command) as raw,
        private_daemon(_backend()) as (runtime, _),
        vestal.Client(runtime_dir=runtime) as client,
    ):
        assert raw.stdout is not None
        raw.stdout.readline()  # it is ready
        for _ in range(_ROUNDS):
            ours, result = _first_token(client, _text(client, _LONG), cache="none")
            pairs.append((ours, _answer(raw, {"prefill": result.usage.input_tokens})))
    return [
        Row.of("first token of a 3,300-token prompt alone", "s", pairs, "raw llama.cpp, 512 a batch", target="≤ 1.05")
    ]


@contextmanager
def _asked(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that answers lines of JSON with numbers."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "GOMP_SPINCOUNT": "1000"},
    )
    with process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _answer(process: subprocess.Popen[str], question: object) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _prefix() -> list[Row]:
    pairs = []
    with private_daemon(_backend()) as (runtime, _), vestal.Client(runtime_dir=runtime) as client:
        for _ in range(_ROUNDS):
            shared = _text(client, _SHARED)
            cold, _ = _first_token(client, f"{shared} What is this?")
            warm, result = _first_token(client, f"{shared} Who is there?")
            if result.usage.cached_tokens < 0.9 * _SHARED:
                raise SystemExit(f"only {result.usage.cached_tokens} of {_SHARED} tokens were reused")
            pairs.append((1000 * warm, 1000 * cold))
    return [Row.of("first token, 1,000-token prefix used again", "ms", pairs, "the first time", target="≤ 0.10")]


def _cancel() -> list[Row]:
    """From the cancel to the first token of a request that waited for the slot, in steps of one stream."""
    waits = []
    backend = _backend().replace("slots = 4", "slots = 1")
    with private_daemon(backend) as (runtime, _), vestal.Client(runtime_dir=runtime) as client:
        for _ in range(20):
            stream = client.stream("Write a long story.", max_tokens=500, temperature=0, cache="none")
            pieces = iter(stream)
            times = [time.perf_counter() for _, _ in zip(range(20), pieces, strict=False)]
            step = median(later - earlier for earlier, later in pairwise(times))
            stream.cancel()
            begun = time.perf_counter()
            _wait_free(runtime)
            waits.append((1000 * (time.perf_counter() - begun), 1000 * step))
            for _ in pieces:
                pass
    return [Row.of("a cancel until the slot is free", "ms", waits, "one step", target="≤ 2")]


def _wait_free(runtime: Path) -> None:
    with vestal.AdminClient(runtime_dir=runtime) as admin:
        while admin.status().running:
            pass


def _embed() -> list[Row]:
    texts = [" ".join(random.choices(_WORDS, k=random.randint(5, 12))) for _ in range(256)]
    path = Store().resolve("minilm-l6-v2").path
    pairs = []
    command = [sys.executable, "-m", "benchmarks.raw_embed", str(path), str(usable_cores())]
    with (
        _asked(command) as raw,
        private_daemon(_VECTORS, client=vestal.EmbedClient) as (runtime, _),
        vestal.EmbedClient(runtime_dir=runtime) as client,
    ):
        client.embed(texts)
        for _ in range(2 * _ROUNDS):
            theirs = _answer(raw, texts)
            begun = time.perf_counter()
            client.embed(texts)
            pairs.append((len(texts) / (time.perf_counter() - begun), theirs))
    return [Row.of("256 short texts in one request", "texts/s", pairs, "raw packed loop, 16 a batch", target="≥ 0.95")]


def run() -> list[Row]:
    """Rows for the engine."""
    return [*_stall(), *_alone(), *_prefix(), *_cancel(), *_embed()]

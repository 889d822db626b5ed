"""What the worker's sandbox costs: putting it on, and every token and request after that.

Pairs of workers that differ in nothing but `sandbox`, fresh ones each time and in both orders, so that luck is the
same for both, and by the processor's time of the worker, which other programs change less than the clock's. The
echo makes a system call or two per token and computes nothing: the worst there is.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import Row
from vestal.backend import Backend, GenerateRequest, TextEvent
from vestal.values import GenerateOptions, Message
from vestal_adapters.echo import EchoBackend, EchoOptions
from vestal_adapters.llamacpp.backend import LlamaCppBackend
from vestal_adapters.llamacpp.options import LlamaCppOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vestal_adapters.worker.sandbox import SandboxMode

__all__ = ["run"]

_STARTS = 21
_PAIRS = 7
_TOKENS = 64
_WORDS = " ".join(["word"] * 20_000)
_BUDGET_MS = 5.0
_LOCKDOWN = """
import time
from vestal_adapters.worker.sandbox import confine
begun = time.process_time()  # nothing in it waits
confine("required")
print(1000 * (time.process_time() - begun))
"""


def _lockdown() -> Row:
    def once() -> float:
        done = subprocess.run([sys.executable, "-c", _LOCKDOWN], capture_output=True, check=True, text=True)
        return float(done.stdout)

    pairs = [(once(), _BUDGET_MS) for _ in range(_STARTS)]
    return Row.of("putting the sandbox on", "ms", pairs, "budget", target="at most 1")


@asynccontextmanager
async def _started(backend: Backend) -> AsyncIterator[Backend]:
    await backend.start(lambda event: None)
    try:
        yield backend
    finally:
        await backend.stop(5)


def _computed(pid: int) -> float:
    """Seconds that the threads of a process have been on a processor."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def _rate(backend: Backend, text: str, tokens: int) -> float:
    """Tokens per second of the worker's computing."""
    options = GenerateOptions(max_tokens=tokens, temperature=0.0)
    request = GenerateRequest(messages=[Message("user", text)], options=options)
    pid = (await backend.health()).pid
    assert pid is not None
    begun, count = _computed(pid), 0
    async for event in backend.generate(request):
        count += isinstance(event, TextEvent)
    return count / (_computed(pid) - begun)


async def _pair(make: Callable[[SandboxMode], Backend], text: str, tokens: int) -> tuple[float, float]:
    """Both modes' rates, each as the first worker and as the second: where memory came to lie is worth 8 %."""
    rates: dict[SandboxMode, float] = {"required": 0.0, "off": 0.0}
    orders: tuple[tuple[SandboxMode, SandboxMode], ...] = (("required", "off"), ("off", "required"))
    for first, second in orders:
        async with _started(make(first)) as one, _started(make(second)) as other:
            for mode, backend in ((first, one), (second, other)):
                await _rate(backend, text, tokens)  # warm
                rates[mode] += await _rate(backend, text, tokens) / len(orders)
    return rates["required"], rates["off"]


def _echo(mode: SandboxMode) -> Backend:
    return EchoBackend("echo", EchoOptions(isolation="process", sandbox=mode))


def _llama(mode: SandboxMode) -> Backend:
    # One thread: several spin while they wait for each other, which counts as computing.
    return LlamaCppBackend(
        "chat", LlamaCppOptions(model="smollm2-135m", slots=1, threads=1, context_length=1024, sandbox=mode)
    )


def run() -> list[Row]:
    """Rows: the time to put it on, and throughput with it against without."""
    rows = [_lockdown()]
    for name, make, text, tokens in (
        ("echo through a sandboxed worker", _echo, _WORDS, 20_000),
        ("SmolLM2 135M in a sandboxed worker", _llama, "Tell me a long story about a lighthouse.", _TOKENS),
    ):
        pairs = [asyncio.run(_pair(make, text, tokens)) for _ in range(_PAIRS)]
        rows.append(Row.of(name, "tok/s of computing", pairs, "not sandboxed", target="at least 0.99"))
    return rows

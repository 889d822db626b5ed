"""The same model through the servers people use: `llama-server` (on PATH, else $LLAMA_SERVER) and `llama_cpp.server`.

Each is started here with as many slots, as much context and as many threads as Vestal has, and otherwise as it comes.
What is not installed is left out, which the output says. Ratios are pair by pair, in turn, in one run.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import vestal
from benchmarks.offload import BACKEND_LINES, LAYERS
from benchmarks.private import private_daemon
from benchmarks.report import Row
from benchmarks.streams import Answer, rate, together
from vestal.models import Store
from vestal_adapters.llamacpp.cores import usable_cores

__all__ = ["run"]

_MODEL = "smollm2-135m"
_SLOTS = 8
_CONTEXT = 2048
_TOKENS = 200
_ROUNDS = 4
_START_TIMEOUT = 60.0
_PROMPT = "Write a long story about a lighthouse keeper."
_BACKEND = f"""
[[backend]]
name = "chat"
adapter = "llamacpp"
model = "{_MODEL}"
slots = {_SLOTS}
context_length = {_CONTEXT}
{BACKEND_LINES}"""


def _llama_server(path: Path, port: int) -> list[str] | None:
    program = shutil.which(os.environ.get("LLAMA_SERVER", "llama-server"))
    if program is None:
        return None
    threads = str(usable_cores())
    sizes = ["--parallel", str(_SLOTS), "--ctx-size", str(_SLOTS * _CONTEXT), "--threads", threads]
    sizes += ["--n-gpu-layers", str(LAYERS if LAYERS >= 0 else 999)]
    return [program, "--model", str(path), "--host", "127.0.0.1", "--port", str(port), *sizes]


def _llama_cpp_server(path: Path, port: int) -> list[str] | None:
    if any(importlib.util.find_spec(name) is None for name in ("uvicorn", "fastapi", "sse_starlette")):
        return None
    sizes = ["--n_ctx", str(_CONTEXT), "--n_threads", str(usable_cores())]
    sizes += ["--n_gpu_layers", str(LAYERS)]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "llama_cpp.server", "--model", str(path), *address, *sizes]


_SERVERS = {"llama-server": _llama_server, "llama_cpp.server": _llama_cpp_server}


@contextmanager
def _running(name: str, path: Path) -> Iterator[int | None]:
    """The port where the server answers, `None` where it is not installed."""
    port = _free_port()
    command = _SERVERS[name](path, port)
    if command is None:
        print(f"{name} is not installed: left out", flush=True)
        yield None
        return
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_served(name, process, port)
        yield port
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_served(name: str, process: subprocess.Popen[bytes], port: int) -> None:
    """A server that listens may still be loading: what counts is the list of its models."""
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{name} ended with status {process.returncode} instead of serving")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/v1/models")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise SystemExit(f"{name} was not ready after {_START_TIMEOUT:g} s")


def _theirs(port: int) -> Answer:
    """One greedy answer over HTTP. What was cut off counts as far as it came."""
    body = {
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": _TOKENS,
        "temperature": 0,
        "stream": True,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    times = []
    try:
        for line in connection.getresponse():
            if _holds_text(line):
                times.append(time.perf_counter())  # noqa: PERF401  # a cut stream keeps what came before
    except (OSError, http.client.HTTPException):
        pass  # cut off
    finally:
        connection.close()
    return times, len(times)


def _holds_text(line: bytes) -> bool:
    """Whether a line of the event stream brings a piece of the answer."""
    if not line.startswith(b"data: {"):
        return False
    choices = json.loads(line[6:]).get("choices")
    return bool(choices and choices[0]["delta"].get("content"))


def _ours(client: vestal.Client) -> Answer:
    stream = client.stream(_PROMPT, max_tokens=_TOKENS, temperature=0)
    times = [time.perf_counter() for _ in stream]
    return times, stream.result.usage.output_tokens


def _rates(client: vestal.Client, port: int, streams: int) -> list[tuple[float, float]]:
    return [
        (rate(together(lambda: _ours(client), streams)), rate(together(lambda: _theirs(port), streams)))
        for _ in range(_ROUNDS)
    ]


def _answered(port: int, whole: int) -> int:
    """How many of `_SLOTS` requests at once got an answer as long as one alone."""
    return sum(len(times) >= whole for times, _ in together(lambda: _theirs(port), _SLOTS))


def run() -> list[Row]:
    """Rows for each server that is installed."""
    path = Store().resolve(_MODEL).path
    rows: list[Row] = []
    with (
        private_daemon(_BACKEND) as (runtime, _),
        vestal.Client(runtime_dir=runtime) as client,
        ExitStack() as stack,
    ):
        ports = {name: stack.enter_context(_running(name, path)) for name in _SERVERS}
        _ours(client)
        if (port := ports["llama-server"]) is not None:
            _theirs(port)
            for streams in (1, _SLOTS):
                pairs = _rates(client, port, streams)
                rows.append(Row.of(f"SmolLM2, {_streams(streams)}", "tokens/s", pairs, "llama-server", target="> 1"))
        if (port := ports["llama_cpp.server"]) is not None:
            whole = len(_theirs(port)[0])
            pairs = _rates(client, port, 1)
            rows.append(Row.of("SmolLM2, 1 stream", "tokens/s", pairs, "llama_cpp.server", target="> 1"))
            print(f"llama_cpp.server: {_answered(port, whole)} of {_SLOTS} requests at once were answered whole")
    return rows


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams together"

"""A real server, `python -m llama_cpp.server` with the small model, started here and asked through the adapter."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vestal.backend import EndEvent, GenerateRequest, GenerateRequestV2, TextEvent, Unavailable
from vestal.errors import BackendCrashed, BackendUnavailable, WireError
from vestal.testing import check_backend
from vestal.values import GenerateOptions, Message, MessageV2, TextBlock
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions

pytestmark = [
    pytest.mark.model,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("llama_cpp", "uvicorn", "sse_starlette")),
        reason="llama_cpp.server is not installed: pip install 'llama-cpp-python[server]'",
    ),
]
CONTEXT = 256


@contextmanager
def server(model: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """(URL, process) of a server that was just started, and need not serve yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--model_alias", "smollm2"]
    sizes = ["--n_ctx", str(CONTEXT), "--n_threads", "1", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, *sizes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url(smollm2_path: str) -> Iterator[str]:
    with server(smollm2_path) as (url, _):
        yield url


def made(url: str) -> OpenAIBackend:
    # It runs one request at a time, and a second one interrupts the first.
    options = OpenAIOptions(preset="llamacpp", model="smollm2", base_url=url, slots=1, context_length=CONTEXT)
    return OpenAIBackend("served", options)


def test_it_is_waited_for_while_it_loads_and_then_answers(url: str) -> None:
    async def run() -> tuple[list[Any], list[Any]]:
        backend = made(url)
        await backend.start(lambda _report: None)
        try:
            options = GenerateOptions(max_tokens=8, temperature=0.0)
            v1 = GenerateRequest(messages=[Message("user", "Say hello.")], options=options, cache_scope="1")
            v2 = GenerateRequestV2(
                messages=[MessageV2("user", [TextBlock("Say hello.")])], options=options, cache_scope="1"
            )
            return [e async for e in backend.generate(v1)], [e async for e in backend.generate_v2(v2)]
        finally:
            await backend.stop(5)

    for events in asyncio.run(run()):
        end = events[-1]
        assert isinstance(end, EndEvent)
        assert end.stop_reason in ("end", "length")
        assert 0 < end.usage.output_tokens <= 8
        assert "".join(event.text for event in events if isinstance(event, TextEvent)).strip()
        assert [notice.code for notice in end.notices] == ["usage_estimated"]


def test_a_prompt_that_does_not_fit_is_refused_although_the_server_says_nothing(url: str) -> None:
    """It answers 200, and ends the stream before the first event."""

    async def run() -> WireError:
        backend = made(url)
        await backend.start(lambda _report: None)
        try:
            request = GenerateRequest(messages=[Message("user", "word " * 2 * CONTEXT)], cache_scope="1")
            with pytest.raises(WireError) as refused:
                [event async for event in backend.generate(request)]
            return refused.value
        finally:
            await backend.stop(5)

    error = asyncio.run(run())
    assert (error.code, error.retryable) == ("backend_refused", False)
    assert "does not fit" in str(error.hint)


def test_it_keeps_the_port(url: str) -> None:
    report = asyncio.run(check_backend(lambda: made(url), patience=60))
    print(report)
    assert report.passed >= {
        "readiness", "restart", "health", "generate", "generate_v2", "max_tokens", "closing", "cancelling",
        "stop_strings", "response_format", "stop_while_running", "context_overflow",
    }  # fmt: skip


def test_a_server_that_is_killed_in_the_middle_is_one_error_and_then_unavailable(smollm2_path: str) -> None:
    async def run(url: str, process: subprocess.Popen[bytes]) -> None:
        backend, reports = made(url), list[Any]()
        await backend.start(reports.append)
        try:
            request = GenerateRequest(
                messages=[Message("user", "Write a long story.")],
                options=GenerateOptions(max_tokens=200),
                cache_scope="1",
            )
            stream = backend.generate(request)
            assert isinstance(await anext(stream), TextEvent)
            process.kill()
            process.wait()  # its listening socket is gone only then
            with pytest.raises(BackendCrashed, match="broke off its answer"):
                [event async for event in stream]
            assert not any(isinstance(report, Unavailable) for report in reports)  # it may be the answer's fault
            with pytest.raises(BackendUnavailable, match="cannot be reached: Connection refused"):
                await anext(backend.generate(request))
            assert not backend.ready
            assert isinstance(reports[-1], Unavailable)
            assert (await backend.health()).state == "unavailable"
        finally:
            await backend.stop(5)

    with server(smollm2_path) as (url, process):
        asyncio.run(run(url, process))

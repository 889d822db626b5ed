"""Real servers with the small model, started here, and asked through the adapters whose APIs they speak.

`python -m llama_cpp.server` comes from PyPI; `llama-server` is used where it is on PATH or in $LLAMA_SERVER, and speaks
Anthropic's API too.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.remote.started import collected, reporting
from tests.adapters.server.real import LLAMA_SERVER, PROFILES
from vestal.backend import (
    Backend,
    CountRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Ready,
    TextEvent,
    Unavailable,
)
from vestal.errors import BackendCrashed, WireError
from vestal.testing import check_backend
from vestal.values import GenerateOptions, Message, MessageV2, TextBlock
from vestal_adapters.remote.anthropic.backend import AnthropicBackend
from vestal_adapters.remote.anthropic.options import AnthropicOptions
from vestal_adapters.remote.backend import RemoteBackend
from vestal_adapters.remote.openai.backend import OpenAIBackend
from vestal_adapters.remote.openai.options import OpenAIOptions

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

CONTEXT = 256  # of each slot
SHORT = GenerateOptions(max_tokens=8, temperature=0.0)
HELLO = GenerateRequest(messages=[Message("user", "Say hello.")], options=SHORT, cache_scope="1")
HELLO_V2 = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("Say hello.")])], options=SHORT, cache_scope="1")


def free_port() -> int:
    """One that the kernel gives to nobody unasked: it is still free after a server that had it was killed."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


class RealServer:
    """One of them, on a port that it comes back to, and the API by which it is asked."""

    def __init__(self, kind: str, api: str, model: str, *more: str) -> None:
        self._port = free_port()
        self.kind, self.api = kind, api
        self._model, self._more = model, more
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def slots(self) -> int:
        return 2 if self.kind == "llama-server" else 1  # there a second request interrupts the first

    def begin(self) -> None:
        """Start it; it need not serve yet."""
        place = ["--host", "127.0.0.1", "--port", str(self._port), "--model", self._model]
        if self.kind == "llama-server":
            command = [LLAMA_SERVER or "", "--alias", "smollm2", "--no-ui", "--threads", "1"]
            command += ["--parallel", str(self.slots), "--ctx-size", str(self.slots * CONTEXT), *self._more]
        else:
            command = [sys.executable, "-m", "llama_cpp.server", "--model_alias", "smollm2"]
            command += ["--n_ctx", str(CONTEXT), "--n_threads", "1"]
        self._process = subprocess.Popen([*command, *place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()  # its listening socket is gone only then
            self._process = None


def made(server: RealServer) -> RemoteBackend:
    if server.api == "anthropic":
        options = AnthropicOptions(model="smollm2", base_url=server.url, slots=server.slots, context_length=CONTEXT)
        return AnthropicBackend("served", options)
    length = CONTEXT if server.kind == "llama_cpp.server" else None  # which does not tell
    table = OpenAIOptions(
        preset="llamacpp", model="smollm2", base_url=server.url, slots=server.slots, context_length=length
    )
    return OpenAIBackend("served", table)


def _asked(profile: Any, api: str) -> Any:
    """Of a profile, with the reason to skip it."""
    (kind,) = profile.values
    return pytest.param((kind, api), marks=profile.marks, id=f"{kind}-{api}")


NATIVE, PYTHON = PROFILES
ANTHROPIC = _asked(NATIVE, "anthropic")


@pytest.fixture(scope="module", params=[_asked(PYTHON, "openai"), _asked(NATIVE, "openai"), ANTHROPIC])
def server(request: pytest.FixtureRequest, smollm2_path: str) -> Iterator[RealServer]:
    kind, api = request.param
    found = RealServer(kind, api, smollm2_path)
    found.begin()
    yield found
    found.kill()


def test_it_is_waited_for_while_it_loads_and_then_answers(server: RealServer) -> None:
    async def run() -> None:
        backend = made(server)
        async with reporting(backend):
            assert backend.capabilities.model == "smollm2"
            assert backend.capabilities.context_length == CONTEXT
            assert backend.capabilities.local
            for events in (await collected(backend.generate(HELLO)), await collected(backend.generate_v2(HELLO_V2))):
                end = events[-1]
                assert isinstance(end, EndEvent)
                assert end.stop_reason in ("end", "length")
                assert 0 < end.usage.output_tokens <= 8
                assert "".join(event.text for event in events if isinstance(event, TextEvent)).strip()
                estimated = server.kind == "llama_cpp.server"
                assert [notice.code for notice in end.notices] == ["usage_estimated"] * estimated

    asyncio.run(run())


def test_a_prompt_that_does_not_fit_is_told_so(server: RealServer) -> None:
    """llama_cpp.server answers 200, and ends the stream before the first event: the hint says what that may be."""

    async def run() -> WireError:
        backend = made(server)
        async with reporting(backend):
            request = GenerateRequest(messages=[Message("user", "word " * 2 * CONTEXT)], cache_scope="1")
            with pytest.raises(WireError) as refused:
                await collected(backend.generate(request))
            return refused.value

    error = asyncio.run(run())
    assert not error.retryable
    if server.kind == "llama_cpp.server":
        assert error.code == "backend_refused"
        assert "does not fit" in str(error.hint)
    else:
        assert error.code == "context_overflow"
        assert f"({CONTEXT} tokens)" in error.message


def test_it_keeps_the_port_through_a_kill_and_a_return(server: RealServer) -> None:
    @asynccontextmanager
    async def outage(_backend: Backend) -> AsyncGenerator[None]:
        server.kill()
        try:
            yield
        finally:
            server.begin()

    report = asyncio.run(check_backend(lambda: made(server), patience=60, outage=outage))
    print(report)
    assert report.passed >= {
        "readiness", "restart", "health", "generate", "generate_v2", "max_tokens", "closing", "cancelling",
        "stop_strings", "stop_while_running", "context_overflow", "loss",
    }  # fmt: skip


def test_a_server_that_is_killed_in_the_middle_is_one_error_then_unavailable_and_back(server: RealServer) -> None:
    async def run() -> None:
        backend = made(server)
        async with reporting(backend) as reports:
            story = GenerateRequest(
                messages=[Message("user", "Write a long story.")],
                options=GenerateOptions(max_tokens=200),
                cache_scope="1",
            )
            stream: Any = backend.generate(story)
            assert isinstance(await anext(stream), TextEvent)
            server.kill()
            try:
                with pytest.raises(BackendCrashed, match="broke off its answer"):
                    await collected(stream)
                lost = await reports.until(Unavailable)  # although nobody asked
                assert "cannot be reached: Connection refused" in lost.reason
                assert (await backend.health()).state == "unavailable"
            finally:
                server.begin()
            await reports.until(Ready)
            assert (await backend.health()).state == "ok"
            assert (await collected(backend.generate(HELLO)))[-1].usage.output_tokens > 0

    asyncio.run(run())


@pytest.mark.parametrize(("template", "takes"), [("llama3.1.jinja", True), ("deepseek-r1.jinja", False)])
@pytest.mark.skipif(LLAMA_SERVER is None, reason="no llama-server on PATH or in $LLAMA_SERVER")
def test_tools_are_promised_if_the_template_of_the_model_has_a_place_for_them(
    smollm2_path: str, template: str, takes: bool
) -> None:
    file = Path(__file__).parents[1] / "llamacpp" / "templates" / template
    server = RealServer("llama-server", "openai", smollm2_path, "--chat-template-file", str(file))
    server.begin()
    try:
        report = asyncio.run(check_backend(lambda: made(server), only=["capabilities", "tool_choice"]))
        assert ("tool_choice" in report.passed) == takes  # to force a call is refused by name
    finally:
        server.kill()


@pytest.mark.parametrize("server", [ANTHROPIC], indirect=True)
def test_what_is_promised_of_anthropics_api(server: RealServer) -> None:
    """llama-server counts. It also takes tools, and leaves them out in silence if the model's template has none."""

    async def run() -> None:
        backend = made(server)
        async with reporting(backend):
            assert await backend.count(CountRequest(messages=HELLO.messages)) > 3
            assert not backend.capabilities.tools
            assert not backend.capabilities.json_schema

    asyncio.run(run())

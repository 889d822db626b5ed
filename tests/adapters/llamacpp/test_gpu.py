"""A whole model on an NVIDIA GPU, from a worker with all of its sandbox on. Skipped where there is none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from vestal.backend import EmbedRequest, EndEvent, GenerateRequest, Health, TextEvent
from vestal.values import GenerateOptions, Message
from vestal_adapters.llamacpp.backend import LlamaCppBackend
from vestal_adapters.llamacpp.options import LlamaCppOptions
from vestal_adapters.worker.sandbox import LAYERS, gpu

ASK = "from vestal_adapters.llamacpp.native import why_no_gpu; print(why_no_gpu())"


@pytest.fixture(scope="module", autouse=True)
def a_gpu() -> None:
    if lacking := gpu.lacking():
        pytest.skip(f"there is no NVIDIA GPU: {', '.join(lacking)}")
    # Elsewhere: CUDA in this process would start threads in it.
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    if reason := asked.stdout.strip():
        pytest.skip(f"llama.cpp finds no GPU: {reason}")


def backend(path: str) -> LlamaCppBackend:
    return LlamaCppBackend("chat", LlamaCppOptions(model=path, gpu_layers=-1, slots=4, context_length=512))


async def said(one: LlamaCppBackend, text: str) -> str:
    options = GenerateOptions(temperature=0.0, max_tokens=24)
    events = [event async for event in one.generate(GenerateRequest(messages=[Message("user", text)], options=options))]
    assert isinstance(events[-1], EndEvent)
    return "".join(event.text for event in events if isinstance(event, TextEvent))


@pytest.mark.model
def test_a_model_answers_from_a_gpu_with_all_layers_on(smollm2_path: str) -> None:
    async def main() -> tuple[list[str], Health, str]:
        one = backend(smollm2_path)
        await one.start(lambda event: None)
        try:
            answers = await asyncio.gather(*(said(one, "The capital of France is") for _ in range(4)))
            health = await one.health()
            return answers, health, Path(f"/proc/{health.pid}/status").read_text()
        finally:
            await one.stop(10)

    answers, health, status = asyncio.run(main())
    assert [len(answer.split()) > 5 for answer in answers] == [True] * 4
    assert [layer.partition("/")[0].partition("+")[0] for layer in health.sandbox] == list(LAYERS)
    assert [layer.endswith("+gpu") for layer in health.sandbox] == [False] * 4 + [True] * 2
    assert health.unsandboxed == ()
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status


@pytest.mark.model
def test_a_model_embeds_on_a_gpu_with_all_layers_on(minilm_path: str) -> None:
    async def main() -> int:
        one = LlamaCppBackend("vectors", LlamaCppOptions(model=minilm_path, gpu_layers=-1))
        await one.start(lambda event: None)
        try:
            return (await one.embed(EmbedRequest(input=["a", "b"]))).count
        finally:
            await one.stop(10)

    assert asyncio.run(main()) == 2

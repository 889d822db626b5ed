"""An embed goes to the backend that can do what it asks: a real model with a task, a server that does not say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import vestal
from tests.adapters.remote import model
from tests.adapters.remote.threaded import running
from tests.e2e.conftest import Start
from tests.e2e.harness import echo
from vestal.errors import Unsupported

SERVER = {"adapter": "openai", "preset": "vllm", "model": "small", "kind": "embeddings"}


@pytest.mark.model
@pytest.mark.timeout(240)
def test_of_two_workers_of_a_model_the_one_with_the_task_is_asked(start: Start, model_home: Path) -> None:
    minilm = {"adapter": "llamacpp", "model": "minilm-l6-v2", "context_length": 64, "threads": 1}
    plain = {"name": "plain", **minilm}
    tasked = {"name": "tasked", **minilm, "cut_dimensions": True, "task_prefixes.query": "a question: "}
    daemon = start(plain, tasked, environ={"VESTAL_HOME": str(model_home)})
    texts = [f"where is the house number {number}" for number in range(100)]
    with vestal.EmbedClient(runtime_dir=daemon.runtime_dir) as client:
        shared = client.embed(texts, model="minilm-l6-v2")
        assert {part.backend for part in shared.parts} == {"plain", "tasked"}
        asked = client.embed(texts, model="minilm-l6-v2", task="query", dimensions=64)
        assert (asked.backend, asked.parts, asked.dimensions) == ("tasked", (), 64)
        own = client.embed(["a question: " + texts[0]], model="plain").row(0)[:64]
        likeness = sum(a * b for a, b in zip(own, asked.row(0), strict=True)) / math.hypot(*own)
        assert likeness == pytest.approx(1.0, abs=0.02)
        with pytest.raises(Unsupported, match="it knows none"):
            client.embed(texts, model="plain", task="query")
    with vestal.AdminClient(runtime_dir=daemon.runtime_dir) as admin:
        report = admin.explain_route("minilm-l6-v2", socket="embed", task="search")
        assert [one.verdict for one in report.candidates] == ["incapable"] * 2


def test_a_server_that_does_not_say_is_asked_and_one_that_does_goes_first(start: Start) -> None:
    with running(model.serve) as server:
        far = {"name": "far", "base_url": server.url, "aliases": ["both"], **SERVER}
        near = echo("near", embed=True, aliases=["both"], required=False)
        daemon = start(far, near)
        with (
            vestal.EmbedClient(runtime_dir=daemon.runtime_dir) as client,
            vestal.AdminClient(runtime_dir=daemon.runtime_dir) as admin,
        ):
            assert client.embed(["a"], model="both").backend == "far"
            assert client.embed(["a"], model="both", dimensions=4).backend == "near"
            admin.drain_backend("near")
            with pytest.raises(Unsupported, match="cuts no vectors short"):
                client.embed(["a"], model="far", dimensions=1)
            assert admin.backends()[0].breaker.failures == 0
            with pytest.raises(Unsupported, match="cannot honour task"):
                client.embed(["a"], model="both", task="query")

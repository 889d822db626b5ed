"""What a scrape shows: counters that only rise, gauges read at that moment, no label that an app can choose."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.daemon.inside import Scripted, daemon
from vestal import messages as m
from vestal.backend import EmbedResult, EndEvent, Ready, TextEvent, Unavailable
from vestal.errors import BackendUnavailable
from vestal.values import Usage
from vestald.config import RouterConfig
from vestald.metrics import Meter, Metrics

Seen = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


def values(metrics: Metrics) -> Seen:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def none() -> Iterable[Metric]:
    return ()


def test_counters_count() -> None:
    metrics = Metrics(none)
    metrics.requests.labels(backend="chat", outcome="end").inc()
    metrics.requests.labels(backend="chat", outcome="end").inc()
    metrics.tokens.labels(backend="chat", kind="output").inc(7)
    metrics.refusals.labels(code="malformed_frame").inc()
    seen = values(metrics)
    assert seen["vestal_requests_total", (("backend", "chat"), ("outcome", "end"))] == 2
    assert seen["vestal_tokens_total", (("backend", "chat"), ("kind", "output"))] == 7
    assert seen["vestal_refusals_total", (("code", "malformed_frame"),)] == 1


def test_the_pauses_of_an_answer_are_a_histogram_in_seconds() -> None:
    metrics = Metrics(none)
    meter = metrics.meter("chat")
    for seconds in (0.001, 0.002, 0.3, 1000.0):
        meter.paused(seconds)
    assert metrics.meter("chat") is meter
    seen = values(metrics)
    labels = (("backend", "chat"),)
    assert seen["vestal_token_gap_seconds_count", labels] == 4
    assert math.isclose(seen["vestal_token_gap_seconds_sum", labels], 1000.303)
    buckets = {dict(given)["le"]: v for (name, given), v in seen.items() if name == "vestal_token_gap_seconds_bucket"}
    assert (buckets["0.002"], buckets["0.2"], buckets["0.5"], buckets["5.0"], buckets["+Inf"]) == (2, 2, 3, 3, 4)


def test_a_meter_of_nobody_counts_all_the_same() -> None:
    meter = Meter()
    meter.began(1.0)
    meter.paused(0.5)
    assert (meter.total, meter.buckets[-1]) == (0.5, ("+Inf", 1.0))


def test_a_loss_and_a_return_are_counted_once() -> None:
    metrics = Metrics(none)
    labels = (("backend", "chat"),)
    metrics.lost("chat")  # it has never served: a failure to start is none
    metrics.serves("chat")
    metrics.serves("chat")  # restarted by an operator
    for _ in range(2):  # told that it is away, and then that it has been given up
        metrics.lost("chat")
    seen = values(metrics)
    assert seen["vestal_backend_losses_total", labels] == 1
    assert ("vestal_backend_restarts_total", labels) not in seen
    metrics.serves("chat")
    assert values(metrics)["vestal_backend_restarts_total", labels] == 1


def test_a_backend_that_is_forgotten_leaves_nothing_and_begins_anew() -> None:
    metrics = Metrics(none)
    for name in ("chat", "other"):
        metrics.serves(name)
        metrics.lost(name)
        metrics.requests.labels(name, "end").inc()
        metrics.admission_refusals.labels(name, "queue_full").inc()
        metrics.queue_seconds.labels(name, "normal").observe(0.1)
        metrics.meter(name).began(0.5)
        metrics.meter(name).paused(0.5)
    metrics.forget("chat")
    left = {labels for _, given in values(metrics) for labels in given if labels[0] == "backend"}
    assert left == {("backend", "other")}
    metrics.serves("chat")  # another one: it did not come back
    assert ("vestal_backend_restarts_total", (("backend", "chat"),)) not in values(metrics)
    metrics.requests.labels("chat", "end").inc()
    assert values(metrics)["vestal_requests_total", (("backend", "chat"), ("outcome", "end"))] == 1


@in_a_loop
async def test_a_backend_that_was_removed_does_not_come_back_with_the_end_of_what_others_went_on_with(
    short_dir: Path,
) -> None:
    let_go = asyncio.Event()

    async def fails(request: Any) -> AsyncIterator[Any]:
        if request:
            raise BackendUnavailable("not now")
        yield

    async def goes_on(_request: Any) -> AsyncIterator[Any]:
        await let_go.wait()
        yield EndEvent("end", Usage(input_tokens=3, output_tokens=2))

    async def quick(request: Any) -> EmbedResult:
        return EmbedResult(data=bytes(8), count=1, dimensions=2, input_tokens=5)

    async def slow(request: Any) -> EmbedResult:
        await let_go.wait()
        return await quick(request)

    alike: dict[str, Any] = {"model": "v", "embedding_dimensions": 2, "embedding_batch": 1}
    old, new = (
        Scripted(script, name=name, embed=embed, **alike)
        for name, script, embed in (("old", fails, quick), ("new", goes_on, slow))
    )
    router = RouterConfig(retry_before_first_token=1)
    async with asyncio.timeout(10), daemon(short_dir, old, new, router=router) as inside:
        house = inside.app.house
        removed = asyncio.Event()
        house.events.subscribe(lambda _seq, kind, _facts: removed.set() if kind == "backend_removed" else None)
        caller, embedder = await inside.call(), await inside.call("embed")
        caller.ask(1)
        embedder.send(m.Embed(id=1, input=["one", "two"]))
        while new.running == 0 or house.embedding.scheduler.lanes["old"].running or len(house.jobs) < 2:
            await asyncio.sleep(0)
        house.roster.remove("old", None)
        await removed.wait()
        let_go.set()
        assert (await caller.done(1)).backend == "new"
        answer = await embedder.end(1)
        assert isinstance(answer, m.Embeddings)
        assert {part.backend for part in answer.parts} == {"old", "new"}
        await house.jobs.idle()
        assert 'backend="old"' not in house.metrics.text()
        seen = values(house.metrics)
    assert one(seen, "vestal_queue_seconds_count", backend="new", **{"class": "normal"}) == 2
    assert one(seen, "vestal_tokens_total", backend="none", kind="input") == 5


def test_gauges_are_asked_at_every_scrape() -> None:
    reads: list[int] = []

    def gauges() -> Iterable[Metric]:
        reads.append(1)
        yield GaugeMetricFamily("vestal_connections", "Open connections.", value=len(reads))

    metrics = Metrics(gauges)
    assert [values(metrics)["vestal_connections", ()] for _ in range(2)] == [1, 2]


def test_two_daemons_in_one_process_do_not_share_their_counts() -> None:
    one, other = Metrics(none), Metrics(none)
    one.refusals.labels(code="x").inc()
    assert ("vestal_refusals_total", (("code", "x"),)) not in values(other)


# --- a whole daemon ---------------------------------------------------------------------------------------------


async def two_pieces(request: Any) -> AsyncIterator[Any]:
    yield TextEvent("one ")
    await asyncio.sleep(0.03)  # the gap that is to be measured
    yield TextEvent("two")
    yield EndEvent("end", Usage(input_tokens=3, cached_tokens=1, output_tokens=2))


def one(seen: Seen, name: str, **labels: str) -> float:
    return seen[name, tuple(sorted({**labels}.items()))]


@in_a_loop
async def test_a_request_is_measured_from_its_arrival_to_its_end(short_dir: Path) -> None:
    async with daemon(short_dir, Scripted(two_pieces, name="chat")) as inside:
        caller = await inside.call()
        caller.ask(1, priority="batch")
        await caller.done(1)
        caller.ask(2, model="nobody's choice of a label")
        assert (await caller.error(2)).code == "model_not_found"
        metrics = inside.app.house.metrics
        seen = values(metrics)
        assert "nobody's choice" not in metrics.text()
    chat = {"backend": "chat"}
    assert one(seen, "vestal_admissions_total", **chat, **{"class": "batch"}, decision="admitted") == 1
    assert one(seen, "vestal_admission_refusals_total", backend="none", code="model_not_found") == 1
    assert one(seen, "vestal_requests_total", **chat, outcome="end") == 1
    assert one(seen, "vestal_queue_seconds_count", **chat, **{"class": "batch"}) == 1
    assert one(seen, "vestal_first_token_seconds_count", **chat) == 1
    assert one(seen, "vestal_token_gap_seconds_count", **chat) == 1
    assert 0.03 <= one(seen, "vestal_token_gap_seconds_sum", **chat) < 10
    assert one(seen, "vestal_request_seconds_sum", **chat) >= 0.03
    assert [one(seen, "vestal_tokens_total", **chat, kind=kind) for kind in ("input", "cached", "output")] == [3, 1, 2]


@in_a_loop
async def test_what_waits_and_what_runs_is_read_off_by_class(short_dir: Path) -> None:
    go_on = asyncio.Event()

    async def held(request: Any) -> AsyncIterator[Any]:
        await go_on.wait()
        yield EndEvent("end", Usage())

    async with daemon(short_dir, Scripted(held, name="chat")) as inside:
        caller = await inside.call()
        for id, priority in enumerate(("normal", "normal", "interactive", "batch", "batch")):
            caller.ask(id, priority=priority)
        await caller.ping()
        seen = values(inside.app.house.metrics)
        go_on.set()
        for id in range(5):
            await caller.done(id)
    lane = {"lane": "generate", "backend": "chat"}
    waiting = [one(seen, "vestal_queue_waiting", **lane, **{"class": c}) for c in ("interactive", "normal", "batch")]
    assert waiting == [1, 1, 2]
    assert (one(seen, "vestal_slots", **lane), one(seen, "vestal_slots_busy", **lane)) == (1, 1)
    assert one(seen, "vestal_backend_state", backend="chat", state="ready") == 1
    assert one(seen, "vestal_daemon_state", state="ready") == 1
    assert one(seen, "vestal_daemon_state", state="loading") == 0
    assert one(seen, "vestal_backend_loaded_ratio", backend="chat") == 1
    assert one(seen, "vestald_process_resident_memory_bytes") > 0


@in_a_loop
async def test_a_worker_that_dies_and_comes_back_is_a_loss_and_a_restart(short_dir: Path) -> None:
    backend = Scripted(two_pieces, name="chat")
    async with daemon(short_dir, backend) as inside:
        backend.report(Unavailable("it died", recovering=True))
        lost = values(inside.app.house.metrics)
        backend.report(Ready())
        back = values(inside.app.house.metrics)
    chat = {"backend": "chat"}
    assert (one(lost, "vestal_backend_up", **chat), one(lost, "vestal_backend_losses_total", **chat)) == (0, 1)
    assert (one(back, "vestal_backend_up", **chat), one(back, "vestal_backend_restarts_total", **chat)) == (1, 1)


@in_a_loop
async def test_a_client_that_does_not_read_shows_as_pauses(short_dir: Path) -> None:
    async def much(request: Any) -> AsyncIterator[Any]:
        for _ in range(2000):
            yield TextEvent("x" * 10_000)
        yield EndEvent("end", Usage())

    async with daemon(short_dir, Scripted(much, name="chat"), write_timeout=0.2) as inside:
        caller = await inside.call()
        caller.ask(1)
        while not one(values(inside.app.house.metrics), "vestal_outbox_pauses_total"):
            await asyncio.sleep(0)
        assert isinstance(await caller.end(1), m.Done | m.Error)


@in_a_loop
async def test_one_that_waits_is_counted_as_queued(short_dir: Path) -> None:
    async with daemon(short_dir, Scripted(two_pieces, name="chat")) as inside:
        caller = await inside.call()
        caller.ask(1)
        caller.ask(2)
        for id in (1, 2):
            await caller.done(id)
        seen = values(inside.app.house.metrics)
    assert one(seen, "vestal_admissions_total", backend="chat", **{"class": "normal"}, decision="queued") == 1

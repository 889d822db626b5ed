"""What a scrape shows: counters that only rise, gauges read at that moment, no label that an app can choose."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from vestald.metrics import Metrics


def values(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def none() -> Iterable[GaugeMetricFamily]:
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


def test_the_wait_is_a_histogram_in_seconds() -> None:
    metrics = Metrics(none)
    for seconds in (0.0005, 0.3, 1000.0):
        metrics.queue_seconds.labels(backend="chat").observe(seconds)
    seen = values(metrics)
    assert seen["vestal_queue_seconds_count", (("backend", "chat"),)] == 3
    assert seen["vestal_queue_seconds_sum", (("backend", "chat"),)] == 1000.3005
    buckets = {labels[1][1]: v for (name, labels), v in seen.items() if name == "vestal_queue_seconds_bucket"}
    assert (buckets["0.001"], buckets["0.5"], buckets["60.0"], buckets["+Inf"]) == (1, 2, 2, 3)


def test_gauges_are_asked_at_every_scrape() -> None:
    reads: list[int] = []

    def gauges() -> Iterable[GaugeMetricFamily]:
        reads.append(1)
        yield GaugeMetricFamily("vestal_connections", "Open connections.", value=len(reads))

    metrics = Metrics(gauges)
    before = len(reads)
    first, second = (values(metrics)["vestal_connections", ()] for _ in range(2))
    assert (first, second) == (before + 1, before + 2)


def test_two_daemons_in_one_process_do_not_share_their_counts() -> None:
    one, other = Metrics(none), Metrics(none)
    one.refusals.labels(code="x").inc()
    assert ("vestal_refusals_total", (("code", "x"),)) not in values(other)

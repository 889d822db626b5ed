"""The daemon's counters, in the official Prometheus client. No label takes a value that an app can choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vestald.ticket import Ticket

__all__ = ["Metrics"]

Gauges = Callable[[], Iterable[GaugeMetricFamily]]
_WAITS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # seconds
_ERRORS = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)  # seconds


class Metrics:
    """One registry a daemon; `gauges` is asked for what can be read off at the moment of a scrape."""

    def __init__(self, gauges: Gauges) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Live(gauges))
        self.requests = Counter(
            "vestal_requests", "Requests by terminal frame: a stop reason or an error code.",
            ("backend", "outcome"), registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "vestal_tokens",
            "Tokens by kind: input, cached, output.",
            ("backend", "kind"),
            registry=self.registry,
        )
        self.refusals = Counter(
            "vestal_refusals",
            "Messages answered by an error that opened no request.",
            ("code",),
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "vestal_queue_seconds", "Time a request waited for its slot.", ("backend",), buckets=_WAITS,
            registry=self.registry,
        )  # fmt: skip

        self.eta_error = Histogram(
            "vestal_eta_error_seconds", "How far from the first start it was told a request started.",
            ("backend", "direction"), buckets=_ERRORS, registry=self.registry,
        )  # fmt: skip

    def waited(self, backend: str, ticket: Ticket) -> None:
        """Count how long a ticket waited, and how true what it was told about it was."""
        self.queue_seconds.labels(backend=backend).observe(ticket.started - ticket.entered)
        if ticket.promised is not None:
            error = ticket.started - ticket.promised
            direction = "later" if error > 0 else "earlier"
            self.eta_error.labels(backend=backend, direction=direction).observe(abs(error))

    def text(self) -> str:
        """Prometheus text exposition format."""
        return generate_latest(self.registry).decode()


class _Live(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._gauges()

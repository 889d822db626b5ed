"""What happens, counted; and times, in histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vestal.errors import ERROR_CLASSES
from vestal.values import Usage
from vestald.admission.ticket import Ticket
from vestald.metrics.meter import Meter
from vestald.serving.job import Job

__all__ = ["Metrics", "Readings"]

M = TypeVar("M", Counter, Histogram)

Readings = Callable[[], Iterable[Metric]]
_WAITS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # seconds
_FIRST = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds
_WHOLE = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds
_ERRORS = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)  # seconds


class Metrics:
    """One registry a daemon; `readings` is asked for what can be read off at the moment of a scrape."""

    def __init__(self, readings: Readings) -> None:
        self.registry = CollectorRegistry()
        self._meters: dict[str, Meter] = {}
        self._serves: dict[str, bool] = {}
        self._by_backend: list[Counter | Histogram] = []
        self.requests = self._counter("requests", "Requests by terminal frame: a stop reason or an error code.",
                                      "backend", "outcome")  # fmt: skip
        self.tokens = self._counter("tokens", "Tokens by kind: input, cached, output.", "backend", "kind")
        self.refusals = self._counter("refusals", "Messages answered by an error that opened no request.", "code")
        self.admissions = self._counter(
            "admissions", "Requests let in: into a slot at once (admitted), or to wait for one (queued).",
            "backend", "class", "decision",
        )  # fmt: skip
        self.admission_refusals = self._counter(
            "admission_refusals", "Requests that were not let in, by error code.", "backend", "code"
        )
        self.outbox_pauses = self._counter("outbox_pauses", "Times a client's unread answers stopped their producers.")
        self.backend_losses = self._counter("backend_losses", "Times a backend that served was lost.", "backend")
        self.backend_restarts = self._counter("backend_restarts", "Times one that was lost served again.", "backend")
        self.queue_seconds = self._histogram(
            "queue_seconds", "Time a request waited for its slot.", _WAITS, "backend", "class"
        )
        self.first_token_seconds = self._histogram(
            "first_token_seconds", "Time from a request's arrival to the first piece of its answer.", _FIRST, "backend"
        )
        self.request_seconds = self._histogram(
            "request_seconds", "Time from a request's arrival to its terminal frame.", _WHOLE, "backend"
        )
        self.eta_error = self._histogram(
            "eta_error_seconds", "How far from the first start it was told a request started.", _ERRORS,
            "backend", "direction",
        )  # fmt: skip
        self.registry.register(_Asked(self._pauses))
        self.registry.register(_Asked(readings))
        ProcessCollector(namespace="vestald", registry=self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return self._kept(Counter(f"vestal_{name}", help, labels, registry=self.registry), labels)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return self._kept(Histogram(f"vestal_{name}", help, labels, buckets=buckets, registry=self.registry), labels)

    def _kept(self, metric: M, labels: tuple[str, ...]) -> M:
        if "backend" in labels:
            self._by_backend.append(metric)
        return metric

    def meter(self, backend: str) -> Meter:
        """What measures the answers of one backend."""
        meter = self._meters.get(backend)
        if meter is None:
            meter = self._meters[backend] = Meter(self.first_token_seconds.labels(backend=backend).observe)
        return meter

    def serves(self, backend: str) -> None:
        """It has become ready: for the first time, after an operator's restart, or after it was lost."""
        if not self._serves.get(backend, True):
            self.backend_restarts.labels(backend).inc()
        self._serves[backend] = True

    def lost(self, backend: str) -> None:
        """It is away, and nobody asked for that. Told again, it is the same loss."""
        if self._serves.get(backend, False):
            self.backend_losses.labels(backend).inc()
            self._serves[backend] = False

    def forget(self, backend: str) -> None:
        """It is no backend of this daemon's any more; one of that name begins anew.

        What is told of it later, by requests that had to do with others too, counts for nobody in particular.
        """
        self._meters.pop(backend, None)
        self._serves.pop(backend, None)
        for metric in self._by_backend:
            metric.remove_by_labels({"backend": backend})

    def decided(self, ticket: Ticket) -> None:
        """A request was let in."""
        decision = "queued" if ticket.waiting else "admitted"
        self.admissions.labels(ticket.lane, ticket.priority, decision).inc()

    def ended(self, job: Job, outcome: str, usage: Usage, now: float) -> None:
        """A request's terminal frame has left, with a stop reason or an error code."""
        backend = self._known(job.backend)
        self.requests.labels(backend, outcome).inc()
        for reader, tokens in (job.read or {backend: usage.input_tokens}).items():
            self.tokens.labels(self._known(reader), "input").inc(tokens)
        self.tokens.labels(backend, "cached").inc(usage.cached_tokens)
        self.tokens.labels(backend, "output").inc(usage.output_tokens)
        self.request_seconds.labels(backend).observe(now - job.accepted)
        if not job.let_in and outcome in ERROR_CLASSES:
            self.admission_refusals.labels(backend, outcome).inc()
        for ticket in job.tickets:
            if ticket.started and ticket.lane in self._serves:
                self._waited(ticket)

    def _known(self, backend: str) -> str:
        """Its label: `none` without one, and for one that has been removed meanwhile."""
        return backend if backend in self._serves else "none"

    def _waited(self, ticket: Ticket) -> None:
        """How long a ticket waited, and how true what it was told about it was."""
        self.queue_seconds.labels(ticket.lane, ticket.priority).observe(ticket.started - ticket.entered)
        if ticket.promised is not None:
            error = ticket.started - ticket.promised
            direction = "later" if error > 0 else "earlier"
            self.eta_error.labels(ticket.lane, direction).observe(abs(error))

    def text(self) -> str:
        """Prometheus text exposition format."""
        return generate_latest(self.registry).decode()

    def _pauses(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(
            "vestal_token_gap_seconds", "Time between two pieces of one answer.", labels=["backend"]
        )
        for backend, meter in self._meters.items():
            family.add_metric([backend], meter.buckets, meter.total)
        yield family


class _Asked(Collector):
    """Asks somebody else at every scrape."""

    def __init__(self, ask: Readings) -> None:
        self._ask = ask

    def collect(self) -> Iterable[Metric]:
        return self._ask()

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape; without this, registering would be one."""
        return ()

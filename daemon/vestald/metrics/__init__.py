"""What the daemon counts, in the official Prometheus client, and the ways in which others get at it.

    counters   what happens: requests, tokens, waits, refusals
    meter      the time between two pieces of an answer, where a counter of that client would be too slow
    readings   what is read off at the moment of a scrape: queues, slots, states
    textfile   written for node_exporter, again and again
    endpoint   a Unix socket that speaks just enough HTTP for a scraper

A registry of its own for each daemon. No label takes a value that an app can choose: there are backends, which the
operator named, and words of fixed lists. No uid, no client's name, no model that somebody asked for.
"""

from __future__ import annotations

from vestald.metrics.counters import Metrics
from vestald.metrics.meter import Meter
from vestald.metrics.readings import readings

__all__ = ["Meter", "Metrics", "readings"]

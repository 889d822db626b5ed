"""Daemons and chain models for the fuzzers, as the end-to-end and the adapter's tests have them."""

from __future__ import annotations

from tests.adapters.llamacpp.conftest import _tidy, make_model
from tests.e2e.conftest import start

__all__ = ["_tidy", "make_model", "start"]

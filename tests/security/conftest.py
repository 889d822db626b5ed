"""Daemons for the tests of the threat model, as the end-to-end tests have them."""

from __future__ import annotations

from tests.e2e.conftest import start

__all__ = ["start"]

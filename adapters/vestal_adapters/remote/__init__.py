"""Servers that somebody else runs, behind HTTP: one core (`http`, `sse`, `backend`), and an adapter for each API."""

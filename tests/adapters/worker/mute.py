"""A program that a worker's place may be given to: it says nothing, and waits to be ended."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    while True:
        signal.pause()

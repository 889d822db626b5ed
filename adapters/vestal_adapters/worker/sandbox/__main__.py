"""What of the sandbox this machine can put on, tried out by this process: one line of JSON. For `vestal doctor`."""

from __future__ import annotations

import os

import msgspec

from vestal_adapters.worker.sandbox import confine

if __name__ == "__main__":
    # Through the descriptor: what Python's streams do on their way out is not in the filter's list.
    os.write(1, msgspec.json.encode(confine("best_effort")))
    os._exit(0)

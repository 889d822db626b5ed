"""Where the benchmarks compute: `BENCH_GPU_LAYERS` layers are on a GPU, none by default, -1 is all of them.

The same for everything that is compared.
"""

from __future__ import annotations

import os

__all__ = ["BACKEND_LINES", "LAYERS"]

LAYERS = int(os.environ.get("BENCH_GPU_LAYERS", "0"))

BACKEND_LINES = f"gpu_layers = {LAYERS}\n" if LAYERS else ""
"""What a `[[backend]]` table needs for that."""

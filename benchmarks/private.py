"""A private vestald for the time of a benchmark."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import vestal

__all__ = ["private_daemon"]


@contextmanager
def private_daemon(backends: str, *, ready_timeout: float = 120.0) -> Iterator[tuple[Path, int]]:
    """Start a daemon with these `[[backend]]` tables; gives its runtime directory and pid, and stops it."""
    with tempfile.TemporaryDirectory(prefix="vb-") as folder:
        runtime = Path(folder)
        config = runtime / "vestald.toml"
        config.write_text(f'[daemon]\nruntime_dir = "{runtime / "run"}"\n{backends}')
        process = subprocess.Popen([sys.executable, "-m", "vestald", "--config", str(config), "--log-level", "warning"])
        try:
            with vestal.Client(runtime_dir=runtime / "run") as client:
                client.wait_ready(timeout=ready_timeout)
            yield runtime / "run", process.pid
        finally:
            process.terminate()
            process.wait(30)

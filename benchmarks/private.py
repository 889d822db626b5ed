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
def private_daemon(
    backends: str, *, client: type[vestal.Client | vestal.EmbedClient] = vestal.Client, ready_timeout: float = 120.0
) -> Iterator[tuple[Path, int]]:
    """Start a daemon with these `[[backend]]` tables, wait until `client` is served, and stop it afterwards.

    Gives its runtime directory and pid.
    """
    with tempfile.TemporaryDirectory(prefix="vb-") as folder:
        runtime = Path(folder)
        config = runtime / "vestald.toml"
        audit = f'[audit]\ndirectory = "{runtime / "audit"}"\n'
        config.write_text(f"{audit}{backends}")
        command = [sys.executable, "-m", "vestald", "--config", str(config), "--log-level", "warning"]
        process = subprocess.Popen([*command, "--runtime-dir", str(runtime / "run")])
        try:
            with client(runtime_dir=runtime / "run") as waiting:
                waiting.wait_ready(timeout=ready_timeout)
            yield runtime / "run", process.pid
        finally:
            process.terminate()
            process.wait(30)

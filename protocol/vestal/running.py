"""The daemon at hand, for commands that tell more where one runs: what it serves, which file it read.

They work whatever it does. One that is somebody else's, or on its way up or down, counts as none.
"""

from __future__ import annotations

from pathlib import Path

from vestal import messages as m
from vestal.client import AdminClient
from vestal.errors import VestalError
from vestal.requests import CLIENT

__all__ = ["running_daemon"]


def running_daemon(runtime_dir: Path | str | None = None, client: str = CLIENT) -> m.StatusReport | None:
    """What the daemon of that directory says of itself; `None` without one that tells this user."""
    try:
        with AdminClient(runtime_dir=runtime_dir, client=client) as admin:
            return admin.status()
    except VestalError:
        return None

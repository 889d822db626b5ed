"""File descriptors: as many as the system lets the daemon have, and how they are shared out.

Every connection is one. What the daemon itself, its workers and its operators need is set aside first, so that a
crowd of apps can take neither an operator's way in nor a worker's restart.
"""

from __future__ import annotations

import resource

from vestald.failures import BadConfiguration

__all__ = ["TURNED_AWAY", "connections_for", "raise_limit"]

TURNED_AWAY = 64  # connections that were refused and may still be reading why
_OWN = 48  # standard streams, event loop, directory, sockets, logs, and what the interpreter opens for a moment
_ADMIN = 48
_PER_BACKEND = 16  # its channel, its stderr, its pidfd, and as many again while the next worker starts
_FEWEST = 16  # connections that a daemon must be able to take to be of any use
_NO_LIMIT = 1 << 20


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # not every system lets "unlimited" be asked for; the soft limit serves as well
            hard = soft
    return _NO_LIMIT if hard == resource.RLIM_INFINITY else hard


def connections_for(descriptors: int, backends: int) -> int:
    """How many connections of apps there is room for. Raises `BadConfiguration` if that is next to none."""
    set_aside = _OWN + _ADMIN + TURNED_AWAY + _PER_BACKEND * backends
    if descriptors - set_aside < _FEWEST:
        raise BadConfiguration(
            f"{descriptors} open files are allowed; with {backends} backends, {set_aside} are set aside and "
            f"{_FEWEST} are the fewest for connections",
            hint=f"allow at least {set_aside + _FEWEST}: ulimit -n, or LimitNOFILE= in the unit",
        )
    return descriptors - set_aside

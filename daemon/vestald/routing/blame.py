"""What a client is told when an adapter breaks, and what the log is told of where."""

from __future__ import annotations

import logging
import traceback

from vestal.errors import InternalError

__all__ = ["internal_error"]

_log = logging.getLogger("vestald")


def internal_error(backend: str, fault: BaseException) -> InternalError:
    """Log where a bug showed, and give what the client is told of it.

    Both hear its type, neither its text, which may quote the prompt.
    """
    places = "".join(traceback.format_tb(fault.__traceback__))
    _log.error("%s in a request to backend %s, at\n%s", type(fault).__name__, backend, places)
    return InternalError(
        f"backend {backend!r} failed with {type(fault).__name__}",
        hint="this is a fault in the adapter; the daemon's log has the traceback",
    )

"""How a command ends: exceptions become one line on stderr and an exit code.

The codes are those of sysexits.h where it has one. The exceptions are told apart by class; their modules are
imported only here and only once something has gone wrong.
"""

from __future__ import annotations

import errno

__all__ = [
    "BROKEN_PIPE", "EXIT_CODES", "FAILED", "INTERNAL", "INTERRUPTED", "NOT_PERMITTED", "OK", "UNAVAILABLE",
    "UNWRITTEN", "USAGE", "MissingExtra", "UsageError", "explain",
]  # fmt: skip

OK, FAILED, USAGE, UNAVAILABLE, INTERNAL, UNWRITTEN, NOT_PERMITTED = 0, 1, 2, 69, 70, 74, 77
INTERRUPTED, BROKEN_PIPE = 130, 141

EXIT_CODES = """\
exit codes
  0    done
  1    refused: by the daemon, or by the model store
  2    this command line cannot be meant
  69   the daemon, a backend or a package is not there, or not ready
  70   a bug, here or in what answers on the socket
  74   the output could not be written: a full disk, say
  77   this user may not talk to the daemon
  130  interrupted by Ctrl-C
  141  whoever read the output has gone"""


_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to standard output fails with. It alone has no name; what fails on a file of ours says which."""

_WAIT = "`vestal status` shows how far it is; --wait waits for it"


class UsageError(Exception):
    """The command line, or standard input, cannot be meant. Raised by a command after parsing."""


class MissingExtra(Exception):
    """The command needs a package that is not installed; the message says which, and how to get it."""


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line for `error`."""
    if isinstance(error, UsageError):
        return USAGE, str(error)
    if isinstance(error, MissingExtra):
        return UNAVAILABLE, str(error)
    from vestal import errors

    if isinstance(error, errors.WireError):
        retry = f"; try again in {error.retry_after:.3g} s" if error.retry_after is not None else ""
        code = NOT_PERMITTED if isinstance(error, errors.NotAuthorized) else FAILED
        return code, f"{error.code}: {error}{retry}"
    if isinstance(error, errors.DaemonNotReady) and error.retryable:
        return UNAVAILABLE, f"{error.message} ({_WAIT})"
    if isinstance(error, errors.PermissionRefused):
        return NOT_PERMITTED, str(error)
    if isinstance(error, errors.ConnectionFailed):
        return UNAVAILABLE, str(error)
    if isinstance(error, errors.ModelError):
        return FAILED, str(error)
    if isinstance(error, errors.VestalError):
        return INTERNAL, f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
        return UNWRITTEN, f"the output could not be written: {error.strerror}"
    return INTERNAL, f"internal error: {type(error).__name__}: {error} (VESTAL_DEBUG=1 shows where)"

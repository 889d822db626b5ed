"""Getting a blocking link: connect, shake hands, say why not, wait until it can be had."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

from vestal import messages as m
from vestal.discovery import explain, no_welcome, worth_asking
from vestal.endpoint import Endpoint, refuse_foreign
from vestal.errors import ConnectionFailed, VestalError, WireError
from vestal.link import Link, connect_socket
from vestal.multiplex import Call, answer_of
from vestal.readiness import ADMIN_PATIENCE, Readiness

__all__ = ["dial", "wait_for"]


def dial(endpoint: Endpoint) -> Link:
    """A link that is open for requests. Raises `ConnectionFailed` or the daemon's error."""
    try:
        return _greeted(endpoint)
    except OSError as fault:
        admin = _ask_admin(endpoint) if worth_asking(endpoint, fault) else None
        raise explain(endpoint, fault, admin) from None


def _greeted(endpoint: Endpoint) -> Link:
    """Connect and shake hands. Raises `OSError` from connecting, `VestalError` from the handshake."""
    deadline = monotonic() + endpoint.connect_timeout
    link = Link(connect_socket(str(endpoint.path), endpoint.connect_timeout), endpoint.kind, str(endpoint.path))
    try:
        refuse_foreign(endpoint.directory)
        link.greet(endpoint.hello, deadline)
    except BaseException as error:
        link.close()
        if isinstance(error, TimeoutError):
            raise no_welcome(endpoint) from None
        raise
    return link


def _ask_admin(endpoint: Endpoint) -> m.StatusReport | Exception:
    """What the daemon says of itself, or why it says nothing."""
    admin = endpoint.admin(ADMIN_PATIENCE)
    try:
        link = _greeted(admin)
        try:
            return _status(link, monotonic() + ADMIN_PATIENCE)
        finally:
            link.close()
    except TimeoutError:
        return no_welcome(admin)
    except (OSError, VestalError) as fault:
        return fault


def _status(link: Link, deadline: float) -> m.StatusReport:
    call = link.open(m.Status(id=link.mux.next_id()))
    return answer_of(link.wait(call, deadline), m.StatusReport)


def wait_for(connect: Callable[[float], m.Welcome], wait: Readiness) -> m.Welcome:
    """Call `connect(seconds)` until it succeeds. Raises what `wait` decides."""
    while True:
        try:
            return connect(wait.deadline - monotonic())
        except (ConnectionFailed, WireError) as fault:
            wait.missed(fault, monotonic())
        if not _watched(wait):
            wait.report()
            sleep(wait.pause(monotonic()))


def _watched(wait: Readiness) -> bool:
    """Follow the daemon's own account until it says ready; False if it gives none."""
    try:
        link = _greeted(wait.endpoint.admin(wait.patience(monotonic())))
    except (OSError, VestalError):
        return False
    try:
        return _followed(link, wait)
    finally:
        link.close()


def _followed(link: Link, wait: Readiness) -> bool:
    call = link.open(m.Subscribe(id=link.mux.next_id()))
    first = True
    while (status := _next_status(link, call, wait)) is not None:
        if wait.saw(status):
            return not first  # ready at first sight, and yet the connect failed: pause before the next try
        first = False
    wait.lost_sight()
    return False


def _next_status(link: Link, call: Call, wait: Readiness) -> m.StatusReport | None:
    """Where the daemon is after the next change; `None` once it tells no more.

    A change is told by its kind, and kinds may be added: each is only a reason to look at the whole again.
    """
    try:
        refused = isinstance(link.wait(call, wait.deadline)[-1], m.Error)
        return None if refused else _status(link, wait.deadline)
    except TimeoutError:
        raise wait.over() from None
    except (OSError, VestalError):
        return None

"""Getting an asyncio link: connect, shake hands, say why not, wait until it can be had. `vestal.dial`'s twin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

from vestal import messages as m
from vestal.aio_link import AsyncLink, open_link
from vestal.discovery import explain, no_welcome, worth_asking
from vestal.endpoint import Endpoint, refuse_foreign
from vestal.errors import ConnectionFailed, VestalError, WireError
from vestal.multiplex import Call, answer_of
from vestal.readiness import ADMIN_PATIENCE, Readiness

__all__ = ["dial", "wait_for"]


async def dial(endpoint: Endpoint) -> AsyncLink:
    """A link that is open for requests. Raises `ConnectionFailed` or the daemon's error."""
    try:
        return await _greeted(endpoint)
    except OSError as fault:
        admin = await _ask_admin(endpoint) if worth_asking(endpoint, fault) else None
        raise explain(endpoint, fault, admin) from None


async def _greeted(endpoint: Endpoint) -> AsyncLink:
    """Connect and shake hands. Raises `OSError` from connecting, `VestalError` from the handshake."""
    link: AsyncLink | None = None
    try:
        async with asyncio.timeout(endpoint.connect_timeout):
            link = await open_link(endpoint.kind, str(endpoint.path))
            refuse_foreign(endpoint.directory)
            await link.greet(endpoint.hello)
    except BaseException as error:
        if link is not None:
            await link.aclose()
        if isinstance(error, TimeoutError):
            raise (BlockingIOError() if link is None else no_welcome(endpoint)) from None
        raise
    return link


async def _ask_admin(endpoint: Endpoint) -> m.StatusReport | Exception:
    """What the daemon says of itself, or why it says nothing."""
    admin = endpoint.admin(ADMIN_PATIENCE)
    try:
        link = await _greeted(admin)
        try:
            async with asyncio.timeout(ADMIN_PATIENCE):
                return await _status(link)
        finally:
            await link.aclose()
    except TimeoutError:
        return no_welcome(admin)
    except (OSError, VestalError) as fault:
        return fault


async def _status(link: AsyncLink) -> m.StatusReport:
    call = await link.open(m.Status(id=link.mux.next_id()))
    return answer_of(await link.wait(call), m.StatusReport)


async def wait_for(connect: Callable[[float], Awaitable[m.Welcome]], wait: Readiness) -> m.Welcome:
    """Call `connect(seconds)` until it succeeds. Raises what `wait` decides."""
    while True:
        try:
            return await connect(wait.deadline - monotonic())
        except (ConnectionFailed, WireError) as fault:
            wait.missed(fault, monotonic())
        if not await _watched(wait):
            wait.report()
            await asyncio.sleep(wait.pause(monotonic()))


async def _watched(wait: Readiness) -> bool:
    """Follow the daemon's own account until it says ready; False if it gives none."""
    try:
        link = await _greeted(wait.endpoint.admin(wait.patience(monotonic())))
    except (OSError, VestalError):
        return False
    try:
        async with asyncio.timeout(wait.deadline - monotonic()):
            return await _followed(link, wait)
    except TimeoutError:
        raise wait.over() from None
    finally:
        await link.aclose()


async def _followed(link: AsyncLink, wait: Readiness) -> bool:
    call = await link.open(m.Subscribe(id=link.mux.next_id()))
    first = True
    while (status := await _next_status(link, call)) is not None:
        if wait.saw(status):
            return not first  # ready at first sight, and yet the connect failed: pause before the next try
        first = False
    wait.lost_sight()
    return False


async def _next_status(link: AsyncLink, call: Call) -> m.StatusReport | None:
    """Where the daemon is after the next change; `None` once it tells no more. See `vestal.dial`."""
    try:
        refused = isinstance((await link.wait(call))[-1], m.Error)
        return None if refused else await _status(link)
    except VestalError:
        return None

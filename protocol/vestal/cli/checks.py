"""The client's half of `vestal doctor`: the sockets as this user finds them, what answers there, and the models."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterator
from pathlib import Path

from vestal import AdminClient, Client, DaemonNotReady, DaemonNotRunning, EmbedClient, ModelError, __version__
from vestal import messages as m
from vestal.cli.reach import at
from vestal.cli.standing import standing
from vestal.cli.wording import count
from vestal.errors import PermissionRefused, VestalError
from vestal.findings import Finding, fail, failed, ok, warn
from vestal.models.store import Store
from vestal.models.trust import Trust
from vestal.paths import default_runtime_dir

__all__ = ["examine_daemon", "examine_store"]

_MUCH = 10_000_000  # bytes
_SERVER = f"vestald/{__version__}"


def examine_daemon(args: Namespace) -> Iterator[Finding]:
    """Whether it can be reached, as it says itself how it is, and whether it serves."""
    try:
        with AdminClient(**at(args)) as client:
            report = client.status()
    except DaemonNotRunning as error:
        left = any(_directory(args).glob("*.sock"))
        yield failed("daemon", error) if left else warn("daemon", error.message, error.hint or "")
        return
    except PermissionRefused as error:
        yield from _guest(args, error)
        return
    except VestalError as error:
        yield failed("daemon", error)
        return
    yield _daemon(report)
    for backend in report.backends:
        yield _backend(backend)
    yield from _log(report)
    if report.state == "ready":
        yield from _sockets(args, report.sockets)


def _guest(args: Namespace, refused: PermissionRefused) -> Iterator[Finding]:
    """A user whom the daemon may serve, and tells nothing of itself."""
    served = [finding for finding in _sockets(args, ("infer", "embed")) if finding.level == "ok"]
    yield ok("daemon", f"it is another user's: {refused.message}") if served else failed("daemon", refused)
    yield from served


def _directory(args: Namespace) -> Path:
    return Path(args.runtime_dir or default_runtime_dir())


def _daemon(report: m.StatusReport) -> Finding:
    says = f"{report.server} runs as process {report.pid}, and is {report.state}"
    if report.state == "failed":
        return fail("daemon", says, "vestal logs")
    if report.server != _SERVER:
        return warn("daemon", f"{says}; this is vestal {__version__}", "vestal stop, then start it again")
    if report.state != "ready":
        return warn("daemon", says, "vestal undrain" if report.state == "draining" else "vestal watch")
    return ok("daemon", says)


def _backend(backend: m.BackendStatus) -> Finding:
    about = f"backend {backend.name}"
    says = f"{standing(backend)}, {backend.running} of {count(backend.slots, 'slot')} busy"
    if backend.state in ("unavailable", "failed", "stopped"):
        return fail(about, f"{backend.state}: {backend.detail}", f"vestal backend restart {backend.name}")
    if backend.breaker.state == "open":
        failures = f"{count(backend.breaker.failures, 'failure')} of late, the last: {backend.breaker.last}"
        return warn(about, f"{says}; {failures}", "vestal logs")
    if backend.draining:
        return warn(about, says, f"vestal backend undrain {backend.name}")
    if backend.unsandboxed:
        return warn(
            about, f"{says}; not in its sandbox: {'; '.join(backend.unsandboxed)}", "what is said of its sandbox above"
        )
    if backend.restarts:
        return warn(about, f"{says}; its worker died, {count(backend.restarts, 'restart')} so far", "vestal logs")
    return ok(about, says)


def _log(report: m.StatusReport) -> Iterator[Finding]:
    if report.audit is not None and (report.audit.dropped or report.audit.fault):
        says = f"{report.audit.dropped} lines lost since the start" + f": {report.audit.fault}" * bool(
            report.audit.fault
        )
        yield fail("audit log", says, f"make room for {report.audit.directory}")


def _sockets(args: Namespace, there: Collection[str]) -> Iterator[Finding]:
    """Connect as an app of this user would."""
    for kind, client in (("infer", Client), ("embed", EmbedClient)):
        if kind not in there:
            continue
        try:
            with client(**at(args)) as connection:
                connection.connect()
        except DaemonNotReady as error:
            yield failed(f"{kind}.sock", error, "warn")  # it began to stop, or to drain, since it said it was ready
        except VestalError as error:
            yield failed(f"{kind}.sock", error)
        else:
            yield ok(f"{kind}.sock", "takes this user's connections")


def examine_store() -> Iterator[Finding]:
    """Every model of the store: whether it is there as its manifest says, and whether its signature counts."""
    store = Store()
    try:
        names = store.names()
    except ModelError as error:
        yield failed("models", error)
        return
    faults = [failed("models", fault) for name in names if (fault := _fault(store, name)) is not None]
    yield from faults
    if (left := _left(store)) > _MUCH:
        yield warn("models", f"{left / 1e6:.0f} MB of {store.root} are of no use", "vestal gc")
    if names:
        yield ok("models", f"{len(names) - len(faults)} of {len(names)} in {store.root} as they should be")
    else:
        yield warn("models", f"{store.root} is empty", "vestal pull smollm2-135m")


def _left(store: Store) -> int:
    """Bytes that `vestal gc` would free; none where this user may not write, and could not."""
    try:
        return sum(store.sweep(remove=False).values()) if store.root.is_dir() else 0
    except ModelError:
        return 0


def _fault(store: Store, name: str) -> ModelError | None:
    try:
        model, trust = store.find(name), Trust(store)
        if model is not None and trust.statement(name) is not None:
            trust.check(model)
    except ModelError as fault:
        return fault
    return None

"""What each configured backend needs, as its adapter sees it, and whether all of them fit into memory together."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from vestal import AdminClient
from vestal.errors import VestalError
from vestal.findings import Finding, fail, failed, ok
from vestal.models.available import available_memory
from vestald.backends.registry import configured_or_default
from vestald.config import BackendTable, Config
from vestald.config.backends import resolved
from vestald.failures import BadConfiguration

__all__ = ["examine_backends"]


def examine_backends(config: Config, *, thorough: bool) -> Iterator[Finding]:
    """Every backend in its order, then their sum."""
    try:
        tables = configured_or_default(config)
    except BadConfiguration as error:
        yield failed("backends", error)
        return
    loaded, memory = _loaded(config), 0
    for table in tables:
        for finding in _backend(config, table, running=table.name in loaded, thorough=thorough):
            memory += finding.memory
            yield replace(finding, about=f"{table.name}: {finding.about}")
    available = available_memory()
    if len(tables) > 1 and available is not None and memory > available.size:
        says = f"all backends together need {memory / 1e9:.1f} GB, and {available.size / 1e9:.1f} GB are available"
        yield fail("memory", f"{says} ({available.bound})", "lower slots or context_length of some, or leave one out")


def _backend(config: Config, table: BackendTable, *, running: bool, thorough: bool) -> Iterator[Finding]:
    try:
        found = resolved(config, table)
    except BadConfiguration as error:
        yield failed("options", error)
        return
    yield ok("options", f"adapter {table.adapter} takes all of them")
    try:
        yield from found.adapter.examine(found.options, running=running, thorough=thorough)
    except Exception as fault:  # an adapter may raise anything; what others find is told all the same
        yield fail(
            "adapter", f"{table.adapter} could not look: {type(fault).__name__}: {fault}", "report it to its author"
        )


def _loaded(config: Config) -> set[str]:
    """The backends that a running daemon has loaded."""
    try:
        with AdminClient(runtime_dir=config.runtime_dir(), client="vestald doctor") as client:
            return {backend.name for backend in client.backends() if backend.state == "ready"}
    except VestalError:
        return set()

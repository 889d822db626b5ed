"""The machine and what is installed on it: versions, open files, and whether systemd keeps the daemon."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from vestal.findings import Finding, fail, failed, ok, warn
from vestald import __version__
from vestald.entrance.descriptors import connections_for
from vestald.failures import BadConfiguration

__all__ = ["examine_system"]

_NEEDED = ("msgspec", "uvloop", "prometheus-client", "cryptography")
_UNIT = "vestald.service"
_PATIENCE = 10.0  # seconds for systemctl
_FEW = 64  # connections below which an operator should know


def examine_system() -> Iterator[Finding]:
    """What every daemon needs."""
    yield _versions()
    yield _kernel()
    yield _descriptors()
    yield from _services()


def _versions() -> Finding:
    found, missing = [f"vestald {__version__}", f"Python {platform.python_version()}"], []
    for name in _NEEDED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return fail(
            "versions", f"{', '.join(missing)} not installed; {', '.join(found)}", "pip install 'vestal[daemon]'"
        )
    return ok("versions", ", ".join(found))


def _kernel() -> Finding:
    says = f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs"
    if sys.platform != "linux":
        return fail("kernel", f"{says}: identities and sandboxes are those of Linux", "run it on Linux")
    try:
        os.close(os.memfd_create("vestal-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        return fail("kernel", f"{says}; no sealed memory: {error.strerror}", 'integrity = "lease" in each backend')
    return ok("kernel", f"{says}, sealed memory")


def _descriptors() -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        return ok("open files", "any number of descriptors allowed")
    says = f"{hard:,} descriptors allowed"
    try:
        room = connections_for(hard, 1)
    except BadConfiguration as error:
        return failed("open files", error)
    if room < _FEW:
        return warn(
            "open files", f"{says}: room for {room} connections", "raise `ulimit -Hn`, or LimitNOFILE= in the unit"
        )
    return ok("open files", says)


def _services() -> Iterator[Finding]:
    if shutil.which("systemctl") is None:
        yield ok("systemd", "not on this machine: nothing to look at")
        return
    seen = False
    for whose, words in (("of the machine", ()), ("of this user", ("--user",))):
        facts = _unit_facts(*words)
        if facts is not None and facts.get("LoadState") not in (None, "not-found"):
            seen = True
            yield _unit(whose, " ".join(("systemctl", *words)), facts)
    if not seen:
        yield ok("systemd", f"no {_UNIT}: `vestald install-service` would make one")


def _unit_facts(*words: str) -> dict[str, str] | None:
    """What systemd knows of the unit; None if it cannot be asked, as in a container."""
    properties = "LoadState,ActiveState,SubState,UnitFileState,NRestarts,Result"
    command = ["systemctl", *words, "show", _UNIT, f"--property={properties}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _unit(whose: str, systemctl: str, facts: dict[str, str]) -> Finding:
    state, restarts = facts.get("ActiveState", "?"), facts.get("NRestarts", "0")
    says = f"{_UNIT} {whose} is {state} ({facts.get('SubState', '?')}), {facts.get('UnitFileState') or 'not enabled'}"
    if facts.get("LoadState") != "loaded":
        return fail(
            "systemd", f"{_UNIT} {whose} cannot be loaded: {facts.get('LoadState')}", f"{systemctl} cat {_UNIT}"
        )
    if state == "failed":
        return fail("systemd", f"{says}: {facts.get('Result')}", f"{systemctl} status {_UNIT}")
    if restarts.isdigit() and int(restarts):
        return warn("systemd", f"{says}, restarted {restarts} times", f"{systemctl} status {_UNIT}")
    return ok("systemd", says)

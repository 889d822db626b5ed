"""Why the daemon cannot be reached: a failed connect becomes the error that says what to do.

Which socket exists is the daemon's first statement (a missing `infer.sock` means "not ready"), so most of the
answer is in the failure itself. Only for a missing socket is `admin.sock` worth asking; the shells do that,
each in its own way, and hand in what came of it. Nothing here connects.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from vestal import messages as m
from vestal.connection import SocketKind
from vestal.endpoint import Endpoint
from vestal.errors import ConnectionFailed, DaemonNotReady, DaemonNotRunning, PermissionRefused, VestalError
from vestal.paths import default_runtime_dir

__all__ = ["explain", "no_welcome", "not_serving", "progress_text", "worth_asking"]


def worth_asking(endpoint: Endpoint, fault: OSError) -> bool:
    """Whether `admin.sock` can tell more about a connect that failed with `fault`."""
    return endpoint.kind != "admin" and isinstance(fault, FileNotFoundError)


def explain(endpoint: Endpoint, fault: OSError, admin: m.StatusReport | Exception | None) -> ConnectionFailed:
    """Why connecting failed with `fault`; `admin` is what asking `admin.sock` gave, if it was asked."""
    path = endpoint.path
    if isinstance(fault, FileNotFoundError):
        return _missing(endpoint, admin)
    if isinstance(fault, NotADirectoryError):
        return DaemonNotRunning(f"no vestald at {path.parent}: it is no directory", hint="name a directory")
    if isinstance(fault, ConnectionRefusedError):
        return _not_running(path.parent, f"{path.name} is left over, nobody listens")
    if isinstance(fault, PermissionError):
        return _refused(path)
    if isinstance(fault, BlockingIOError):
        return ConnectionFailed(f"vestald at {path} takes no connections: its backlog stayed full", hint="try later")
    return ConnectionFailed(f"cannot connect to {path}: {fault.strerror or fault}")


def no_welcome(endpoint: Endpoint) -> ConnectionFailed:
    """The handshake took too long."""
    return ConnectionFailed(
        f"what listens at {endpoint.path} sent no welcome within {endpoint.connect_timeout:g} s",
        hint="is it vestald? `vestal status` asks on another socket",
    )


def _missing(endpoint: Endpoint, admin: m.StatusReport | Exception | None) -> ConnectionFailed:
    where, name = endpoint.directory, endpoint.path.name
    if isinstance(admin, m.StatusReport):
        return not_serving(endpoint.kind, where, admin)
    if isinstance(admin, PermissionError):
        return DaemonNotReady(
            f"vestald at {where} does not serve {name} (yet); admin.sock would tell why, but not to this user",
            hint="wait for it: client.wait_ready()",
        )
    if isinstance(admin, VestalError):
        return DaemonNotReady(f"vestald at {where} does not serve {name}; admin.sock: {admin.message}")
    gone = f"{name} does not exist"
    if isinstance(admin, FileNotFoundError):
        gone = f"neither {name} nor admin.sock exists"
    elif isinstance(admin, ConnectionRefusedError):
        gone += ", and nobody listens at admin.sock"
    return _not_running(where, gone)


def _not_running(where: Path, why: str) -> DaemonNotRunning:
    usual = where == default_runtime_dir()
    command = "vestald" if usual else f"vestald --runtime-dir {shlex.quote(str(where))}"
    return DaemonNotRunning(f"no vestald at {where}: {why}", hint=f"start it: {command}")


def not_serving(kind: SocketKind, where: Path, status: m.StatusReport) -> DaemonNotReady:
    """Why a daemon in this state has no socket of `kind`; not `retryable` where waiting cannot help."""
    if status.state != "ready":
        failed = status.state == "failed"
        hint = "read its log" if failed else "wait for it: client.wait_ready()"
        error = _not_ready(f"vestald at {where} is {progress_text(status)}", hint, retryable=not failed)
        error.state = status.state
        return error
    can = {"infer": ("generate", "generates text"), "embed": ("embed", "makes vectors")}.get(kind)
    if can is not None and not _some_backend(status, can[0]):
        what = f"vestald at {where} is ready, and no configured backend can {can[0]}"
        return _not_ready(what, f"add a backend that {can[1]} to vestald.toml", retryable=False)
    return _not_ready(f"vestald at {where} says it is ready, but {kind}.sock is not there", "try again", retryable=True)


def _not_ready(message: str, hint: str, *, retryable: bool) -> DaemonNotReady:
    error = DaemonNotReady(message, hint=hint)
    error.retryable = retryable
    return error


def _some_backend(status: m.StatusReport, capability: str) -> bool:
    """Whether some backend may have the capability: one that has not said counts as able."""
    return any(b.capabilities is None or getattr(b.capabilities, capability) for b in status.backends)


def progress_text(status: m.StatusReport) -> str:
    """One line: the lifecycle state, and where each backend is."""
    backends = ", ".join(_backend_text(backend) for backend in status.backends)
    return f"{status.state}: {backends}" if backends else status.state


def _backend_text(backend: m.BackendStatus) -> str:
    percent = f" {backend.percent:.0f} %" if backend.percent is not None and backend.state == "loading" else ""
    detail = f" ({backend.detail})" if backend.detail and backend.state != "ready" else ""
    return f"{backend.name} {backend.state}{percent}{detail}"


def _refused(path: Path) -> PermissionRefused:
    """Name what keeps this user out: a directory on the way, or the socket's own mode."""
    for directory in reversed(path.parents):
        if not os.access(directory, os.X_OK) and directory.exists():
            return PermissionRefused(f"{_described(directory)}; {_me()}", hint=_way_in(directory))
    try:
        return PermissionRefused(f"{_described(path)}; {_me()}", hint=_way_in(path))
    except OSError as error:
        return PermissionRefused(f"this user may not open {path}: {error.strerror}; {_me()}")


def _described(path: Path) -> str:
    info = path.stat()
    mode = stat.S_IMODE(info.st_mode)
    return f"{path} has mode {mode:04o}, owner {_user(info.st_uid)}, group {_group(info.st_gid)}"


def _way_in(path: Path) -> str:
    info = path.stat()
    group_may = info.st_mode & (stat.S_IXGRP if stat.S_ISDIR(info.st_mode) else stat.S_IWGRP)
    owner = _user(info.st_uid)
    return f"join the group {_group(info.st_gid)}, or be {owner}" if group_may else f"only {owner} may open it"


def _me() -> str:
    groups = ", ".join(_group(gid) for gid in sorted({os.getegid(), *os.getgroups()}))
    return f"you are {_user(os.geteuid())} in {groups}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"

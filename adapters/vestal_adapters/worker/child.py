"""The worker process: one engine, one pipe, one plain loop.

    python -m vestal_adapters.worker.child --fd N --parent PID

It lives as long as its parent and no longer: the kernel kills it when the parent dies (PR_SET_PDEATHSIG), and the
end of the pipe ends it. Standard output and error are for diagnostics only; the host keeps them in memory.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import cast

import msgspec

from vestal.errors import VestalError
from vestal_adapters.worker import wire
from vestal_adapters.worker.engine import Engine, Progress
from vestal_adapters.worker.loop import HostBroken, HostGone, Loop, Pipe, place_of
from vestal_adapters.worker.sandbox import confine

__all__ = ["main"]

PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    """Run one worker from configuration to stop; returns the exit status."""
    parser = argparse.ArgumentParser(prog="vestal_adapters.worker.child", description="Started by the daemon only.")
    parser.add_argument("--fd", type=int, required=True, help="this side's end of the socketpair")
    parser.add_argument("--parent", type=int, required=True, help="the process to live and die with")
    options = parser.parse_args(arguments)
    tie_to_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the daemon's business
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would put prompts on disk
    os.set_inheritable(options.fd, False)
    sock = socket.socket(fileno=options.fd)
    try:
        return serve(Pipe(sock))
    except HostGone:
        return 0
    except HostBroken as broken:
        sys.stderr.write(f"{broken.message}\n")
        return 1
    finally:
        sock.detach()  # closed by the kernel at the very end: the host takes its end for that of the process


def tie_to_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that spawned it ends; exit if that has happened."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(0)


def serve(pipe: Pipe) -> int:
    """Be configured, load, serve, stop."""
    configure, *early = _first(pipe)
    if not isinstance(configure, wire.Configure):
        raise HostBroken(f"the host sent {type(configure).__name__} to a worker that is not configured")
    progress = _Progress(pipe)
    try:
        pipe.send(wire.encode(wire.Progress(0)))  # the handshake: this process runs
        engine, loaded = load_engine(import_engine(configure.engine), configure, progress)
    except HostGone:
        raise
    except Exception as exc:  # whatever it is, it is said in words before the process ends
        pipe.send(wire.encode(_load_failure(configure.engine, exc)))
        return 1
    pipe.send(wire.encode(loaded))
    Loop(pipe, engine).run(early)
    engine.close()
    return 0


def _first(pipe: Pipe) -> list[wire.HostMessage]:
    while not (messages := pipe.receive(wait=True)):
        pass
    return messages


def import_engine(name: str) -> type[Engine]:
    """The class of "module:Class", with all it imports. The model is not touched: see `load_engine`."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        raise VestalError(
            f"engine {name} needs the Python module {exc.name!r}, which is not installed",
            hint="install vestal with the extra of this adapter",
        ) from exc
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise VestalError(f"{name} is not an Engine")
    return found


def load_engine(
    engine_class: type[Engine], configure: wire.Configure, progress: Progress
) -> tuple[Engine, wire.Loaded]:
    """Make the engine, open its files, lock the door, and read its model: the first untrusted thing to be parsed."""
    create = cast("Callable[[object], Engine]", engine_class)  # each engine's own Options
    engine = create(msgspec.msgpack.decode(configure.options, type=engine_class.Options))
    files = engine.open(progress)
    confinement = confine(configure.sandbox, files, configure.memory_limit, on_gpu=engine.on_gpu)
    if confinement.missing:
        progress(0.0, f"its worker is not confined by {', '.join(confinement.missing)}")
    return engine, wire.Loaded(engine.load(progress), confinement)


class _Progress:
    """Passes on whole percents: an engine may report every tensor."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._last: tuple[int, str] | None = None

    def __call__(self, percent: float, detail: str) -> None:
        shown = (int(min(max(percent, 0), 100)), detail[: wire.MAX_TEXT])
        if shown != self._last:
            self._last = shown
            self._pipe.send(wire.encode(wire.Progress(*shown)))


def _load_failure(engine: str, exc: Exception) -> wire.LoadFailed:
    if isinstance(exc, VestalError):
        return wire.load_failed(exc.message, exc.hint)
    return wire.load_failed(f"engine {engine} failed to load: {type(exc).__name__} at {place_of(exc)}: {exc}")


if __name__ == "__main__":
    sys.exit(main())

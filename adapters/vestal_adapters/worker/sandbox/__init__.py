"""The sandbox that a worker puts itself into, between its imports and its model.

Layers, in the order in which they are put on; each is worth something alone, and none can be taken off again:

    no_new_privs   programs gain no rights by their files
    undumpable     no core, no tracing, no reading of memory and environment by the same user
    limits         no file grows, 128 descriptors, and private memory up to `memory_limit`
    capabilities   none, for a daemon that root runs
    landlock       the Python library read-only, the model's files, /dev/null, and nothing else is opened
    seccomp        an allow-list of system calls: no sockets, programs, processes, or executable memory

Threads that exist already would stay outside of Landlock, so `confine` refuses to work beside one.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from msgspec import Struct

from vestal.errors import VestalError
from vestal_adapters.worker.sandbox import gpu, landlock, limits, seccomp
from vestal_adapters.worker.sandbox.trees import readable_trees

__all__ = ["LAYERS", "OFF", "Confinement", "SandboxMode", "confine", "put_on"]

SandboxMode = Literal["required", "best_effort", "off"]


class Confinement(Struct, frozen=True):
    """The layers that are on, and what is missing with the reason: "landlock: Function not implemented"."""

    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


OFF = Confinement(missing=('everything: sandbox = "off"',))


class Terms(Struct, frozen=True):
    """What the layers are told: descriptors to keep readable, most bytes of private memory, whether a GPU is used."""

    files: Sequence[int] = ()
    memory: int | None = None
    on_gpu: bool = False


def _no_new_privs(terms: Terms) -> str:
    limits.forbid_privileges()
    return "no_new_privs"


def _undumpable(terms: Terms) -> str:
    limits.hide()
    return "undumpable"


def _limits(terms: Terms) -> str:
    limits.limit(terms.memory)
    return "limits"


def _capabilities(terms: Terms) -> str:
    limits.drop_capabilities()
    return "capabilities"


def _landlock(terms: Terms) -> str:
    places = gpu.places() if terms.on_gpu else {}
    return f"landlock/{landlock.restrict(readable_trees(), terms.files, places)}{'+gpu' * terms.on_gpu}"


def _seccomp(terms: Terms) -> str:
    seccomp.install(on_gpu=terms.on_gpu)
    return f"seccomp{'+gpu' * terms.on_gpu}"


LAYERS: dict[str, Callable[[Terms], str]] = {
    "no_new_privs": _no_new_privs,
    "undumpable": _undumpable,
    "limits": _limits,
    "capabilities": _capabilities,
    "landlock": _landlock,
    "seccomp": _seccomp,
}
"""Each puts itself on and says how it is called; `OSError` where the kernel cannot."""


def confine(
    mode: SandboxMode, files: Sequence[int] = (), memory: int | None = None, *, on_gpu: bool = False
) -> Confinement:
    """Put on what there is. `VestalError` if `mode` requires more, or if another thread would stay outside.

    `on_gpu` leaves what an NVIDIA driver needs, see `gpu`; the names of two layers say so.
    """
    if mode == "off":
        return OFF
    if sys.platform == "linux":
        _be_alone()
        _prepare()
    terms = Terms(files, memory, on_gpu)
    return put_on(mode, {name: partial(layer, terms) for name, layer in LAYERS.items()})


def put_on(mode: SandboxMode, chosen: Mapping[str, Callable[[], str]]) -> Confinement:
    """Put on these layers, in this order. `VestalError` if `mode` requires more than the kernel has."""
    layers, missing = _put_on(chosen)
    if missing and mode == "required":
        raise VestalError(
            f"the sandbox cannot be put on: {', '.join(missing)}",
            hint="use a kernel with Landlock (5.13 or later, with lsm=…,landlock) and seccomp, or go without what is"
            ' missing: sandbox = "best_effort"',
        )
    return Confinement(tuple(layers), tuple(missing))


def _put_on(chosen: Mapping[str, Callable[[], str]]) -> tuple[list[str], list[str]]:
    layers: list[str] = []
    missing: list[str] = []
    for name, layer in chosen.items():
        if sys.platform != "linux":
            missing.append(f"{name}: the kernel is not Linux")
            continue
        try:
            layers.append(layer())
        except OSError as exc:
            missing.append(f"{name}: {exc.strerror}")
    return layers, missing


def _be_alone() -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise VestalError(
            f"the worker has {threads} threads before its sandbox is on, and those beside the first would stay outside",
            hint="a library starts them when it is imported: set OPENBLAS_NUM_THREADS=1 or the like in the engine's"
            ' environment, or set sandbox = "off"',
        )


def _prepare() -> None:
    """Have what is made once and kept, and could not be made later."""
    global _closure  # noqa: PLW0603  # it must stay alive
    time.localtime()  # reads the time zone's file; later only its date is looked at
    # A ctypes callback is a few bytes of executable memory, taken from a page that the first one brings along.
    _closure = ctypes.CFUNCTYPE(None)(_nothing)


def _nothing() -> None:
    pass


_closure: object = None

"""Between the daemon and a server's program: ties itself to the daemon, opens the model, locks the door, and execs.

    python -m vestal_adapters.server.launch --fd N --parent PID

A plan comes over the socketpair, up to its end; what was done goes back, in lines of JSON. The socket closes as the
program begins, so its end means that it runs, unless the last line is a refusal, which says why it does not. The
process is the same all the while: its pid, its group, its tie to the daemon, its limits and its Landlock rules stay.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from vestal.errors import VestalError
from vestal.models.integrity import Integrity, hold
from vestal_adapters.server.confining import confine_program
from vestal_adapters.worker.child import tie_to_parent
from vestal_adapters.worker.sandbox import Confinement, SandboxMode

__all__ = ["MODEL", "Answer", "Begun", "ModelFile", "Plan", "Refused", "main"]

MODEL = "{model}"
"""In an argument: the path by which the program opens the model."""


class ModelFile(Struct, frozen=True):
    """The file to serve. A `digest` of `None` is that of a file outside the store."""

    name: str
    path: str
    integrity: Integrity
    digest: str | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """What to run: `arguments` beside the program's name, and the whole of its environment."""

    binary: str
    arguments: list[str]
    environment: dict[str, str]
    home: str
    port: int | None
    model: ModelFile | None
    readable: list[str]
    sandbox: SandboxMode
    memory_limit: int | None


class Begun(Struct, frozen=True, tag="begun"):
    confinement: Confinement


class Refused(Struct, frozen=True, tag="refused"):
    message: str
    hint: str | None = None


Answer = Begun | Refused


def main(arguments: list[str] | None = None) -> int:
    """Become the program; returns an exit status if that could not be."""
    parser = argparse.ArgumentParser(prog="vestal_adapters.server.launch", description="Started by the daemon only.")
    parser.add_argument("--fd", type=int, required=True, help="this side's end of the socketpair")
    parser.add_argument("--parent", type=int, required=True, help="the process to live and die with")
    options = parser.parse_args(arguments)
    tie_to_parent(options.parent)
    os.set_inheritable(options.fd, False)
    with socket.socket(fileno=options.fd) as sock, sock.makefile("rb") as told:
        plan = msgspec.json.decode(told.read(), type=Plan)
        try:
            run(plan, sock)
        except VestalError as error:
            refused = Refused(error.message, error.hint)
        except OSError as error:
            refused = Refused(f"{plan.binary} cannot be run: {error.strerror}", "check the path, and who may run it")
        _say(sock, refused)
    return 1


def run(plan: Plan, sock: socket.socket) -> None:
    """Hold the model, lock the door, and exec. Raises `VestalError` or `OSError`."""
    descriptors, path = _held(plan.model)
    confinement = confine_program(
        plan.sandbox,
        Path(plan.binary),
        files=descriptors,
        readable=plan.readable,
        home=Path(plan.home),
        port=plan.port,
        memory=plan.memory_limit,
    )
    command = [plan.binary, *(argument.replace(MODEL, path) for argument in plan.arguments)]
    # What Python ignores for itself would stay ignored, and what a shell does for the jobs in its background.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _say(sock, Begun(confinement))
    os.execve(plan.binary, command, plan.environment)  # noqa: S606  # there is no shell, and is to be none


def _say(sock: socket.socket, answer: Answer) -> None:
    sock.sendall(msgspec.json.encode(answer) + b"\n")


def _held(model: ModelFile | None) -> tuple[list[int], str]:
    """Descriptors that need a rule, and the path to load: of the very bytes that were verified, if they were."""
    if model is None:
        return [], ""
    held = hold(Path(model.path), model.integrity, name=model.name, digest=model.digest)
    os.set_inheritable(held.descriptor, True)
    return ([held.descriptor] if held.on_disk else []), str(held.loadable)


if __name__ == "__main__":
    sys.exit(main())

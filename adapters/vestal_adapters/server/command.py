"""From options to what is run: the program, its arguments in their places, and its environment. Starts nothing."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

from vestal.errors import VestalError
from vestal.models.store import Located, Store
from vestal_adapters.server.arguments import KEY
from vestal_adapters.server.launch import ModelFile, Plan
from vestal_adapters.server.options import ServerOptions
from vestal_adapters.worker.process import reduced_environment

__all__ = ["found_binary", "found_model", "free_port", "plan_of"]

# ggml, when it aborts, starts a debugger on itself, which prints what is on the stack: prompts, for one.
_ALWAYS = {"GGML_NO_BACKTRACE": "1"}


def found_binary(options: ServerOptions) -> Path:
    """The program, in full. Raises `VestalError` if there is none, or if anybody could have changed it."""
    wanted = options.binary or options.known.binary or ""
    found = shutil.which(Path(wanted).expanduser() if "/" in wanted else wanted)
    if found is None:
        raise VestalError(
            f"there is no program {wanted!r}" + ("" if "/" in wanted else " on PATH"),
            hint='say where it is: binary = "/path/to/it"',
        )
    path = Path(found).absolute()
    if path.stat().st_mode & stat.S_IWOTH:
        raise VestalError(f"{path} may be changed by anybody, and is not run", hint=f"chmod o-w {path}")
    return path


def found_model(options: ServerOptions) -> Located | None:
    """The model's file, and the digest that it must have. Raises `ModelError`."""
    return None if options.model is None else Store().locate(options.model)


def free_port() -> int:
    """A port of the loopback that nobody listens on now; in a moment somebody may."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port


def plan_of(
    name: str, options: ServerOptions, binary: Path, model: Located | None, home: Path, at: Path | int, key: str
) -> Plan:
    """What the launcher is told; `at` is a socket's path, or a port."""
    return Plan(
        binary=str(binary),
        arguments=[_filled(word, name, options, at) for word in _words(options)],
        environment=_environment(options, key),
        home=str(home),
        port=at if isinstance(at, int) else None,
        model=None
        if model is None
        else ModelFile(name=model.name, path=str(model.path), integrity=options.integrity, digest=model.digest),
        readable=[str(Path(path).expanduser().absolute()) for path in options.readable],
        sandbox=options.sandbox,
        memory_limit=options.memory_limit,
    )


def _words(options: ServerOptions) -> list[str]:
    """The adapter's own come last: where a flag is given twice, the later one counts."""
    known = options.known
    return [
        *known.leading,
        *options.arguments,
        *(known.threads if options.threads is not None else ()),
        *(known.context if options.context_length is not None else ()),
        *(known.embeddings if options.kind == "embeddings" else ()),
        *known.closing,
    ]


def _filled(word: str, name: str, options: ServerOptions, at: Path | int) -> str:
    """The word with its places filled in, but for the model's: the launcher opens it."""
    context = options.context_length or 0
    places = {
        "{socket}": at, "{port}": at, "{alias}": name, "{slots}": options.running,
        "{context}": context, "{contexts}": context * options.running, "{threads}": options.threads or 0,
    }  # fmt: skip
    for place, value in places.items():
        word = word.replace(place, str(value))
    return word


def _environment(options: ServerOptions, key: str) -> dict[str, str]:
    """An allow-list, what the operator names, and the key. Raises `VestalError` for a name that is not set."""
    inherited: dict[str, str] = {}
    for variable in options.inherit:
        if variable not in os.environ:
            raise VestalError(f"inherit: {variable} is not set", hint="set it in the daemon's environment")
        inherited[variable] = os.environ[variable]
    own = {} if options.known.key is None else {options.known.key: key}
    given = {variable: key if value == KEY else value for variable, value in options.environment.items()}
    return reduced_environment(_ALWAYS | inherited | given | own)

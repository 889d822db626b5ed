"""What the store tells people when it cannot do something: what happened, and the command that helps."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from vestal.errors import ModelError
from vestal.models.catalog import CATALOG, CatalogEntry
from vestal.models.gguf_file import GGUFInfo
from vestal.models.names import is_name

__all__ = [
    "check_usable", "fetch_again", "no_such_file", "no_such_model", "not_in_catalog", "readable_size", "translated",
]  # fmt: skip

_FULL = "free some space (`vestal rm NAME` removes a model), or set VESTAL_HOME to where there is more"
_FORBIDDEN = "check the owner and permissions, or set VESTAL_HOME to a directory of yours"
_HINTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: "set VESTAL_HOME to a directory that can be written",
}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """`OSError` within becomes `ModelError`, with `what` as the start of its message."""
    try:
        yield
    except BrokenPipeError:
        raise  # files have no other end: this is the caller's own output, from within a progress callback
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        hint = _HINTS.get(error.errno or 0, "check that VESTAL_HOME names a directory that can be used")
        raise ModelError(f"{what}: {error.strerror or error}{place}", hint=hint) from error


def fetch_again(name: str) -> str:
    """The hint for a model that is in the store and damaged there."""
    pull = f"vestal pull {name}" if name in CATALOG else f"vestal pull ./FILE.gguf --name {name}"
    return f"`vestal rm {name}` removes it, then `{pull}` adds it again"


def no_such_model(name: str, root: Path, names: Sequence[str]) -> ModelError:
    """A name that is not among the `names` of the store at `root`: where to get it, or what was meant."""
    shown = ", ".join([*names[:8], *(["…"] if len(names) > 8 else [])])
    there = f"{len(names)} there: {shown}" if names else "it is empty"
    message = f"no model {name[:80]!r} in the store {root} ({there})"
    if name in CATALOG:
        hint = f"`vestal pull {name}` fetches it ({CATALOG[name].download_size / 1e6:.0f} MB)"
    else:
        hint = _nearest(name, names) + "`vestal pull ./FILE.gguf` adds a file of yours"
    return ModelError(message, hint=hint)


def no_such_file(path: Path, text: str) -> ModelError:
    """A file to be pulled that is not there; `text` is how it was given, and may have meant a repository."""
    owner, _, repository = text.partition("/")
    plain = is_name(owner.lower()) and is_name(repository.lower())
    hint = f"the repository of a model hub is `vestal pull hub:{text}`" if plain else "check the path"
    return ModelError(f"there is no file {path}", hint=hint)


def _nearest(name: str, names: Sequence[str]) -> str:
    near = _close(name, {*names, *CATALOG})
    if not near:
        return f"`vestal pull {next(iter(CATALOG))}` fetches one that works; "
    absent = [f"; `vestal pull {close}` fetches it" for close in near if close not in names]
    return f"did you mean {' or '.join(near)}?{absent[0] if absent else ''} "


def _close(name: str, known: Iterable[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name[:80].lower(), sorted(known), n=3, cutoff=0.5)


def check_usable(path: Path, info: GGUFInfo) -> None:
    """Refuse a GGUF that is sound and still no model that a backend could run by itself."""
    if info.general_type not in (None, "model"):
        what, hint = f"a GGUF of type {info.general_type!r}, not a model", "add the model that it belongs to"
    elif info.split_count > 1:
        what = f"one of {info.split_count} parts of a model"
        hint = "join them first: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf"
    elif info.pooling == "rank":
        what, hint = "a reranker", "Vestal serves chat models and embedding models"
    elif info.tensor_count == 0:
        what, hint = "a GGUF without tensors: a vocabulary only", "add the file that has the weights"
    else:
        return
    raise ModelError(f"{path} is {what}", hint=hint)


def readable_size(path: Path) -> int:
    """The bytes of a file; refuses what is no regular file, or not for this user to read, without looking into it."""
    try:
        # Without O_NONBLOCK a FIFO under the name would hold the caller until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        os.close(descriptor)
    except OSError as error:
        hint = "check the path and its permissions"
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}", hint=hint) from error
    except ValueError as error:  # a NUL byte in the path
        raise ModelError(f"{str(path)!r} is not a path: {error}", hint="name a .gguf file") from error
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path}: not a regular file", hint="name a .gguf file")
    return status.st_size


def not_in_catalog(name: str, catalog: Mapping[str, CatalogEntry]) -> ModelError:
    """A name to be pulled that is neither in the catalog nor in the store."""
    message = f"no model {name[:80]!r} in the catalog ({len(catalog)} there: {', '.join(catalog)})"
    if _is_file(name):
        return ModelError(message, hint=f"for the file of that name: `vestal pull ./{name}`")
    near = _close(name, catalog)
    hint = f"did you mean `vestal pull {near[0]}`?" if near else "`vestal pull ./FILE.gguf` adds a file of yours"
    return ModelError(message, hint=hint)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # longer than a path can be, or with a NUL byte in it
        return False

"""From an address or a hub to a model in the store.

The digest is known before the first byte: it says what is meant, where else it may already be, and what an interrupted
attempt belongs to. Pulls of one content exclude each other, whatever they call it and wherever they get it: the second
waits for the first, and then finds the model there.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from vestal.errors import ModelError
from vestal.models.address import Address
from vestal.models.gguf_file import read_gguf
from vestal.models.manifest import parse_digest
from vestal.models.names import name_for
from vestal.models.remedies import check_usable
from vestal.models.stages import Pulled, Report
from vestal.models.store import Store

__all__ = ["pull_address", "pull_hub"]


def pull_address(
    text: str, store: Store, report: Report, *, name: str | None, sha256: str | None, reserved: Container[str]
) -> Pulled:
    """Fetch the file at an address, which must have the digest `sha256`."""
    address = Address(text)
    if sha256 is None:
        hint = "--sha256 HEX, from where the model is published: not from the server that sends the file"
        raise ModelError(f"{address} may be anything: a file from the web needs its SHA-256", hint=hint)
    target = name_for(Path(address.filename), name, reserved, origin=str(address))
    return _pull(address, parse_digest(sha256), store, report, target, str(address))


def pull_hub(
    text: str, store: Store, report: Report, *, name: str | None, sha256: str | None, reserved: Container[str]
) -> Pulled:
    """Fetch a file of a hub, which must have the digest that the hub states, and `sha256` where it is given."""
    from vestal.models.hub import find_on_hub

    file = find_on_hub(text)
    if sha256 is not None and parse_digest(sha256) != file.digest:
        message = f"the hub states {file.digest} for {file.filename}, and {parse_digest(sha256)} was asked for"
        raise ModelError(message, hint="name the revision that was meant: …@REVISION")
    target = name_for(Path(file.filename), name, reserved, origin=text)
    return _pull(file.address, file.digest, store, report, target, file.source)


def _pull(address: Address, digest: str, store: Store, report: Report, name: str, source: str) -> Pulled:
    from vestal.models.download import download

    if model := store.with_digest(name, digest):
        return Pulled(model, already=True)
    with store.receiving(digest, on_wait=lambda: report("wait", 0, None)) as directory:
        if model := store.with_digest(name, digest):
            return Pulled(model, already=True)
        there = store.holder(digest)
        file = directory / "file" if there is None else there.path
        if there is None:
            download(address, file, digest, lambda done, total: report("download", done, total))
            _check(file)
        model = store.add_file(
            file, name, source=source, expected=digest, progress=lambda done, total: report("store", done, total)
        )
    return Pulled(model, already=there is not None)


def _check(file: Path) -> None:
    """What was meant, by its digest, and is no model all the same will not become one: it is not kept."""
    try:
        check_usable(file, read_gguf(file))
    except ModelError:
        file.unlink()
        raise

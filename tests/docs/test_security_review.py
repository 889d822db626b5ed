"""docs/security-review.md and docs/systemd.md lead to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tests.docs.pages import blocks_of
from tests.security.threats import ROOT, findings
from vestald.service import unit_text

REVIEW, SYSTEMD = ROOT / "docs" / "security-review.md", ROOT / "docs" / "systemd.md"


@pytest.mark.parametrize("page", [REVIEW, SYSTEMD], ids=lambda path: path.stem)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = {ROOT / name for name in re.findall(r"`([\w-]+/[\w./-]+\.(?:py|md))`", text)}
    named |= {(page.parent / name) for name in re.findall(r"\]\(([\w./-]+)\)", text)}
    assert named
    assert [path for path in named if not path.exists()] == []


def test_the_open_findings_that_the_review_speaks_of_are_open() -> None:
    titles = {one.number: one for one in findings()}
    numbers = [int(number) for number in re.findall(r"\((\d+)\)[:;.]", REVIEW.read_text())]
    assert len(numbers) >= 4
    assert not [number for number in numbers if titles[number].held]


def test_the_directives_that_the_page_explains_are_in_the_units_and_those_left_out_are_not() -> None:
    left_out, there = SYSTEMD.read_text().split("And some are there")
    units = {True: unit_text(True, ["/bin/true"]), False: unit_text(False, ["/bin/true"])}
    for name in re.findall(r"^\| `(\w+)(?:=\w+)?` \|", left_out, re.MULTILINE):
        assert not [text for text in units.values() if f"\n{name}=" in text], name
    explained = re.findall(r"^\| `(\w+)=([^`]+)` \|", there, re.MULTILINE)
    assert len(explained) == 5
    for name, value in explained:
        words = [word.rstrip("*") for word in value.split() if word != "…"]
        for text in units.values():
            (line,) = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
            assert all(word in line for word in words), (name, line)


def test_the_configuration_shown_is_one() -> None:
    (shown,) = (block.text for block in blocks_of(SYSTEMD, "toml"))
    assert msgspec.toml.decode(shown)["sockets"] == {"group": "vestal"}

"""The pictures in docs/screenshots are what `make screenshots` draws: whole, 100 columns, and of the right commands."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.text import Text

from examples import screenshots
from examples.screenshots import PICTURES, WIDTH, svg
from vestal.cli.board import Picture, drawn

HEADINGS = {
    "top": ("running,", "tok/s, first token after", "BACKEND", "SLOTS", "MODEL", "RECENT ERRORS", "CALLER", "CLIENT"),
    "status": ("directory", "sockets", "requests", "clients", "sandbox:"),
    "doctor": ("versions:", "configuration:", "runtime directory:", "daemon:", "fine"),
}


def text_of(picture: str) -> str:
    """The words of a picture, in their order."""
    tree = ElementTree.fromstring(picture)
    found = (element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}text"))
    return " ".join(found).replace("\xa0", " ")


def missing(directory: Path, name: str) -> list[str]:
    """What a picture should show and does not."""
    text = text_of((directory / f"{name}.svg").read_text())
    return [heading for heading in (*HEADINGS[name], f"vestal {name}") if heading not in text]


@pytest.mark.parametrize("name", HEADINGS)
def test_a_picture_is_sound_and_shows_its_command(name: str) -> None:
    assert missing(PICTURES, name) == []


def test_they_can_be_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screenshots, "PICTURES", tmp_path)
    monkeypatch.setattr(screenshots, "WATCHED", 0.5)
    assert screenshots.main() == 0
    assert [found for name in HEADINGS for found in missing(tmp_path, name)] == []


@pytest.mark.parametrize("name", HEADINGS)
def test_a_picture_asks_nobody_for_anything_and_tells_nothing_of_the_machine(name: str) -> None:
    picture = (PICTURES / f"{name}.svg").read_text()
    links = re.findall(r"url\([\"']?([^)\"']+)|href=[\"']([^\"']+)|src[:=]\W*(\S+)", picture)
    assert [link for found in links for link in found if link and not link.startswith("#")] == []
    assert not re.findall(r"/(?:home|root|tmp|work)/", picture)


def test_every_picture_that_a_page_shows_is_one_that_is_drawn() -> None:
    assert {path.stem for path in PICTURES.glob("*.svg")} == set(HEADINGS)
    shown = set(re.findall(r"\]\(docs/screenshots/(\w+)\.svg\)", (PICTURES.parents[1] / "README.md").read_text()))
    assert shown


def test_the_same_is_drawn_the_same_way() -> None:
    one = svg(Text("x" * WIDTH), "a title")
    assert one == svg(Text("x" * WIDTH), "a title")
    assert "x" * WIDTH in text_of(one)
    assert "gone" in text_of(svg(drawn(Picture(None, notice="it is gone"), WIDTH, "utf-8"), "vestal top"))

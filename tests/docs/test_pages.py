"""Every block of code in README.md and docs/ runs, or says why not; every link leads somewhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, RUN, Block, Session, blocks_of, transcript
from tests.e2e.harness import echo, toml
from tests.protocol.models.conftest import build_gguf

_REAL = ("README.md", "docs/tutorial.md")
"""Pages that have a model answer."""


def _with_a_daemon(session: Session) -> None:
    (session.directory / "vestald.toml").write_text(toml(echo(v2=True)))
    session.background("vestald --config vestald.toml")
    session.run(Block(0, "sh", "vestal run --wait 'Are you there?'\n"))


def _with_a_model_file(session: Session) -> None:
    (session.directory / "mine.gguf").write_bytes(build_gguf())
    session.run(Block(0, "sh", "VESTAL_HOME=$PWD/elsewhere vestal keys new me && cp elsewhere/keys/me.pub .\n"))


def _with_the_vectors(session: Session) -> None:
    (session.directory / "vectors").symlink_to(ROOT / "protocol" / "vectors")


def _with_an_entry_point(session: Session) -> None:
    """What pip would have written for the page's pyproject.toml."""
    shown = blocks_of(ROOT / "docs" / "howto" / "write-an-adapter.md", "toml")[0].text
    ((group, points),) = tomllib.loads(shown)["project"]["entry-points"].items()
    installed = session.directory / "vestal_shouting-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: vestal-shouting\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(toml(**{group: points}).replace('"', ""))
    session.environment["PYTHONPATH"] = str(session.directory)


_TAKEN_FOR_GRANTED: dict[str, Callable[[Session], None]] = {
    "docs/howto/write-a-client.md": _with_the_vectors,
    "docs/howto/write-an-adapter.md": _with_an_entry_point,
    "docs/metrics.md": _with_a_daemon,
    "docs/models.md": _with_a_model_file,
    "docs/sandbox.md": _with_a_daemon,
}
"""What there is before the first block of a page."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def cases() -> list[object]:
    """Each page that has blocks to run; those that need a model say so."""
    marks = [pytest.mark.model, pytest.mark.timeout(180)]
    return [
        pytest.param(page, id=name_of(page), marks=marks if name_of(page) in _REAL else ())
        for page in PAGES
        if any(block.is_run for block in blocks_of(page))
    ]


@pytest.mark.parametrize("page", cases())
def test_the_blocks_of_a_page_do_what_it_says(page: Path, short_dir: Path, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue("model_home") if name_of(page) in _REAL else None
    with Session(short_dir, store) as session:
        if prepare := _TAKEN_FOR_GRANTED.get(name_of(page)):
            prepare(session)
        for block in blocks_of(page):
            if block.is_run or block.marker == "file":
                try:
                    session.run(block)
                except Exception as fault:
                    fault.add_note(f"{page.name}:{block.line}")
                    raise


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_language_and_one_that_is_not_run_a_reason(page: Path) -> None:
    text = page.read_text()
    blocks = blocks_of(page)
    assert 2 * len(blocks) == len(re.findall(r"^ *```", text, re.MULTILINE)), "a fence that is not read as one"
    for block in blocks:
        assert block.language, f"{page.name}:{block.line} has no language"
        assert block.marker in ("", "file", "not run"), f"{page.name}:{block.line}: {block.marker}"
        if block.marker == "not run":
            assert block.language in RUN and len(block.value.split()) > 2, f"{page.name}:{block.line}: {block.value}"
            for named in re.findall(r"(?:tests|docs)/[\w./-]+", block.value):
                assert (ROOT / named).exists(), f"{page.name}:{block.line}: {named}"


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / "docs" / "reference").glob("*.md")], ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        assert not heading or heading in headings(file), target


def headings(page: Path) -> set[str]:
    """The anchors that a forge makes of them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / path).resolve() for path in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
    wanted = {page for page in (ROOT / "docs").rglob("*.md") if "adr" not in page.parts} - {index}
    assert wanted <= linked


# --- the runner itself ------------------------------------------------------------------------------------------------


def test_a_transcript_is_commands_with_what_they_print() -> None:
    text = "$ cat <<E\n> one\n> E\none\n$ true\n$ printf 'a\\nb\\n'\na\nb\n"
    assert list(transcript(text)) == [("cat <<E\none\nE", "one\n"), ("true", ""), ("printf 'a\\nb\\n'", "a\nb\n")]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("console", "$ echo one\ntwo\n"),
        ("console", "$ echo one\n"),
        ("console", "$ false\n"),
        ("sh", "false\ntrue\n"),
        ("python", "raise SystemExit(3)\n"),
        ("toml", "[admission]\nqueue_depht = 3\n"),
    ],
)
def test_a_block_that_does_not_do_what_it_says_fails(language: str, text: str, short_dir: Path) -> None:
    with Session(short_dir) as session, pytest.raises(Exception, match=r"(?s)printed|ended with|queue_depht"):
        session.run(Block(1, language, text))


def test_blocks_follow_each_other_in_one_place(short_dir: Path) -> None:
    with Session(short_dir) as session:
        session.run(Block(1, "python", "print('from a file')\n", "file", "said.py"))
        session.run(Block(2, "console", "$ python said.py\nfrom ...\n$ sleep 1000 &\n"))
        assert repr(session).endswith("running=1>")
    assert repr(session).endswith("running=0>")

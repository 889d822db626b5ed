"""The one way in which code blocks of the documentation are run: page by page, in their order, in one private place.

A page is a session: a directory of its own, a home, a runtime directory, and the commands of this checkout. What a
block is for, its language says, and a remark on the line above it where that is not enough:

    python, sh      is run, and has to end with 0
    console         `$ ` begins a command, `> ` goes on with it; below stands what it prints, `...` for anything.
                    A command that ends with `&` runs on until the page ends
    toml            is a configuration that the daemon takes
    <!-- file: NAME -->         is written to NAME instead, for the blocks after it; toml is checked too
    <!-- not run: REASON -->    is only shown

Every other language is shown only, unless it has a name.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from vestald.config import load

__all__ = ["PAGES", "ROOT", "RUN", "Block", "Session", "blocks_of", "transcript"]

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if not {"adr", "reference"} & set(page.parts)),
]
"""What people read. The reference is generated, and a decision is never edited."""

RUN = ("python", "sh", "console", "toml")
"""Languages whose blocks run, or say why not."""

_FENCE = re.compile(
    r"(?:^<!-- (?P<marker>[\w ]+): (?P<value>[^>]+?) -->\n\n?)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_PATIENCE = 50.0  # seconds that one command may take: a model is loaded in some
_LIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(Struct, frozen=True):
    """One fenced block: its line in the page, and the remark above it (`marker`: `file` or `not run`)."""

    line: int
    language: str
    text: str
    marker: str = ""
    value: str = ""

    @property
    def is_run(self) -> bool:
        return self.language in RUN and self.marker != "not run"


def blocks_of(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page, or those in one language, in their order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            text.count("\n", 0, match.start("text")), match["language"], match["text"],
            match["marker"] or "", match["value"] or "",
        )
        for match in _FENCE.finditer(text)
    ]  # fmt: skip
    return [block for block in found if language in (None, block.language)]


def transcript(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        more = next((index for index, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
        yield "\n".join([lines[0], *(line[2:] for line in lines[1:more])]), "".join(f"{one}\n" for one in lines[more:])


class Session:
    """Runs blocks in `directory`; models are those of `store`, else there are none. Close it."""

    def __init__(self, directory: Path, store: Path | None = None) -> None:
        self.directory = directory
        (directory / "run").mkdir(mode=0o700)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("VESTAL", "XDG"))}
        self.environment = {
            **inherited,
            "HOME": str(directory),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "VESTAL_HOME": str(store or directory / "store"),
            "VESTAL_AUDIT_DIRECTORY": str(directory / "audit"),  # its own, also where the store is shared
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self._running: list[subprocess.Popen[str]] = []

    def run(self, block: Block) -> str:
        """Do what a block is for; what it printed, if anything."""
        if block.marker == "file":
            (self.directory / block.value).write_text(block.text)
        if block.language == "toml":
            self._check_configuration(block)
        elif block.marker == "file":
            return ""
        elif block.language == "python":
            return self._done([sys.executable, "-c", block.text])
        elif block.language == "sh":
            return self._done(["bash", "-euo", "pipefail", "-c", block.text])
        elif block.language == "console":
            for command, printed in transcript(block.text):
                self._type(command, printed)
        return ""

    def background(self, command: str) -> None:
        """Run a command until the session ends."""
        with (self.directory / "background.txt").open("a") as log:
            self._running.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {command}"], cwd=self.directory, env=self.environment, text=True,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip

    def _type(self, command: str, printed: str) -> None:
        if begun := re.fullmatch(r"(.*)&(?: +#.*)?", command):
            self.background(begun[1])
            return
        got = self._done(["bash", "-c", command])
        assert doctest.OutputChecker().check_output(printed, got, _LIKE), (
            f"{command}\nprinted\n{got}\nand not\n{printed}"
        )

    def _done(self, command: list[str]) -> str:
        """Both streams as a terminal would show them."""
        try:
            done = subprocess.run(
                command, cwd=self.directory, env=self.environment, timeout=_PATIENCE, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"{command[-1]}\nended not within {_PATIENCE} s:\n{self._log()}") from late
        assert done.returncode == 0, f"{command[-1]}\nended with {done.returncode}:\n{done.stdout}\n{self._log()}"
        return done.stdout

    def _check_configuration(self, block: Block) -> None:
        file = self.directory / (block.value if block.marker == "file" else "shown.toml")
        file.write_text(block.text)
        load(file)

    def _log(self) -> str:
        file = self.directory / "background.txt"
        return file.read_text()[-2000:] if file.exists() else ""

    def close(self) -> None:
        """End what runs in the background, and wait until it has."""
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {self.directory} running={sum(one.poll() is None for one in self._running)}>"

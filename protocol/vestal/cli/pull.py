"""`vestal pull`: fetch models of the catalog, from the web or off a hub, or add files of the user's.

Progress goes to stderr: a bar on a terminal, elsewhere one line a stage. What the store has at the end goes to
stdout, a line for each.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from time import monotonic

from vestal.cli.failures import OK, UsageError
from vestal.cli.parser import Parser
from vestal.cli.terminal import Screen, columns, printable
from vestal.cli.wording import bar, cut, megabytes, pad, table
from vestal.models.catalog import CATALOG
from vestal.models.fetch import Pulled, Stage, pull
from vestal.models.store import Store

__all__ = ["PullProgress", "execute", "parser"]

_STAGES: dict[Stage, str] = {
    "wait": "waiting for another pull of it",
    "download": "downloading",
    "verify": "verifying",
    "convert": "converting",
    "store": "storing",
}
_BAR = 12
_NAME = 15
_PAUSE = 0.05  # seconds between two drawings

_MORE = """\
A NAME is one of the catalog (no argument lists it), fetched with pip, so your
index, mirror and cache are used. What has a slash or ends in .gguf is a file,
which is copied. An https:// address needs the digest of what is meant; a hub
states it. Interrupted, both go on where they were: give the same command again.

examples
  vestal pull smollm2-135m minilm-l6-v2
  vestal pull ./mine.gguf --name mine
  vestal pull https://example.org/mine.gguf --sha256 HEX
  vestal pull hub:OWNER/REPOSITORY/FILE.gguf@REVISION"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `pull`."""
    made = Parser(command, purpose, words="[NAME|PATH|ADDRESS…]", most=None, more=_MORE)
    made.add_argument("--name", help="what to call it in the store (default: made from the file's name)")
    made.add_argument("--sha256", metavar="HEX", help="what the file must have; needed for an address")
    return made


def execute(args: Namespace) -> int:
    """Get each into the store, or list what there is to get."""
    store = Store()
    if args.name is not None and len(args.words) != 1:
        raise UsageError("--name is for one file: vestal pull ./FILE.gguf --name NAME")
    if args.sha256 is not None and len(args.words) != 1:
        raise UsageError("--sha256 is for one file: vestal pull ADDRESS --sha256 HEX")
    if not args.words:
        return _list_catalog(store)
    for word in args.words:
        progress = PullProgress(Screen(), _shown(word))
        try:
            pulled = pull(word, store, progress, name=args.name, sha256=args.sha256)
        finally:
            progress.close()
        sys.stdout.write(f"{_outcome(pulled)}\n")
        sys.stdout.flush()
    return OK


def _shown(word: str) -> str:
    """What stands before the progress: of an address the file's name, as the rest may hold what is not to be shown."""
    return word.partition("?")[0].rstrip("/").rpartition("/")[2] or word if "://" in word else word


def _outcome(pulled: Pulled) -> str:
    model = pulled.model
    how = "already there" if pulled.already else "there now"
    digest = (model.digest or "").removeprefix("sha256-")[:12]
    return printable(
        f"{model.name}: {how} ({model.kind}, {megabytes(model.size)}, {model.quantisation}, sha256 {digest})"
    )


def _list_catalog(store: Store) -> int:
    have = store.names()
    rows = [
        [
            entry.name,
            entry.kind,
            megabytes(entry.download_size),
            "there" if entry.name in have else "-",
            entry.description,
        ]
        for entry in CATALOG.values()
    ]
    lines = table([["NAME", "KIND", "FETCH", "HERE", "WHAT"], *rows], right=(2,), width=columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK


class PullProgress:
    """A `Report`: one bar a stage on a terminal, which stays when its stage is over; else one line a stage."""

    def __init__(self, screen: Screen, what: str) -> None:
        self._screen = screen
        self._what = what
        self._stage: Stage | None = None
        self._drawn = 0.0

    def __call__(self, stage: Stage, done: int, total: int | None) -> None:
        """What the store reports: a stage, and how far it is."""
        begins = stage != self._stage
        if begins:
            self._screen.keep()
            self._stage = stage
        if self._screen.live:
            self._draw(stage, done, total, now=begins or done == total)
        elif begins:
            size = f", {megabytes(total)}" if total and stage != "convert" else ""
            self._screen.note(f"{self._what}: {_STAGES[stage]}{size}")

    def close(self) -> None:
        """No more is coming."""
        self._screen.keep()

    def _draw(self, stage: Stage, done: int, total: int | None, *, now: bool) -> None:
        clock = monotonic()
        if not now and clock - self._drawn < _PAUSE:
            return
        self._drawn = clock
        self._screen.status(
            f"{pad(cut(self._what, _NAME), _NAME)} {_STAGES[stage]:<11} {self._amount(stage, done, total)}"
        )

    def _amount(self, stage: Stage, done: int, total: int | None) -> str:
        if not total:
            return megabytes(done) if done else "…"
        whole = f"{total} tensors" if stage == "convert" else megabytes(total)
        if not done:
            return f"{whole} …"  # pip before 24.1 never says more: a bar would look stuck
        percent = 100 * done / total
        return f"{bar(percent, _BAR, self._screen.encoding)} {percent:3.0f} % of {whole}"

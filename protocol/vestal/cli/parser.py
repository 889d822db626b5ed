"""Arguments as every command takes them: argparse for the options, with manners of its own.

A mistake is one line on stderr and exit code 2, with the nearest word that would have been right. Options and
words may stand in any order, and everything after `--` is words. The words are taken by hand: argparse cannot mix
them with options and honour `--` at once, and versions of Python differ there.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from vestal.cli.failures import USAGE
from vestal.cli.terminal import printable

__all__ = ["RUNTIME_DIR", "Parser", "nearest", "seconds", "whole"]

RUNTIME_DIR = "where the sockets are (default: $VESTAL_RUNTIME_DIR, $XDG_RUNTIME_DIR/vestal, or /tmp/vestal-UID)"
_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")
_ALIKE, _AS_GOOD = 0.55, 0.15  # how alike two words are that may be meant, and how much less so a second may be
_SECONDS = re.compile(r"[0-9]{1,9}|[0-9]{0,9}\.[0-9]{1,9}")


class Parser(argparse.ArgumentParser):
    """The arguments of one command. `words` is how its words look in the usage line, `least` to `most` their count."""

    def __init__(
        self, command: str, purpose: str, *, words: str = "", least: int = 0, most: int | None = 0, more: str = ""
    ) -> None:
        super().__init__(
            prog=f"vestal {command}",
            usage=f"vestal {command} [options] {words}".rstrip(),
            description=purpose,
            epilog=more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._words, self._least, self._most = words, least, most
        self._alone: dict[str, str] = {}
        # Suppressed, so that one given before the command is not overwritten by the lack of one after it.
        self.add_argument("--runtime-dir", metavar="DIR", default=argparse.SUPPRESS, help=RUNTIME_DIR)

    def add_optional_value(
        self, flag: str, *, alone: str, metavar: str, kind: Callable[[str], object], help: str
    ) -> None:
        """An option whose value is given with `=` or not at all: the word after it is never its value."""
        self._alone[flag] = f"{flag}={alone}"
        self.add_argument(flag, nargs="?", metavar=f"={metavar}", type=kind, help=help)

    def parse(self, arguments: Sequence[str], known: argparse.Namespace) -> argparse.Namespace:
        """The options in `known`, and the words as `known.words`."""
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        known, rest = self.parse_known_args([self._alone.get(one, one) for one in arguments[:cut]], known)
        for word in rest:
            if word.startswith("-") and word != "-" and " " not in word and not _NUMBER.match(word):
                self.error(f"there is no option {word}{nearest(word.split('=')[0], self._option_string_actions)}")
        known.words = [*rest, *arguments[cut + 1 :]]
        self._check(known.words)
        return known

    def _check(self, words: Sequence[str]) -> None:
        if len(words) < self._least:
            self.error(f"{self._words} is missing")
        if self._most is not None and len(words) > self._most:
            self.error(f"{words[self._most]!r} is one word too many" if self._most else f"no place for {words[0]!r}")
        for word in words:
            if any("\ud800" <= character <= "\udfff" for character in word):  # surrogateescape (PEP 383)
                self.error(f"{word!r} is not UTF-8")

    def error(self, message: str) -> NoReturn:
        """One line, and the exit code for usage."""
        self.exit(USAGE, f"{printable(self.prog)}: {printable(message)} (see `{self.prog} --help`)\n")


def nearest(word: str, known: Iterable[str]) -> str:
    """`: did you mean …?`, or nothing. Dashes count for nothing: all options have them in common."""
    from difflib import SequenceMatcher

    bare = word.lstrip("-")
    alike = {
        name: SequenceMatcher(None, name.lstrip("-"), bare).ratio()
        for name in known
        if name.startswith("-") == word.startswith("-")
    }
    best = max(alike.values(), default=0.0)
    near = [name for name in alike if best >= _ALIKE and alike[name] > best - _AS_GOOD]
    near.sort(key=alike.__getitem__, reverse=True)
    return f": did you mean {' or '.join(near[:2])}?" if near else ""


def seconds(text: str) -> float:
    """A length of time: `30`, `30s`, `1.5m`, `250ms`."""
    from vestal.durations import parse_duration

    try:
        return parse_duration(float(text) if _SECONDS.fullmatch(text) else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(text: str) -> int:
    """A count: `0`, `100`."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text[:40]!r}")
    return int(text)

"""The shells themselves, asked what Tab would offer: the line as it stands once every match is inserted into it."""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Self

import pytest

from tests.protocol.cli.harness import PATIENCE, Terminal
from vestal.cli.completion import script

__all__ = ["Shell", "start"]

_OPTION = re.compile(r"^--[a-z-]+=")  # before a value that is completed behind it
_INSERT_ALL, _SHOW = "\x18a", "\x18s"  # Ctrl-X a, Ctrl-X s
_BASH = """\
bind '"\\C-xa": insert-completions'
shown() { printf '<%s>\\n' "$READLINE_LINE"; READLINE_LINE="" READLINE_POINT=0; }
bind -x '"\\C-xs": shown'
"""
_ZSH = """\
autoload -U compinit; compinit -D -u
zle -C all-matches complete-word _generic; bindkey '^Xa' all-matches
zstyle ':completion:all-matches::::' completer _all_matches _complete
zstyle ':completion:all-matches:*' insert true
shown() { zle -I; print -r -- "<$BUFFER>"; BUFFER=""; }
zle -N shown; bindkey '^Xs' shown
"""


class Shell(ABC):
    """A shell that has read the script of `vestal completion`, in the directory `home`."""

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self._home, self._environment = home, dict(environment)
        self._script = home / f"completion.{self.name}"
        self._script.write_text(script(self.name))

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def offers(self, line: str) -> set[str]:
        """What Tab offers where `line` ends, its last word being begun or, after a blank, not."""

    def set(self, variable: str, value: str) -> None:
        """Export it, for all that is asked from now on."""
        self._environment[variable] = value

    def __enter__(self) -> Self:
        return self

    def __exit__(  # noqa: B027  # a shell that is asked without a terminal has nothing to close
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Interactive(Shell):
    """One that is typed at; its line editor inserts all matches, and shows the line."""

    command: tuple[str, ...]
    settings: str

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        super().__init__(home, environment)
        rc = home / "rc"
        rc.write_text(f"{self.settings}. {quote(str(self._script))}\ncd {quote(str(home))}\nPS1='at-prompt '\n")
        self._terminal = Terminal(list(self.command), 400, environment)
        self._terminal.press(f". {quote(str(rc))}\r")
        self._terminal.expect_again("at-prompt ")

    def offers(self, line: str) -> set[str]:
        self._terminal.press(f"{line}{_INSERT_ALL}{_SHOW}")
        shown = self._terminal.expect_match(r"<(vestal[^>]*)>")[1]
        words = line.split(" ")
        before = " ".join(words[:-1]) + " "
        assert shown.startswith(before), shown
        return {_OPTION.sub("", word) for word in shown.removeprefix(before).split() if word != words[-1]}

    def set(self, variable: str, value: str) -> None:
        self._terminal.press(f"export {variable}={quote(value)}; echo i''s set\r")
        self._terminal.expect_again("is set")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._terminal.__exit__(kind, error, trace)


class _Bash(_Interactive):
    name = "bash"
    command = ("bash", "--norc", "--noprofile", "-i")
    settings = _BASH


class _Zsh(_Interactive):
    name = "zsh"
    command = ("zsh", "-f", "-i")
    settings = _ZSH


class _Fish(Shell):
    """It tells what it would offer without a terminal."""

    name = "fish"

    def offers(self, line: str) -> set[str]:
        asked = f"cd {quote(str(self._home))}; source {quote(str(self._script))}; complete -C{quote(line)}"
        command = ["fish", "--no-config", "-c", asked]
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=self._environment
        )
        assert told.stderr == ""
        return {_OPTION.sub("", offer.partition("\t")[0]) for offer in told.stdout.splitlines()}


_SHELLS: dict[str, type[Shell]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def start(name: str, home: Path, environment: Mapping[str, str]) -> Shell:
    """That shell; a test that asks for one that is not installed is skipped."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed: what it makes of its script is not tested here")
    return _SHELLS[name](home, {**environment, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "LC_ALL": "C.UTF-8"})

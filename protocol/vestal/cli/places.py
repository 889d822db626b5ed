"""What may stand where on the command line, for the scripts of all shells: each command's words and options.

It is read from the very tables and parsers that the commands use. What a parser cannot know, which word is a file or
the name of what, stands here. What may be at a place is a list of kinds: `file`, `directory`, `text` (which nobody
can complete), or kinds of `vestal.cli.names`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module

from msgspec import Struct

from vestal.cli.names import KINDS

__all__ = ["Command", "Kinds", "Option", "asked", "commands"]

Kinds = tuple[str, ...]

_SECOND = {
    "audit": {"verify": "check the whole log", "tail": "show its latest lines"},
    "config": {
        "explain": "each option, its value, and where that comes from",
        "check": "everything that is wrong with a file",
        "schema": "a JSON Schema of the file",
    },
    "completion": {"bash": "", "zsh": "", "fish": ""},
}
"""Second words of commands that are no branches."""

_WORDS: dict[str, Kinds] = {
    "pull": ("catalog", "file"),
    "show": ("stored", "file"),
    "rm": ("stored",),
    "models sign": ("stored",),
    "models verify": ("stored",),
    "models plan": ("stored", "file"),
    "keys trust": ("file",),
    "keys revoke": ("keys",),
    "backend add": ("declared",),
    **{f"backend {deed}": ("running",) for deed in ("remove", "drain", "undrain", "restart")},
    "route explain": ("models", "embedders"),
    "cancel": ("requests",),
    "audit verify": ("directory",),
    "audit tail": ("directory",),
    "config check": ("file",),
}
"""What the words of a command are. A prompt, or a text to embed, is nothing that could be completed."""

_VALUES: dict[str, Kinds] = {"DIR": ("directory",), "FILE": ("file",), "PATH": ("file",), "KEY": ("keys",)}
"""What the value of an option is, by how its help calls it."""


class Option(Struct, frozen=True):
    """One option: how it is written, what it is for, and what its value is, or the choices for it."""

    names: list[str]
    help: str
    kinds: Kinds = ()  # empty: it takes no value, or one of the choices
    choices: list[str] = []


class Command(Struct, frozen=True):
    """One command by its one or two words: the second words there are, or what its words are."""

    name: str
    purpose: str
    options: list[Option]
    second: list[str]
    kinds: Kinds

    @property
    def flags(self) -> list[str]:
        return [name for option in self.options for name in option.names]

    @property
    def as_met(self) -> str:
        """What stands before its last word, a blank, and that word: as the loop of each script meets it."""
        first, _, last = self.name.rpartition(" ")
        return f"{first} {last}"


def asked(kinds: Kinds) -> str:
    """The words behind `vestal completion names` that tell what there is of `kinds`; none for files and the like."""
    return " ".join(kind for kind in kinds if kind in KINDS)


def commands() -> Iterator[Command]:
    """Every command of one word, each followed by those of two that begin with it."""
    from vestal.cli.main import BRANCHES, COMMANDS

    for name, (module, purpose) in COMMANDS.items():
        branches = BRANCHES.get(name, {})
        others = _SECOND.get(name, {})
        whole = _command(name, module, purpose, [*branches, *others])
        yield whole
        for second, (its, what) in branches.items():
            yield _command(f"{name} {second}", its, what, [])
        for second, what in others.items():
            full = f"{name} {second}"
            yield Command(full, what, whole.options, [], _WORDS.get(full, ()))


def _command(name: str, module: str, purpose: str, second: list[str]) -> Command:
    made: argparse.ArgumentParser = import_module(f"vestal.cli.{module}").parser(name, purpose)
    options = [_option(name, action) for action in made._actions if action.option_strings]
    return Command(name, purpose, options, second, _WORDS.get(name, ()))


def _option(command: str, action: argparse.Action) -> Option:
    flags, help = list(action.option_strings), " ".join((action.help or "").split())
    if action.nargs == 0 or action.nargs == "?":  # what may be left out is given with `=`, and is a number
        return Option(flags, help)
    if action.choices is not None:
        return Option(flags, help, choices=[str(choice) for choice in action.choices])
    if "--model" in flags:
        return Option(flags, help, ("embedders",) if command == "embed" else ("models",))
    return Option(flags, help, _VALUES.get(str(action.metavar), ("text",)))

"""The command line of `vestald`: every option of the table is a flag, grouped by section.

Values stay texts here; `sources` reads and refuses them. A backend's flags depend on the file, so they are taken by
their form.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from msgspec import inspect

from vestald import __version__
from vestald.config.reader import BACKEND_FLAG
from vestald.config.schema import Config
from vestald.config.sources import Sources
from vestald.config.table import Option, options_of
from vestald.config.values import Duration, to_text

__all__ = ["parse", "parser"]

WORDS = ("config", "doctor", "install-service")
"""What stands before any option and is none."""

_EPILOG = """\
Every option is also a key of the file (--admission-queue-depth is queue_depth
in [admission]) and a variable (VESTAL_ADMISSION_QUEUE_DEPTH). A flag counts
before a variable, and that before the file. --backend-NAME-KEY VALUE and
VESTAL_BACKEND_NAME_KEY change a key in the file's table of that backend.

  vestald install-service --help   let systemd run it
  vestald config explain [KEY]     each value, and where it comes from
  vestald config check [FILE]      everything that is wrong with a file
  vestald config schema            a JSON Schema of the file, for editors
  vestald doctor                   its half of `vestal doctor`, as JSON

exit codes: 0 stopped as asked; 69 a backend failed to become ready;
70 internal; 74 the output of a command could not be written;
75 another instance owns the runtime directory; 78 bad configuration"""

_WORDS: tuple[tuple[type[inspect.Type], str], ...] = (
    (inspect.BoolType, "BOOL"),
    (inspect.IntType, "N"),
    (inspect.FloatType, "N"),
    (inspect.ListType, "LIST"),
    (inspect.DictType, "TABLE"),
    (inspect.StrType, "TEXT"),
)


def parser() -> argparse.ArgumentParser:
    """The parser of `vestald`; the help is grouped as the file is."""
    made = _Parser(
        prog="vestald",
        usage="vestald [--config FILE] [--OPTION VALUE …]\n       vestald config explain|check|schema …",
        description="Keep language models warm for every app on this machine, over Unix sockets.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=80),
        allow_abbrev=False,
    )
    made.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file (default: $VESTAL_CONFIG, else ~/.config/vestal/vestald.toml)",
    )
    made.add_argument("--version", action="version", version=f"vestald {__version__}", help="say which version this is")
    groups: dict[str, Any] = {}
    for option in (option for option in options_of(Config) if not option.field.trait.secret):
        section = ".".join(option.path[:-1])
        if section not in groups:
            groups[section] = made.add_argument_group(section)
        groups[section].add_argument(
            option.flag, dest=option.flag, metavar=_metavar(option), default=argparse.SUPPRESS, help=_help(option)
        )
    return made


def parse(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> Sources:
    """The sources that a command line names. Ends the process with 2 for one that cannot be meant."""
    made = parser()
    rest, flags = _backend_flags(made, arguments)
    known = vars(made.parse_args(rest))
    flags |= {flag: text for flag, text in known.items() if flag.startswith("--")}
    return Sources(known["config"], flags, environ)


def _backend_flags(made: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The other arguments, and `--backend-NAME-KEY` by name."""
    rest: list[str] = []
    flags: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith(BACKEND_FLAG):
            rest.append(word)
            continue
        flag, equals, text = word.partition("=")
        value = text if equals else next(words, None)
        if value is None:
            made.error(f"argument {flag}: expected one argument")
        flags[flag] = value
    return rest, flags


def _metavar(option: Option) -> str:
    return _word(inspect.type_info(option.field.type))


def _word(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata):
        return _word(kind.type)
    if isinstance(kind, inspect.UnionType):
        return next(_word(member) for member in kind.types if not isinstance(member, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return "WORD"
    if isinstance(kind, inspect.CustomType):
        return "TIME" if kind.cls is Duration else kind.cls.__name__.upper()
    return next((word for known, word in _WORDS if isinstance(kind, known)), "VALUE")


def _help(option: Option) -> str:
    default = to_text(option.field.default).strip('"')
    shown = "" if option.field.default in (None, [], {}) else f" (default: {default})"
    choice = f": {option.field.legal}" if _metavar(option) == "WORD" else ""
    return f"{option.field.description}{choice}{shown}".replace("%", "%%")


class _Parser(argparse.ArgumentParser):
    """Names the nearest flag for one that there is none of."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, rest = self.parse_known_args(args, namespace)
        if rest and not rest[0].startswith("-"):
            near = [] if rest[0] in WORDS else difflib.get_close_matches(rest[0], WORDS, n=1)
            what = f"did you mean {near[0]}?" if near else f"its words are {', '.join(WORDS)}, and each comes first"
            self.error(f"no place for {rest[0]}: {what}")
        if rest:
            near = difflib.get_close_matches(rest[0].partition("=")[0], self._option_string_actions, n=1)
            self.error(f"there is no option {rest[0]}" + (f"; did you mean {near[0]}?" if near else ""))
        return known

    def error(self, message: str) -> NoReturn:
        """One line, and the exit code for usage."""
        self.exit(2, f"vestald: {ascii(message)[1:-1]} (see `vestald --help`)\n")

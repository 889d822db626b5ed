"""What an operator adds to a server's command line and environment: checked before it is used, and masked where shown.

Pure. Every refusal says which word it is about and why; the faults are `ValueError`, as of any option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from vestal_adapters.server.profiles import Profile, plain
from vestal_adapters.worker.causes import without_places

__all__ = ["check_arguments", "check_environment", "check_inherited", "shown_command"]

MOST_ARGUMENTS = 256
LONGEST = 8192  # characters of one argument or value
KEY = "{key}"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"-\d")
# Of tokens there are as many as a text has: `--max-num-batched-tokens` is a number.
_SECRET = re.compile(r"(keys?|token|secrets?|passwords?|passwd|credentials?)$", re.IGNORECASE)
# What the dynamic loader takes from these is code inside the server that its command line does not show.
_LOADER = "LD_"
_LOADER_ALLOWED = frozenset({"LD_LIBRARY_PATH"})


def check_arguments(arguments: Iterable[str], profile: Profile) -> None:
    """Raises `ValueError` for what is no argument, and for a flag that the adapter owns or that holds a secret."""
    listed = list(arguments)
    if len(listed) > MOST_ARGUMENTS:
        raise ValueError(f"arguments: {len(listed)} of them, and {MOST_ARGUMENTS} at most are taken")
    for argument in listed:
        _check_text("arguments", argument)
        if argument.startswith("-") and not _NUMBER.match(argument):
            _check_flag(argument, profile)


def _check_text(where: str, text: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(f"{where}: a text of {len(text)} characters, and {LONGEST} at most are taken")
    if "\0" in text:
        raise ValueError(f"{where}: a NUL character ends a text, and must not be in one")


def _check_flag(argument: str, profile: Profile) -> None:
    flag = plain(argument)
    shown = argument.partition("=")[0]
    for owned, reason in profile.owned.items():
        # Of one character only the whole counts: `-n` is no beginning of `--n_ctx`.
        abbreviates = profile.abbreviates and argument.startswith("--") and flag not in ("", *profile.whole)
        abbreviated = abbreviates and owned.startswith(flag)
        if flag == owned or abbreviated:
            raise ValueError(f"arguments: {shown} is refused: {reason}")
    if argument.startswith("--") and flag.endswith(profile.owned_endings or ("\0",)):
        raise ValueError(f"arguments: {shown} is refused: it would fetch a model of its own, and serve that")
    if _SECRET.search(flag):
        raise ValueError(f"arguments: {shown} holds a secret, and a command line is seen by everybody: use `inherit`")


def check_environment(environment: Mapping[str, str], profile: Profile) -> None:
    """Raises `ValueError` for what is no variable, and for one that the adapter owns or that holds a secret."""
    for name, value in environment.items():
        _check_variable("environment", name, profile)
        _check_text("environment", value)
        if _SECRET.search(name) and value != KEY:
            raise ValueError(
                f"environment: {name} is a secret, and a file of options no place for it:"
                f' set it in the daemon\'s environment and name it: inherit = ["{name}"]'
            )


def check_inherited(names: Iterable[str], profile: Profile) -> None:
    """Raises `ValueError` for names that are none, or that the adapter owns."""
    for name in names:
        _check_variable("inherit", name, profile)


def _check_variable(where: str, name: str, profile: Profile) -> None:
    if _VARIABLE.fullmatch(name) is None:
        raise ValueError(f"{where}: {name[:80]!r} is no variable: letters, digits and _, not beginning with a digit")
    if name.startswith(_LOADER) and name not in _LOADER_ALLOWED:
        raise ValueError(f"{where}: {name} is refused: it would load code that the command line does not show")
    if name.startswith(profile.owned_variables or ("\0",)):
        raise ValueError(f"{where}: {name} is refused: the server takes it for a flag; see `arguments`")
    if profile.abbreviates and (reason := profile.owned.get(plain(name))) is not None:
        raise ValueError(f"{where}: {name} is refused: {reason}")


def shown_command(command: Iterable[str]) -> str:
    """One line for people and logs: no directories, no secrets, nothing that is not printable."""
    words: list[str] = []
    hides = False
    for word in command:
        printable = "".join(char if char.isprintable() else "?" for char in word[:200])
        words.append("[masked]" if hides else without_places(printable))
        hides = word.startswith("-") and _SECRET.search(plain(word)) is not None
    return " ".join(words)

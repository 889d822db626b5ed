"""Where the lines of a chat come from: a person's line editor, or a pipe.

The editor's history lives in memory only: what is typed here is prompts, and those are nobody's to find on a disk.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from vestal.cli.conversation import COMMANDS

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

__all__ = ["editor", "piped"]

_PROMPT = "> "


def piped() -> str:
    """The next line of standard input. Raises `EOFError` after the last."""
    if sys.stdin is None or not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\n")


def editor() -> Callable[[], str]:
    """What asks a person for the next question. It raises `KeyboardInterrupt` for Ctrl-C, `EOFError` for Ctrl-D."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import InMemoryHistory

    session: PromptSession[str] = PromptSession(
        _PROMPT,
        history=InMemoryHistory(),
        multiline=True,
        prompt_continuation=lambda width, _number, _wrapped: "." * (width - 1) + " ",
        key_bindings=_keys(),
        completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
        complete_while_typing=False,
        enable_history_search=True,
    )
    return session.prompt


def _keys() -> KeyBindings:
    """Enter sends; Alt-Enter and Ctrl-J begin a line. A paste keeps its lines, as it comes bracketed."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys

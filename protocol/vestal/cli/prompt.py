"""What the user wants to say: the words of the command line, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vestal.cli.failures import UsageError

__all__ = ["prompt_of", "texts_of"]


def prompt_of(words: Sequence[str]) -> str:
    """The words, joined by blanks. A `-` among them stands for standard input, set apart by an empty line; no words
    at all are a `-`. Raises `UsageError` for a prompt that says nothing."""
    paragraphs: list[str] = []
    run: list[str] = []
    for word in words or ("-",):
        if word == "-":
            paragraphs += [" ".join(run), _stdin("a prompt")]
            run = []
        else:
            run.append(word)
    prompt = "\n\n".join(filter(None, [*paragraphs, " ".join(run)]))
    if not prompt.strip():
        raise UsageError("the prompt is empty: vestal run PROMPT…")
    return prompt


def texts_of(words: Sequence[str]) -> list[str]:
    """Each word is a text; without words, or for a lone `-`, each line of standard input is one."""
    if words and list(words) != ["-"]:
        return list(words)
    lines = _stdin("texts, one a line").splitlines()
    if not lines:
        raise UsageError("no texts: vestal embed TEXT…, or one a line on standard input")
    return lines


def _stdin(what: str) -> str:
    """Standard input without its last newline. A terminal is refused: the user would wait, and so would we."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"{what} is missing: give it as words, or pipe it in")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None

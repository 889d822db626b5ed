"""What the user wants to say: the words of the command line, files, or standard input."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vestal.cli.failures import UsageError
from vestal.values import ResponseFormat

__all__ = ["prompt_of", "schema_of", "texts_of"]


def prompt_of(words: Sequence[str], files: Sequence[str] = ()) -> str:
    """The words, joined by blanks, then each file, set apart by an empty line. A `-` among either stands for standard
    input; nothing at all is a `-`. Raises `UsageError` for a prompt that says nothing, or what cannot be read."""
    if [*words, *files].count("-") > 1:
        raise UsageError("`-` is standard input, and it can be read once only")
    paragraphs: list[str] = []
    run: list[str] = []
    for word in words or (() if files else ("-",)):
        if word == "-":
            paragraphs += [" ".join(run), _stdin("a prompt")]
            run = []
        else:
            run.append(word)
    texts = [_stdin("a prompt") if file == "-" else _text_of(file) for file in files]
    prompt = "\n\n".join(filter(None, [*paragraphs, " ".join(run), *texts]))
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


def schema_of(file: str) -> ResponseFormat:
    """The JSON Schema in a file, as a request takes it. For argparse: raises its `ArgumentTypeError`."""
    try:
        return ResponseFormat(schema=msgspec.json.decode(Path(file).read_bytes(), type=dict[str, object]))
    except OSError as fault:
        raise ArgumentTypeError(f"{file}: {fault.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise ArgumentTypeError(f"{file} holds no JSON object: {fault}") from None


def _text_of(file: str) -> str:
    """A file's text without its last newline."""
    try:
        return Path(file).read_bytes().decode().removesuffix("\n")
    except OSError as fault:
        raise UsageError(f"{file}: {fault.strerror}") from None
    except UnicodeDecodeError as fault:
        raise UsageError(f"{file} is not UTF-8: byte {fault.start} is 0x{fault.object[fault.start]:02x}") from None


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

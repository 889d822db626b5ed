"""`vestal run`: one prompt, one streamed answer.

Nothing but the answer goes to stdout; it ends with a newline. Thinking is shown dimmed on a coloured terminal and
is otherwise only in `--json`. Notes (a cut answer, what the daemon adjusted) are lines on stderr, always; where
the request is in the queue is a status line that is erased, and only on a terminal.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec

from vestal import Client
from vestal.cli.answer import Printer, notes_of, stats_line
from vestal.cli.failures import FAILED, INTERRUPTED, OK
from vestal.cli.interrupts import FirstCancels
from vestal.cli.parser import Parser, seconds
from vestal.cli.prompt import prompt_of
from vestal.cli.reach import add_wait, at, reach
from vestal.cli.terminal import Screen
from vestal.cli.wording import json_line
from vestal.requests import Options
from vestal.results import Result
from vestal.values import GenerateOptions, Priority

__all__ = ["execute", "parser"]

_OPTIONS = (
    ("model", "NAME", "the model, or the backend, that answers (default: the daemon's first)"),
    ("max_tokens", "N", "the longest answer, in tokens"),
    ("temperature", "T", "0 always takes the likeliest token; higher is more varied"),
    ("top_p", "P", "sample from the likeliest tokens that make up P"),
    ("top_k", "N", "sample from the N likeliest tokens; 0 is off"),
    ("min_p", "P", "drop tokens less likely than P times the likeliest; 0 is off"),
    ("seed", "N", "the same seed gives the same answer"),
)

_MORE = """\
The prompt is the words, joined; `-` stands for standard input, and so does
no word at all. Ctrl-C cancels the answer and keeps the text so far (exit 130);
pressed twice it quits at once.

On a terminal, control characters in the answer are shown as escapes (\\x1b);
into a pipe or a file the answer goes unchanged.

examples
  vestal run "Why is the sky blue?"
  vestal run --max-tokens 60 --seed 7 --stats "A haiku about fire."
  git diff | vestal run "Explain this change:" -
  vestal run --json "Hello" | jq .usage"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `run`."""
    made = Parser(command, purpose, words="[PROMPT…]", most=None, more=_MORE)
    for name, metavar, help in _OPTIONS:
        made.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=_legal(name), help=help)
    made.add_argument("--system", metavar="TEXT", help="the system message, before the prompt")
    made.add_argument("--stop", metavar="TEXT", action="append", help="end before this text; may be repeated")
    made.add_argument("--timeout", metavar="SECONDS", type=_milliseconds, help="give up after so long, queue included")
    made.add_argument("--priority", choices=get_args(Priority), help="place among other requests (default: normal)")
    versions = made.add_mutually_exclusive_group()
    versions.add_argument("--v1", dest="versions", action="store_const", const=(1,), help="speak protocol version 1")
    versions.add_argument("--v2", dest="versions", action="store_const", const=(2,), help="speak protocol version 2")
    add_wait(made)
    made.add_argument("--json", action="store_true", help="print one JSON object: text, stop_reason, usage, timings …")
    made.add_argument("--stats", action="store_true", help="one line on stderr: tokens, tok/s, times")
    return made


def execute(args: Namespace) -> int:
    """Ask, print the answer as it comes, say how it ended."""
    prompt = prompt_of(args.words)
    screen = Screen()
    with Client(versions=args.versions or (2, 1), **at(args)) as client:
        reach(client, args.wait, screen)
        result, interrupted = _ask(client, prompt, args, screen)
        if args.json:
            sys.stdout.write(f"{json_line(_as_json(result, client.version))}\n")
    for note in notes_of(result, args, interrupted=interrupted):
        screen.note(f"vestal: {note}")
    if args.stats:
        screen.note(stats_line(result))
    if interrupted:
        return INTERRUPTED
    return FAILED if result.stop_reason == "cancelled" else OK


def _ask(client: Client, prompt: str, args: Namespace, screen: Screen) -> tuple[Result, bool]:
    """The result, and whether the user interrupted it."""
    printer = Printer(screen, quiet=args.json)
    with FirstCancels() as ctrl_c, client.events(prompt, system=args.system, **_options(args)) as events:
        ctrl_c.aim(events.cancel)
        try:
            for event in events:
                printer.show(event)
        finally:
            printer.end()
    return events.result, ctrl_c.seen


def _options(args: Namespace) -> Options:
    return Options(
        model=args.model,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        seed=args.seed,
        stop=args.stop,
        priority=args.priority,
        timeout_ms=args.timeout,
    )


def _as_json(result: Result, version: int) -> dict[str, object]:
    named = ("stop_reason", "usage", "timings", "backend", "model", "notices")
    rest = {name: getattr(result, name) for name in named}
    return {"text": result.text, "thinking": result.thinking, **rest, "version": version}


@cache
def _kinds() -> dict[str, Any]:
    # Any: an annotation is whatever typing makes of it.
    return get_type_hints(GenerateOptions, include_extras=True)


def _legal(name: str) -> Callable[[str], object]:
    """The text of an option as its value, within the bounds that `GenerateOptions` declares."""

    def convert(text: str) -> object:
        try:
            return msgspec.convert(text, get_args(_kinds()[name])[0], strict=False)
        except msgspec.ValidationError as error:
            raise ArgumentTypeError(f"{_in_words(str(error))}, got {text!r}") from None

    return convert


def _in_words(fault: str) -> str:
    kind = fault.partition(", got")[0].replace("`int`", "a whole number").replace("`float`", "a number")
    return kind.replace("`str` of length >= 1", "a text that is not empty").replace("Expected", "expected")


def _milliseconds(text: str) -> int:
    if milliseconds := round(1000 * seconds(text)):
        return milliseconds
    raise ArgumentTypeError(f"expected a time longer than 0, got {text!r}")

"""`vestal run`: one prompt, one streamed answer.

Nothing but the answer goes to stdout; it ends with a newline. Thinking is shown dimmed on a coloured terminal and
is otherwise only in `--json`. Notes (a cut answer, what the daemon adjusted) are lines on stderr, always; where
the request is in the queue is a status line that is erased, and only on a terminal.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from vestal import Client
from vestal.cli.answer import Printer, notes_of, stats_line
from vestal.cli.failures import FAILED, INTERRUPTED, OK
from vestal.cli.interrupts import FirstCancels
from vestal.cli.parser import Parser
from vestal.cli.prompt import prompt_of, schema_of
from vestal.cli.reach import add_wait, at, reach
from vestal.cli.sampling import add_sampling, sampling_of
from vestal.cli.terminal import Screen
from vestal.cli.wording import json_line
from vestal.results import Result

__all__ = ["execute", "parser"]

_MORE = """\
The prompt is the words, joined; `-` stands for standard input, and so does
no word and no file at all. Files come after the words, set apart by an empty
line. Ctrl-C cancels the answer and keeps the text so far (exit 130); pressed
twice it quits at once.

On a terminal, control characters in the answer are shown as escapes (\\x1b);
into a pipe or a file the answer goes unchanged.

examples
  vestal run "Why is the sky blue?"
  vestal run --max-tokens 60 --seed 7 --stats "A haiku about fire."
  git diff | vestal run "Explain this change:" -
  vestal run "Translate to French:" -f letter.txt
  vestal run --json-schema person.json "Bob is 31 years old." | jq .age
  vestal run --json "Hello" | jq .usage"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `run`."""
    made = Parser(command, purpose, words="[PROMPT…]", most=None, more=_MORE)
    made.add_argument("-f", "--file", metavar="FILE", action="append", default=[],
                      help="add the text of a file to the prompt; may be repeated, - is standard input")  # fmt: skip
    made.add_argument("--system", metavar="TEXT", help="the system message, before the prompt")
    made.add_argument("--json-schema", metavar="FILE", type=schema_of, help="the answer is JSON that fits this schema")
    add_sampling(made)
    versions = made.add_mutually_exclusive_group()
    versions.add_argument("--v1", dest="versions", action="store_const", const=(1,), help="speak protocol version 1")
    versions.add_argument("--v2", dest="versions", action="store_const", const=(2,), help="speak protocol version 2")
    add_wait(made)
    made.add_argument("--json", action="store_true", help="print one JSON object: text, stop_reason, usage, timings …")
    made.add_argument("--stats", action="store_true", help="one line on stderr: tokens, tok/s, times")
    return made


def execute(args: Namespace) -> int:
    """Ask, print the answer as it comes, say how it ended."""
    prompt = prompt_of(args.words, args.file)
    screen = Screen()
    with Client(autostart=args.autostart, versions=args.versions or (2, 1), **at(args)) as client:
        reach(client, args, screen)
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
    options = sampling_of(args)
    options["response_format"] = args.json_schema
    with FirstCancels() as ctrl_c, client.events(prompt, system=args.system, **options) as events:
        ctrl_c.aim(events.cancel)
        try:
            for event in events:
                printer.show(event)
        finally:
            printer.end()
    return events.result, ctrl_c.seen


def _as_json(result: Result, version: int) -> dict[str, object]:
    named = ("stop_reason", "usage", "timings", "backend", "model", "notices")
    rest = {name: getattr(result, name) for name in named}
    return {"text": result.text, "thinking": result.thinking, **rest, "version": version}

"""`vestal chat`: question and answer in turns.

Ctrl-C cancels the answer that streams and keeps the chat; a second one stops waiting for the daemon's word on it, and
any more of them do nothing.
An error ends a turn, not the chat: the next question connects again. Into it may be piped: each line is a question.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable

from vestal import Client, VestalError
from vestal.cli.answer import Printer, notes_of, stats_line
from vestal.cli.chat_input import editor, piped
from vestal.cli.conversation import COMMANDS, Conversation, command_of
from vestal.cli.extras import require
from vestal.cli.failures import FAILED, OK, explain
from vestal.cli.interrupts import FirstCancels, Then, between_answers, once
from vestal.cli.parser import Parser, nearest
from vestal.cli.reach import add_wait, at, reach
from vestal.cli.sampling import add_sampling, sampling_of
from vestal.cli.terminal import Screen, is_live
from vestal.cli.wording import count
from vestal.messages import BackendInfo

__all__ = ["execute", "parser"]

_MORE = """\
Enter sends, Alt-Enter or Ctrl-J begins a new line, Ctrl-C cancels an answer,
Ctrl-D ends. /help lists the commands. Piped in, each line is one question.
Nothing of it is written to disk unless /save asks for it."""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `chat`."""
    made = Parser(command, purpose, more=_MORE)
    add_sampling(made)
    made.add_argument("--system", metavar="TEXT", help="the system message, before the conversation")
    add_wait(made)
    return made


def execute(args: Namespace) -> int:
    """Talk until there is nothing more to say."""
    person = sys.stdin is not None and sys.stdin.isatty() and is_live(sys.stdout)
    if person:
        require(args.command, "prompt_toolkit")
    screen = Screen()
    with Client(autostart=args.autostart, **at(args)) as client:
        reach(client, args, screen)
        if not person:
            return Chat(client, args, screen).talk(piped, patient=False)
        screen.note(f"{_served(client)}; Ctrl-D ends, /help lists the commands")
        with between_answers():
            return Chat(client, args, screen, second=once).talk(editor(), patient=True)


class Chat:
    """One conversation with one daemon."""

    def __init__(
        self, client: Client, args: Namespace, screen: Screen, second: Then = signal.default_int_handler
    ) -> None:
        self._second = second  # what a second Ctrl-C in one answer does
        self._client = client
        self._args = args
        self._screen = screen
        self._said = Conversation(args.system, args.model)
        self._ended = False

    def talk(self, ask: Callable[[], str], *, patient: bool) -> int:
        """Take lines until the end; the exit code tells whether all was answered, unless somebody saw it."""
        failed = False
        while not self._ended:
            try:
                line = ask()
            except EOFError:
                break
            except KeyboardInterrupt:
                if not patient:
                    raise
                continue
            failed |= not self._take(line)
        return FAILED if failed and not patient else OK

    def _take(self, line: str) -> bool:
        """One line: a command, or a question. False if it failed."""
        try:
            command = command_of(line)
            if command is not None:
                _DEEDS[command[0]](self, command[1])
            elif line.strip():
                self._ask(line.removeprefix("/") if line.startswith("//") else line)
        except KeyboardInterrupt:
            self._note("not waiting any longer")
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.filename is None:
                raise  # no file of a command's: the output itself
            self._note(str(error))
            return False
        except VestalError as error:
            self._note(explain(error)[1])
            return False
        return True

    def _ask(self, question: str) -> None:
        printer = Printer(self._screen, quiet=False)
        said = self._said
        options = sampling_of(self._args)
        options["model"] = said.model
        with (
            FirstCancels(then=self._second) as ctrl_c,
            self._client.events(said.asking(question), system=said.system, **options) as events,
        ):
            ctrl_c.aim(events.cancel)
            try:
                for event in events:
                    printer.show(event)
            finally:
                printer.end()
        result = events.result
        said.answered(question, result.text)
        for note in notes_of(result, self._args, interrupted=ctrl_c.seen):
            self._note(note)
        if self._screen.live:
            self._screen.note(f"[{stats_line(result)}]")

    # --- commands ---------------------------------------------------------------------------------------------

    def _help(self, _: str) -> None:
        for name, meaning in COMMANDS.items():
            self._note(f"/{name:<7} {meaning}")

    def _clear(self, _: str) -> None:
        self._said.clear()
        self._note("forgotten")

    def _system(self, text: str) -> None:
        if text:
            self._said.system = None if text == "-" else text
        self._note(f"system message: {self._said.system or 'none'}")

    def _model(self, name: str) -> None:
        there = sorted({known for one in _talkers(self._client) for known in (one.name, one.model, *one.aliases)})
        if name and name not in there:
            raise ValueError(f"no backend serves {name!r}{nearest(name, there)}; there are {', '.join(there)}")
        self._said.model = name or self._said.model
        self._note(f"model: {self._said.model or 'the first'} of {', '.join(there)}")

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("/save FILE: which file?")
        as_json = name.endswith(".json")
        text = json.dumps(self._said.as_json(), ensure_ascii=False, indent=1) if as_json else self._said.as_markdown()
        path = os.path.expanduser(name)  # noqa: PTH111  # a text that is shown as it was given
        try:
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ValueError(f"nothing is saved: {path}: {error.strerror}") from None
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        self._note(f"saved {count(len(self._said.turns) // 2, 'turn')} to {path}, for you alone to read")

    def _quit(self, _: str) -> None:
        self._ended = True

    def _note(self, text: str) -> None:
        self._screen.note(f"vestal: {text}")


_DEEDS: dict[str, Callable[[Chat, str], None]] = {
    "help": Chat._help,
    "clear": Chat._clear,
    "system": Chat._system,
    "model": Chat._model,
    "save": Chat._save,
    "quit": Chat._quit,
}


def _served(client: Client) -> str:
    return "talking to " + ", ".join(f"{backend.model} ({backend.name})" for backend in _talkers(client))


def _talkers(client: Client) -> list[BackendInfo]:
    """Those that answer; others only make vectors."""
    return [backend for backend in client.backends if backend.capabilities.generate]

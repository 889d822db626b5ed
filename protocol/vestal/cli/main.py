"""`vestal`: find the command, run it, end with the right code.

What is imported at the start is imported by every command; so it is little.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from vestal import __version__
from vestal.cli.failures import BROKEN_PIPE, EXIT_CODES, INTERRUPTED, OK, UNWRITTEN, USAGE, explain
from vestal.cli.parser import RUNTIME_DIR, Parser, nearest
from vestal.cli.terminal import printable

__all__ = ["BRANCHES", "COMMANDS", "main"]

COMMANDS = {
    "run": ("run", "stream an answer to a prompt"),
    "chat": ("chat", "question and answer in turns"),
    "embed": ("embed", "turn texts into vectors and compare them"),
    "pull": ("pull", "fetch a model, or add a file of yours"),
    "models": ("models", "list the models of this machine"),
    "show": ("show", "all that is known of one model"),
    "rm": ("rm", "remove models from this machine"),
    "gc": ("gc", "remove unfinished downloads and the like"),
    "keys": ("keys", "the keys that sign models, and those trusted"),
    "status": ("status", "what the daemon is doing"),
    "top": ("top", "the daemon live: load, speed, queue, errors"),
    "watch": ("watch", "what happens, as it happens"),
    "ps": ("ps", "the processes that serve, and their memory"),
    "queue": ("queue", "who waits and who runs"),
    "logs": ("logs", "the daemon's log, and where it is"),
    "doctor": ("doctor", "what is wrong here, and what mends it"),
    "metrics": ("metrics", "counters, for Prometheus"),
    "audit": ("audit", "check the audit log, or show its latest lines"),
    "stop": ("stop", "stop the daemon and wait until it is gone"),
    "drain": ("steer", "take no new requests; finish those there"),
    "undrain": ("steer", "take requests again"),
    "cancel": ("steer", "end one request of anybody's"),
    "backend": ("backends", "list, add, remove, drain, restart backends"),
    "route": ("route", "where a request would go, and why"),
    "completion": ("completion", "let the shell complete these commands"),
    "reload": ("reload", "read the configuration again"),
    "config": ("config", "show and check the configuration"),
}
"""Each command: the module that holds it, and its purpose."""

BRANCHES = {
    "models": {
        "sign": ("sign", "vouch for a model with a key of yours"),
        "verify": ("verify", "read models again: digests and signatures"),
        "plan": ("plan", "the memory that a model will take here"),
    },
    "keys": {
        "new": ("keys", "make a key, and trust it"),
        "list": ("keys", "list the keys, and whether they count"),
        "trust": ("keys", "let the signatures of a key count"),
        "revoke": ("keys", "let the signatures of a key count no more"),
    },
    "backend": {
        "list": ("backends", "the backends, their names and how they stand"),
        "add": ("backend_changes", "start a backend that the configuration declares"),
        "remove": ("backend_changes", "let a backend finish, and stop it"),
        "drain": ("backend_changes", "give a backend no new requests"),
        "undrain": ("backend_changes", "give a backend requests again"),
        "restart": ("backend_changes", "let a backend finish, and start it anew"),
    },
    "route": {"explain": ("route", "where a request would go now, and why")},
}
"""Commands of two words, by the first."""

_GROUPS = (
    ("ask", ("run", "chat", "embed")),
    ("models", ("pull", "models", "show", "rm", "gc", "keys")),
    (
        "look at the daemon (for its owner)",
        ("status", "top", "watch", "ps", "queue", "route", "logs", "doctor", "metrics", "audit"),
    ),
    ("steer it", ("stop", "drain", "undrain", "backend", "cancel", "reload", "config")),
    ("the shell", ("completion",)),
)

_EXAMPLES = """\
examples
  vestald                                 start the daemon
  vestal run "Why is the sky blue?"
  git diff | vestal run "Explain this change:" -
  vestal run --wait --json --seed 1 "Pick a card." | jq .text
  vestal embed "a cat" "a kitten" "a stone"
  vestal pull smollm2-135m"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the process's exit code."""
    _mend_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # a reader that has gone is noticed here, not in the interpreter's last breath
        return code
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # the shell's next prompt is not to stand behind ^C
        return INTERRUPTED
    except Exception as error:  # whatever it is, the user gets one line and the right code
        return _fail(error)


def _run(arguments: Sequence[str]) -> int:
    try:
        return _dispatch(arguments)
    except SystemExit as end:  # argparse: help was asked for, or a mistake was told
        return int(end.code or OK)


def _dispatch(arguments: Sequence[str]) -> int:
    top = _Top()
    known, rest = top.split(arguments)
    if not rest:
        sys.stderr.write(top.format_help())
        return USAGE
    name = rest[0]
    if name not in COMMANDS:
        top.error(f"there is no command {name!r}{nearest(name, COMMANDS)}")
    module, purpose = COMMANDS[name]
    if name in BRANCHES and len(rest) > 1 and not rest[1].startswith("-"):
        if rest[1] not in BRANCHES[name]:
            there = f"{nearest(rest[1], BRANCHES[name])} ({', '.join(BRANCHES[name])})"
            top.error(f"there is no command '{name} {rest[1]}'{there}", name)
        module, purpose = BRANCHES[name][rest[1]]
        name, rest = f"{name} {rest[1]}", rest[1:]
    home = import_module(f"vestal.cli.{module}")
    parser: Callable[[str, str], Parser] = home.parser
    execute: Callable[[argparse.Namespace], int] = home.execute
    known.command = name
    return execute(parser(name, f"{purpose[0].upper()}{purpose[1:]}.").parse(rest[1:], known))


class _Top(argparse.ArgumentParser):
    """What comes before the command."""

    def __init__(self) -> None:
        super().__init__(
            prog="vestal",
            usage="vestal [--runtime-dir DIR] COMMAND …",
            description="Talk to vestald, the daemon that keeps language models warm.",
            epilog=f"{_commands()}\n\n`vestal COMMAND --help` has the options of each.\n\n{_EXAMPLES}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--runtime-dir", metavar="DIR", help=RUNTIME_DIR)
        self.add_argument(
            "--version", action="version", version=f"vestal {__version__}", help="say which version this is"
        )

    def split(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options before the command, and the command with all that follows it."""
        at = self._command_at(arguments)
        known, rest = self.parse_known_args(arguments[:at])
        if rest:
            self.error(f"there is no option {rest[0]}{nearest(rest[0].split('=')[0], self._option_string_actions)}")
        return known, list(arguments[at:])

    def _command_at(self, arguments: Sequence[str]) -> int:
        """The index of the first word that is neither an option nor the value of one."""
        value = False
        for index, argument in enumerate(arguments):
            if not value and not argument.startswith("-"):
                return index
            value = not value and argument == "--runtime-dir"
        return len(arguments)

    def error(self, message: str, command: str = "") -> NoReturn:
        """One line, and the exit code for usage."""
        self.exit(USAGE, f"vestal: {printable(message)} (see `{f'vestal {command}'.rstrip()} --help`)\n")


def _commands() -> str:
    groups = (
        f"{title}\n" + "\n".join(f"  {name:<11} {COMMANDS[name][1]}" for name in names) for title, names in _GROUPS
    )
    return "\n\n".join(groups)


def _fail(error: Exception) -> int:
    code, line = explain(error)
    if os.environ.get("VESTAL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    with suppress(OSError):  # nobody is left to be told
        sys.stderr.write(f"vestal: {printable(line)}\n")
    if code == UNWRITTEN:
        _silence_stdout()
    return code


def _mend_streams() -> None:
    """No answer may fail on an old encoding, and a closed stream is one that nobody reads."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123  # it lives as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Nothing more can be written; without this the interpreter would complain when it flushes at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())

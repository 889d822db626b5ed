"""`vestald config explain|check|schema`: what the daemon would run with, without running it.

They take the daemon's own flags, so `vestald config explain --queue …` shows what `vestald --queue …` would do. Exit
codes: 0 all is well, 78 something is wrong with the configuration, 2 this command line cannot be meant, 74 the output
could not be written.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size

from vestald.config import explain, flags
from vestald.config.backends import faults_of
from vestald.config.faults import Fault
from vestald.config.json_schema import schema
from vestald.config.reader import Reading
from vestald.config.sources import Sources
from vestald.failures import BadConfiguration, Unwritten
from vestald.rules import unanswered

__all__ = ["DEEDS", "main"]

OK, USAGE, BAD = 0, 2, BadConfiguration.exit_code

_HELP = """\
usage: vestald config explain [KEY] [--json] [OPTION…]
       vestald config check [FILE]
       vestald config schema

explain  each option, its value, and where that comes from: a flag, a variable,
         FILE:LINE or the default. With KEY (admission.queue_depth, admission,
         backend.chat) all about those. Takes the daemon's own options, to show
         what they would do. Secrets are masked.
check    everything that is wrong with FILE by itself, a line each; without
         FILE with what vestald would run with, variables included
schema   a JSON Schema of the file, for editors

exit codes: 0 all is well; 78 something is wrong; 2 this command line cannot
be meant; 74 the output could not be written"""


def main(arguments: Sequence[str]) -> int:
    """Run one of the deeds; the exit code."""
    if not arguments or arguments[0] in ("-h", "--help") or "--help" in arguments[1:]:
        _say(_HELP)
        return OK if arguments else USAGE
    deed, *rest = arguments
    if deed not in DEEDS:
        near = difflib.get_close_matches(deed, DEEDS, n=1)
        return _refuse(f"there is no command 'config {deed}'" + (f"; did you mean {near[0]}?" if near else ""))
    return DEEDS[deed](rest)


def _explain(arguments: Sequence[str]) -> int:
    options = [word for word in arguments if word != "--json"]
    key = options.pop(0) if options and not options[0].startswith("-") else ""
    try:
        reading = flags.parse(options).examine()
    except BadConfiguration as error:
        return _told([Fault("vestald", error.message, error.hint or "")])
    found = explain.settings(reading.config)
    chosen = [one for one in found if not key or one.option.key == key or one.option.key.startswith(f"{key}.")]
    if not chosen:
        near = difflib.get_close_matches(key, [one.option.key for one in found], n=1)
        return _refuse(f"there is no option {key!r}" + (f"; did you mean {near[0]}?" if near else ""))
    if "--json" in arguments:
        _say(json.dumps(explain.as_json(chosen), indent=2))
    elif key:
        _say("\n\n".join("\n".join(explain.details(one)) for one in chosen))
    else:
        _say("\n".join(explain.overview(chosen, _width())))
    return _told(_all_faults(reading), reading.config.warnings)


def _check(arguments: Sequence[str]) -> int:
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        return _refuse("config check takes one FILE at most")
    sources = Sources(Path(arguments[0]), environ={}) if arguments else Sources()
    try:
        reading = sources.examine()
    except BadConfiguration as error:
        return _told([Fault("vestald", error.message, error.hint or "")])
    faults = _all_faults(reading)
    for fault in faults:
        _say(_plain(str(fault)))
    _told([], reading.config.warnings)
    what = str(reading.config.source or "the built-in defaults")
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}" if faults else "no fault"
    _say(f"{what}: {count}")
    return BAD if faults else OK


def _schema(arguments: Sequence[str]) -> int:
    if arguments:
        return _refuse(f"no place for {arguments[0]!r}")
    _say(json.dumps(schema(), indent=2))
    return OK


def _all_faults(reading: Reading) -> list[Fault]:
    """Those of the reading, of the adapters, and of names that nobody has."""
    return [*reading.faults, *faults_of(reading.config), *unanswered(reading.config)]


def _told(faults: Sequence[Fault], warnings: Sequence[str] = ()) -> int:
    for warning in warnings:
        sys.stderr.write(f"{_plain(f'warning: {warning}')}\n")
    for fault in faults:
        sys.stderr.write(f"{_plain(str(fault))}\n")
    return BAD if faults else OK


def _refuse(message: str) -> int:
    sys.stderr.write(f"vestald: {_plain(message)} (see `vestald config --help`)\n")
    return USAGE


def _say(text: str) -> None:
    """Raises `Unwritten`."""
    try:
        sys.stdout.write("".join(f"{_plain(line)}\n" for line in text.split("\n")))
        sys.stdout.flush()
    except OSError as exc:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # what is left in it would fail again at the end
        raise Unwritten(f"the output could not be written: {exc.strerror}") from exc


def _plain(text: str) -> str:
    """One line, whatever is in it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _width() -> int:
    return get_terminal_size().columns if sys.stdout.isatty() else 10_000


DEEDS = {"explain": _explain, "check": _check, "schema": _schema}
"""The words after `config`."""

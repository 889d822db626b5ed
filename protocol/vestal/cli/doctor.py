"""`vestal doctor`: everything that could keep the daemon from serving, each with what mends it.

The daemon's half is looked at by `vestald doctor`, a process of its own: this package imports neither the daemon nor
the adapters, and a fault in one of them, were it a crash, is a finding here and not the end.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import msgspec

from vestal.cli.checks import examine_daemon, examine_store
from vestal.cli.failures import FAILED, OK
from vestal.cli.parser import Parser
from vestal.cli.terminal import Style, columns, printable, style_of
from vestal.cli.wording import count, cut, json_line
from vestal.findings import Finding, Level, fail, warn

__all__ = ["execute", "finding_lines", "parser"]

_PATIENCE = 300.0  # seconds: every configured model is read whole
_COLOURS: dict[Level, str] = {"ok": "green", "warn": "yellow", "fail": "red"}

_MORE = """\
Nothing is changed, and no daemon needs to run.

exit codes
  0    nothing must be mended; there may be warnings
  1    something must be mended; with --strict also for a warning"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `doctor`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument(
        "--config",
        metavar="FILE",
        help="a configuration (default: the running daemon's, else as vestald finds it)",
    )
    made.add_argument("--quick", action="store_true", help="do not read models whole to check their digests")
    made.add_argument("--strict", action="store_true", help="exit 1 for a warning too")
    made.add_argument("--json", action="store_true", help="print one JSON list of findings")
    return made


def execute(args: Namespace) -> int:
    """Look at everything, tell it, and say with the exit code how it is."""
    found = [*_daemons_half(args), *examine_store(), *examine_daemon(args)]
    if args.json:
        lines = [json_line([_whole(finding) for finding in found])]
    else:
        lines = finding_lines(found, columns(sys.stdout), style_of(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    bad = ("fail", "warn") if args.strict else ("fail",)
    return FAILED if any(finding.level in bad for finding in found) else OK


def _whole(finding: Finding) -> dict[str, str]:
    return {"about": finding.about, "level": finding.level, "says": finding.says, "mend": finding.mend}


def finding_lines(found: Sequence[Finding], width: int | None, style: Style) -> list[str]:
    """A line for each, with what mends it below; a last line that counts them."""
    lines = []
    for finding in found:
        head = style(f"{finding.level:<4}", "bold", _COLOURS[finding.level])
        room = None if width is None or finding.level != "ok" else width - 6  # only good news may be cut
        lines.append(f"{head}  {cut(printable(f'{finding.about}: {finding.says}'), room)}")
        if finding.mend:
            lines.append(f"      mend: {printable(finding.mend)}")
    bad = {level: sum(finding.level == level for finding in found) for level in _COLOURS}
    lines.append(f"{count(bad['fail'], 'fault')}, {count(bad['warn'], 'warning')}, {bad['ok']} fine")
    return lines


def _daemons_half(args: Namespace) -> Iterator[Finding]:
    if find_spec("vestald") is None:
        yield warn(
            "vestald", "not installed here: only what a client sees is looked at", "pip install 'vestal[daemon]'"
        )
        return
    command = [sys.executable, "-P", "-m", "vestald", "doctor"]
    command += ["--quick"] if args.quick else []
    command += [f"--config={args.config}"] if args.config else []
    command += [f"--runtime-dir={args.runtime_dir}"] if args.runtime_dir else []
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
        yield from msgspec.json.decode(done.stdout, type=list[Finding])
    except subprocess.TimeoutExpired:
        yield fail("vestald", f"`vestald doctor` did not end within {_PATIENCE:g} s", "vestal doctor --quick")
    except msgspec.DecodeError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        yield fail("vestald", f"`vestald doctor` ended with {done.returncode}: {last[0]}", " ".join(command))

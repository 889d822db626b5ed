"""`vestal route explain`: where a request would go now, backend by backend, as the daemon's own router sees it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from textwrap import wrap

from vestal import messages as m
from vestal.cli.failures import FAILED, OK, UsageError, explain
from vestal.cli.parser import Parser
from vestal.cli.reach import admin
from vestal.cli.status import as_json
from vestal.cli.terminal import columns, printable
from vestal.cli.wording import cells, cut, json_line, table
from vestal.codec import exception_of

__all__ = ["execute", "parser", "route_lines"]

_HEAD = ["VERDICT", "BACKEND", "BUSY", "WAIT", "WHY"]
_MORE = """\
It exits 0 if a backend would take the request, and 1 if none would.

verdicts
  chosen       it would get the request
  possible     it could take it; another goes before it
  away         it is coming back, and a request may wait there
  cold         it failed too often of late: none for a while
  lost         it is gone until somebody restarts it
  draining     an operator keeps new requests away
  loading      it has not been ready yet
  incapable    it cannot do what is asked
  other_model  the name means another

examples
  vestal route explain
  vestal route explain smollm2-135m --needs tools,seed
  vestal route explain --embed minilm-l6-v2"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `route explain`; `route` alone is not enough."""
    if command == "route":
        return Parser(command, purpose, words="explain [MODEL]", least=1, more=_MORE)
    made = Parser(command, purpose, words="[MODEL]", most=1, more=_MORE)
    made.add_argument("--embed", action="store_true", help="an embed instead of a generate")
    made.add_argument("--task", metavar="NAME", help="the task of that embed")
    made.add_argument("--dimensions", metavar="N", type=int, help="how long the vectors of that embed shall be")
    made.add_argument("--v1", action="store_true", help="of a client that speaks version 1 only")
    made.add_argument("--needs", metavar="LIST", type=_listed, default=[],
                      help="what it would use: capabilities and options, such as tools,vision,seed")  # fmt: skip
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def execute(args: Namespace) -> int:
    """Ask once, print it. Raises `UsageError`."""
    for option in ("task", "dimensions"):
        if getattr(args, option) is not None and not args.embed:
            raise UsageError(f"--{option} is of an embed: add --embed")
    model = args.words[0] if args.words else None
    with admin(args) as client:
        speaks_v2 = any(backend.capabilities and backend.capabilities.v2 for backend in client.backends())
        report = client.explain_route(
            model,
            needs=args.needs,
            socket="embed" if args.embed else "infer",
            version=1 + (speaks_v2 and not args.v1),
            dimensions=args.dimensions,
            task=args.task,
        )
    if args.json:
        lines = [json_line({"chosen": None, "refusal": None, **as_json(report)})]
    else:
        lines = route_lines(report, columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return FAILED if report.chosen is None else OK


def route_lines(report: m.RouteReport, width: int | None) -> list[str]:
    """A line for each backend; where the reasons do not fit beside, they are below. Then what a client would hear."""
    rows = [_row(candidate) for candidate in report.candidates]
    lines = table([_HEAD, *rows], right=(2, 3))
    if width is not None and any(cells(line) > width for line in lines):
        lines = _narrow(rows, width)
    if report.refusal is not None:
        _, heard = explain(exception_of(report.refusal))
        lines += _wrapped(printable(f"a client would hear {heard}"), width)
    return lines


def _row(candidate: m.RouteCandidate) -> list[str]:
    busy = f"{candidate.running}/{candidate.slots}"
    name, reason = printable(candidate.backend), printable(candidate.reason)
    return [candidate.verdict, name, busy, str(candidate.waiting), reason]


def _narrow(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The reasons, each below its backend."""
    head, *shown = table([_HEAD[:-1], *(row[:-1] for row in rows)], right=(2, 3), width=width)
    below = ([f"  {cut(line, width - 2)}" for line in wrap(row[-1], width - 2)] for row in rows)
    return [head, *(line for pair in zip(shown, below, strict=True) for line in (pair[0], *pair[1]))]


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else wrap(text, width)


def _listed(text: str) -> list[str]:
    return [item for item in text.split(",") if item]

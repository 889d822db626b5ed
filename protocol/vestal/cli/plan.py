"""`vestal models plan`: the memory that a model will take with given settings, and whether it is there.

Exit code 1 says that it does not fit. The header of the file is read, and nothing of it is believed beyond its numbers.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable

import msgspec

from vestal.cli.failures import FAILED, OK, UsageError
from vestal.cli.parser import Parser
from vestal.cli.terminal import printable
from vestal.cli.wording import json_line, megabytes, table
from vestal.models.available import available_memory
from vestal.models.gguf_file import GGUFInfo, read_gguf
from vestal.models.memory import (
    DEFAULT_BATCH,
    DEFAULT_SLOTS,
    Available,
    MemoryPlan,
    Settings,
    default_context,
    plan_memory,
    what_would_fit,
)
from vestal.models.store import Store

__all__ = ["execute", "parser"]

_MORE = """\
The daemon makes the same sum before it loads a model, with what its
[[backend]] table says, and refuses what does not fit.

example
  vestal models plan smollm2-135m --slots 8 --context 4096"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `models plan`."""
    made = Parser(command, purpose, words="NAME|PATH", least=1, most=1, more=_MORE)
    made.add_argument("--slots", metavar="N", type=_number(256), default=DEFAULT_SLOTS, help="requests at once (4)")
    made.add_argument("--context", metavar="N", type=_number(2**24), help="tokens per slot (the model's, to 4096)")
    made.add_argument("--batch", metavar="N", type=_number(16384), default=DEFAULT_BATCH, help="tokens a step (256)")
    made.add_argument("--no-seal", action="store_true", help='as with integrity = "lease" or "path"')
    made.add_argument("--no-mmap", action="store_true", help="as with mmap = false")
    made.add_argument("--json", action="store_true", help="print one JSON object, in bytes")
    return made


def execute(args: Namespace) -> int:
    """Show the sum."""
    model = Store().resolve(args.words[0])
    info, available = read_gguf(model.path), available_memory()
    settings = _settings(args, info)
    plan = plan_memory(info, settings)
    fits = available is None or plan.total <= available.size
    if args.json:
        lines = [json_line(_as_json(plan, settings, available))]
    else:
        lines = [*_sum(plan, available), printable(_verdict(model.name, info, settings, available))]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK if fits else FAILED


def _settings(args: Namespace, info: GGUFInfo) -> Settings:
    if args.context is not None and 0 < (info.context_length or 0) < args.context:
        raise UsageError(f"--context is {args.context:,}, and the model was made for {info.context_length:,} tokens")
    return Settings(
        slots=args.slots,
        context_length=args.context or default_context(info),
        batch=args.batch,
        sealed=not args.no_seal,
        mapped=not args.no_mmap,
    )


def _sum(plan: MemoryPlan, available: Available | None) -> list[str]:
    rows = [[line.what, megabytes(line.size), line.how] for line in plan.lines]
    rows.append(["needed", megabytes(plan.total), ""])
    rows.append(["available", *((megabytes(available.size), available.bound) if available else ("?", "not known"))])
    return table([[printable(cell) for cell in row] for row in rows], right=(1,))


def _verdict(name: str, info: GGUFInfo, settings: Settings, available: Available | None) -> str:
    if available is None:
        return f"{name}: whether it fits is not known: this system does not say what is available"
    if plan_memory(info, settings).total <= available.size:
        return f"{name}: fits"
    return f"{name}: does not fit; {what_would_fit(info, settings, available)}"


def _as_json(plan: MemoryPlan, settings: Settings, available: Available | None) -> object:
    return msgspec.to_builtins(
        {
            "settings": settings,
            "lines": plan.lines,
            "needed": plan.total,
            "available": available,
            "fits": None if available is None else plan.total <= available.size,
        }
    )


def _number(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if text.isascii() and text.isdigit() and 1 <= int(text) <= most:
            return int(text)
        raise ArgumentTypeError(f"expected a whole number from 1 to {most}, got {text!r}")

    return number

"""`vestal models`: what is in the store, damaged or not."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

import msgspec

from vestal import ModelError
from vestal.cli.failures import FAILED, OK
from vestal.cli.parser import Parser
from vestal.cli.terminal import Screen, columns, printable
from vestal.cli.wording import json_line, megabytes, table
from vestal.models.manifest import StoredModel
from vestal.models.store import Store

__all__ = ["execute", "model_lines", "parser"]

_MORE = """\
$VESTAL_HOME says where they are (default: ~/.local/share/vestal).

  vestal models sign NAME --key KEY   vouch for a model
  vestal models verify [NAME…]        read them again, and check
  vestal models plan NAME|PATH        the memory it will take"""
_HEAD = ["NAME", "KIND", "SIZE", "FAMILY", "CONTEXT", "QUANT", "DIGEST"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `models`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--json", action="store_true", help="print a JSON list, with paths and whole digests")
    return made


def execute(args: Namespace) -> int:
    """List the sound ones on stdout, and the damaged ones with the way out on stderr."""
    store = Store()
    models, faults = _found(store)
    if args.json:
        lines = [
            json_line([msgspec.to_builtins({**msgspec.structs.asdict(one), "path": str(one.path)}) for one in models])
        ]
    else:
        lines = model_lines(models, columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    if not models and not faults:
        Screen().note(f"vestal: no models in {store.root}: `vestal pull smollm2-135m` fetches one")
    for fault in faults:
        Screen().note(f"vestal: {fault}")
    return FAILED if faults else OK


def _found(store: Store) -> tuple[list[StoredModel], list[ModelError]]:
    models, faults = [], []
    for name in store.names():
        try:
            if (model := store.find(name)) is not None:
                models.append(model)
        except ModelError as fault:
            faults.append(fault)
    return models, faults


def model_lines(models: Sequence[StoredModel], width: int | None) -> list[str]:
    """A table; nothing without models."""
    return table([_HEAD, *map(_row, models)], right=(2, 4), width=width) if models else []


def _row(model: StoredModel) -> list[str]:
    context = f"{model.context_length:,}" if model.context_length else "-"
    digest = (model.digest or "").removeprefix("sha256-")[:12]
    facts = (model.name, model.kind, megabytes(model.size), model.family, context, model.quantisation, digest)
    return [printable(fact) or "-" for fact in facts]

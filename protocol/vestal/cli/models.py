"""`vestal models`: what is in the store, damaged or not, who vouches for it, and who uses it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence

import msgspec

from vestal import ModelError
from vestal.cli.failures import FAILED, OK
from vestal.cli.parser import Parser
from vestal.cli.serving import served_models
from vestal.cli.terminal import Screen, columns, printable
from vestal.cli.wording import json_line, megabytes, table
from vestal.models.manifest import StoredModel
from vestal.models.store import Store
from vestal.models.trust import Trust

__all__ = ["execute", "model_as_json", "model_lines", "parser", "signature_of"]

_MORE = """\
$VESTAL_HOME says where they are (default: ~/.local/share/vestal).

  vestal models sign NAME --key KEY   vouch for a model
  vestal models verify [NAME…]        read them again, and check
  vestal models plan NAME|PATH        the memory it will take"""
_HEAD = ["NAME", "KIND", "SIZE", "FAMILY", "CONTEXT", "QUANT", "DIGEST", "SIGNED", "USED BY"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `models`."""
    made = Parser(command, purpose, more=_MORE)
    made.add_argument("--json", action="store_true", help="print a JSON list, with paths and whole digests")
    return made


def execute(args: Namespace) -> int:
    """List the sound ones on stdout, and the damaged ones with the way out on stderr."""
    store = Store()
    models, faults = _found(store)
    trust, served = Trust(store), served_models(args)
    signed = {model.name: signature_of(trust, model) for model in models}
    if args.json:
        lines = [json_line([model_as_json(one, signed[one.name], served.get(one.name, [])) for one in models])]
    else:
        lines = model_lines(models, signed, served, columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    if not models and not faults:
        Screen().note(f"vestal: no models in {store.root}: `vestal pull smollm2-135m` fetches one")
    for fault in faults:
        Screen().note(f"vestal: {fault}")
    return FAILED if faults else OK


def signature_of(trust: Trust, model: StoredModel) -> str:
    """Who vouches for a model, by the signature as it stands: `no`, `by mine`, or what is wrong with it.

    The file is not read for it: `vestal models verify` does that.
    """
    try:
        if trust.statement(model.name) is None:
            return "no"
        key = trust.check(model).key
        return f"by {next(known.name for known, _ in trust.known_keys() if known.id == key)}"
    except ModelError as fault:
        return f"does not count: {fault.message}"


def model_as_json(model: StoredModel, signature: str, used_by: list[str]) -> object:
    """What the store says of it, with its path, and what is known beside that."""
    facts = {**msgspec.structs.asdict(model), "path": str(model.path), "signature": signature, "used_by": used_by}
    return msgspec.to_builtins(facts)


def _found(store: Store) -> tuple[list[StoredModel], list[ModelError]]:
    models, faults = [], []
    for name in store.names():
        try:
            if (model := store.find(name)) is not None:
                models.append(model)
        except ModelError as fault:
            faults.append(fault)
    return models, faults


def model_lines(
    models: Sequence[StoredModel], signed: Mapping[str, str], served: Mapping[str, Sequence[str]], width: int | None
) -> list[str]:
    """A table; nothing without models."""
    rows = [[*_row(one), _short(signed[one.name]), ", ".join(served.get(one.name, ())) or "-"] for one in models]
    return (
        table([_HEAD, *([printable(cell) for cell in row] for row in rows)], right=(2, 4), width=width) if rows else []
    )


def _row(model: StoredModel) -> list[str]:
    context = f"{model.context_length:,}" if model.context_length else "-"
    digest = (model.digest or "").removeprefix("sha256-")[:12]
    facts = (model.name, model.kind, megabytes(model.size), model.family, context, model.quantisation, digest)
    return [fact or "-" for fact in facts]


def _short(signature: str) -> str:
    """In a table there is room for the verdict only."""
    return "INVALID" if signature.startswith("does not count") else signature

"""`vestal show`: all that is known of one model, of the store or in a file."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

from vestal import ModelError
from vestal.cli.failures import OK
from vestal.cli.models import model_as_json, signature_of
from vestal.cli.parser import Parser
from vestal.cli.serving import served_models
from vestal.cli.terminal import columns, printable
from vestal.cli.wording import count, json_line, megabytes, table
from vestal.models.available import available_memory
from vestal.models.gguf_file import GGUFInfo, read_gguf
from vestal.models.manifest import StoredModel
from vestal.models.memory import Settings, default_context, plan_memory
from vestal.models.store import Store
from vestal.models.trust import Trust

__all__ = ["execute", "parser"]


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `show`."""
    made = Parser(command, purpose, words="NAME|PATH", least=1, most=1)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def execute(args: Namespace) -> int:
    """Look it up, and read its file's header."""
    store = Store()
    model = store.resolve(args.words[0])
    info = read_gguf(model.path)
    used_by = served_models(args).get(model.name, []) if model.digest else []
    signature = signature_of(Trust(store), model) if model.digest else "not in the store"
    if args.json:
        lines = [json_line(model_as_json(model, signature, used_by))]
    else:
        rows = [[name, printable(value)] for name, value in _facts(model, info, signature, used_by) if value]
        lines = table(rows, width=columns(sys.stdout))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return OK


def _facts(model: StoredModel, info: GGUFInfo, signature: str, used_by: list[str]) -> Iterator[tuple[str, str]]:
    yield "name", model.name
    yield "kind", model.kind
    yield "family", model.family
    yield "architecture", model.architecture
    yield "size", f"{megabytes(model.size)} ({model.size:,} bytes)"
    yield "quantisation", model.quantisation
    yield "context", count(model.context_length, "token") if model.context_length else "not said"
    yield "dimensions", f"{model.embedding_dimensions:,}" if model.embedding_dimensions else ""
    yield "memory", _memory(info)
    yield "license", model.license
    yield "source", model.source
    yield "added", "" if model.added_at is None else model.added_at.strftime("%Y-%m-%d %H:%M UTC")
    yield "digest", model.digest or "not in the store, so nothing says what it should be"
    yield "signature", signature
    yield "used by", ", ".join(used_by)
    yield "file", str(model.path)


def _memory(info: GGUFInfo) -> str:
    """The sum of `vestal models plan` with the settings of a backend that says nothing."""
    try:
        plan = plan_memory(info, Settings(context_length=default_context(info)))
    except ModelError as error:
        return error.message
    available = available_memory()
    there = "" if available is None else f" of {megabytes(available.size)} available"
    return f"{megabytes(plan.total)}{there}, as a backend's defaults are (`vestal models plan` has the sum)"

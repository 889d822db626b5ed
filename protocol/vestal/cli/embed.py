"""`vestal embed`: texts → vectors, as JSON lines, or as a table with the cosine of each pair.

The similarities are for people: for as many texts as fit the width as a matrix, for up to 200 as the nearest
other text of each. Whoever has more wants the vectors: `--json`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import suppress
from math import hypot
from operator import mul

from msgspec import to_builtins

from vestal import EmbedClient, Embeddings
from vestal.cli.failures import OK
from vestal.cli.parser import Parser, whole
from vestal.cli.prompt import texts_of
from vestal.cli.reach import add_wait, at, reach
from vestal.cli.terminal import Screen, columns, printable
from vestal.cli.wording import count, cut, json_line, table

__all__ = ["execute", "parser", "similarity_lines"]

_MOST_COMPARED = 200
_SHOWN = 3  # of a vector's numbers

_MORE = """\
Each word is a text (quote those with blanks); without words, or for `-`, each
line of standard input is one. `--json` prints a line for each text,
{"text_index":0,"embedding":[…]}, then one with `model`, `backend`, `usage`,
`parts` (which backend computed how many, if several did) and `notices`.

examples
  vestal embed "a cat" "a kitten" "a stone"
  vestal embed --json < sentences.txt > vectors.jsonl"""


def parser(command: str, purpose: str) -> Parser:
    """The arguments of `embed`."""
    made = Parser(command, purpose, words="[TEXT…]", most=None, more=_MORE)
    made.add_argument("--model", metavar="NAME", help="the model, or the backend (default: the daemon's first)")
    made.add_argument("--dimensions", metavar="N", type=_length, help="how long the vectors shall be, if the model can")
    add_wait(made)
    made.add_argument("--json", action="store_true", help="print the vectors, one JSON object a line")
    return made


def _length(text: str) -> int:
    with suppress(ArgumentTypeError):
        if length := whole(text):
            return length
    raise ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")


def execute(args: Namespace) -> int:
    """Embed all texts in one request and print what came."""
    texts = texts_of(args.words)
    with EmbedClient(autostart=args.autostart, **at(args)) as client:
        reach(client, args, Screen())
        vectors = client.embed(texts, model=args.model, dimensions=args.dimensions)
    for notice in vectors.notices:
        Screen().note(f"vestal: {notice.code}: {notice.message}")
    for line in _json_lines(vectors) if args.json else _table_lines(vectors, texts, columns(sys.stdout)):
        sys.stdout.write(f"{line}\n")
    return OK


def _json_lines(vectors: Embeddings) -> list[str]:
    # Nine significant digits name a binary32 exactly; more would only be longer.
    rows = ([float(f"{number:.9g}") for number in vectors.row(index)] for index in range(len(vectors)))
    lines = [json_line({"text_index": index, "embedding": row}) for index, row in enumerate(rows)]
    told = ("model", "backend", "usage", "parts", "notices")
    return [*lines, json_line({name: to_builtins(getattr(vectors, name)) for name in told})]


def _table_lines(vectors: Embeddings, texts: Sequence[str], width: int | None) -> list[str]:
    head = f"{count(len(texts), 'text')}, {vectors.dimensions} dimensions, {count(vectors.usage.input_tokens, 'token')}"
    lines = [cut(printable(f"{head}; {vectors.model} on {_backends(vectors)}"), width), ""]
    for index, text in enumerate(texts):
        numbers = " ".join(f"{number:6.3f}" for number in vectors.row(index)[:_SHOWN])
        lines.append(cut(f"{index:3}  {numbers} …  {printable(text)}", width))
    if len(texts) > 1:
        lines += ["", *similarity_lines([vectors.row(index).tolist() for index in range(len(texts))], width)]
    return lines


def _backends(vectors: Embeddings) -> str:
    """Who computed them: `near`, or `near (40), far (8)`."""
    return ", ".join(f"{part.backend} ({part.count})" for part in vectors.parts) or vectors.backend


def similarity_lines(rows: Sequence[Sequence[float]], width: int | None) -> list[str]:
    """The cosine of each pair as a matrix, or of each row and its nearest where a matrix is too wide."""
    if len(rows) > _MOST_COMPARED:
        return [f"(more than {_MOST_COMPARED} texts: not compared; --json prints the vectors)"]
    lengths = [hypot(*row) or 1.0 for row in rows]
    cosines = [
        [sum(map(mul, one, other)) / lengths[i] / lengths[j] for j, other in enumerate(rows)]
        for i, one in enumerate(rows)
    ]
    if 6 + 8 * len(rows) <= (width or 100):
        head = ["cosine", *map(str, range(len(rows)))]
        body = [[f"{i:3}", *(f"{cosine:6.3f}" for cosine in line)] for i, line in enumerate(cosines)]
        return table([head, *body], right=range(len(head)), width=width)
    return ["the nearest of each, by cosine", *(_nearest(i, line) for i, line in enumerate(cosines))]


def _nearest(index: int, cosines: Sequence[float]) -> str:
    best = max((other for other in range(len(cosines)) if other != index), key=lambda other: cosines[other])
    return f"{index:3}  {best:3}  {cosines[best]:6.3f}"

"""THREAT_MODEL.md as data: its findings, and what each names as its proof. The document is the only list there is.

A finding is a heading with its number. It ends in `**Held** by` and bullets that name tests (files or node ids), or
in `**Open**` and why. The mitigation's files stand in the text, in backticks.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from msgspec import Struct

__all__ = ["DOCUMENT", "ROOT", "Finding", "exists", "findings", "parsed"]

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "THREAT_MODEL.md"

_HEADING = re.compile(r"^### (\d+)\. (.+)$", re.MULTILINE)
_PROOF = re.compile(r"^- `(tests/[^`]+)`$", re.MULTILINE)
_WORD = re.compile(r"^\*\*(Held|Open)\*\*", re.MULTILINE)
_NAMED = re.compile(r"`([\w./-]+\.(?:py|service))`")


class Finding(Struct, frozen=True):
    """One of them. `words` are the verdicts it gives itself: exactly one, if the document is sound."""

    number: int
    title: str
    words: tuple[str, ...]
    proofs: tuple[str, ...]
    files: tuple[str, ...]
    """The mitigation: what its text names."""

    @property
    def held(self) -> bool:
        return self.words == ("Held",)

    def __repr__(self) -> str:
        return f"<Finding {self.number} {'held' if self.held else 'open'} by {len(self.proofs)}: {self.title}>"


def findings() -> list[Finding]:
    """Those of the document, in its order."""
    return parsed(DOCUMENT.read_text())


def parsed(text: str) -> list[Finding]:
    heads = list(_HEADING.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [_finding(head, text[head.end() : end]) for head, end in zip(heads, ends, strict=True)]


def _finding(head: re.Match[str], body: str) -> Finding:
    body = body.partition("\n## ")[0]  # the last of a section does not own the next section
    said = tuple(_WORD.findall(body))
    return Finding(
        int(head[1]), head[2], said, tuple(_PROOF.findall(body)), tuple(_NAMED.findall(_PROOF.sub("", body)))
    )


def exists(proof: str) -> bool:
    """Whether there is such a file, and such a test in it."""
    path, _, name = proof.partition("::")
    return (ROOT / path).is_file() and (not name or name in _tests_of(ROOT / path))


@cache
def _tests_of(path: Path) -> frozenset[str]:
    body = ast.parse(path.read_text()).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

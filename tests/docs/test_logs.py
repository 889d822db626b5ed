"""docs/logs.md names every event that the daemon emits, with its level and its facts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import vestald

PAGE = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
ROW = re.compile(r"^\| `(?P<kind>\w+)` \| (?P<levels>[a-z, ]+) \| (?P<facts>[^|]*) \|", re.MULTILINE)


def emitted() -> Iterator[tuple[str, set[str], set[str]]]:
    """Each `emit` in the daemon's source: kinds, levels and facts, as far as they are written out there."""
    for file in sorted(Path(vestald.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "emit":
                words = {word.arg: word.value for word in node.keywords}
                kinds = _texts(node.args[0]) or {"metrics_file_stale", "metrics_file_fresh"}
                levels = _texts(words.pop("level")) if "level" in words else {"info"}
                for kind in kinds:
                    yield kind, levels, {name for name in words if name is not None}


def _texts(node: ast.expr) -> set[str]:
    """The texts that an expression can be: a literal, or one of two."""
    if isinstance(node, ast.IfExp):
        return _texts(node.body) | _texts(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def test_the_table_has_every_event_with_its_levels_and_facts() -> None:
    table = {
        row["kind"]: (set(row["levels"].split(", ")), set(re.findall(r"`(\w+)`", row["facts"])))
        for row in ROW.finditer(PAGE)
    }
    found = list(emitted())
    assert {kind for kind, _, _ in found} == table.keys()
    for kind, levels, facts in found:
        said_levels, said_facts = table[kind]
        assert facts == said_facts, kind
        assert levels <= said_levels, kind

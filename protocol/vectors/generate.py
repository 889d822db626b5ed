"""Writes the conformance vectors beside this file; `--check` only says whether they are what it would write.

Run from the repository root: `PYTHONPATH=protocol python protocol/vectors/generate.py`. SPEC.md says how the
files are used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vectors.exchanges import exchange_vectors
from vectors.faults import error_vectors, violation_vectors
from vectors.messages import message_vectors
from vectors.parts import Json

__all__ = ["HERE", "files", "main"]

HERE = Path(__file__).parent


def files() -> dict[str, str]:
    """What each file should hold, by its name."""
    made = {
        **message_vectors(),
        "errors": error_vectors(),
        "violations": violation_vectors(),
        "exchanges": exchange_vectors(),
    }
    return {f"{name}.json": _lines(vectors) for name, vectors in made.items()}


def _lines(vectors: list[Json]) -> str:
    """JSON with one vector a line: a change to one is one line of a diff."""
    rows = ",\n".join(json.dumps(vector, ensure_ascii=False, allow_nan=False) for vector in vectors)
    return f"[\n{rows}\n]\n"


def main(arguments: list[str]) -> int:
    stale = [name for name, text in files().items() if not (HERE / name).exists() or (HERE / name).read_text() != text]
    if "--check" not in arguments:
        for name in stale:
            (HERE / name).write_text(files()[name])
        stale = []
    sys.stdout.write("".join(f"{name} is not what generate.py makes\n" for name in stale))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

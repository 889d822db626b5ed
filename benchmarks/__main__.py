"""Run the benchmarks, print their table, keep it: `python -m benchmarks [relay] [decode] [footprint]`."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import time
from pathlib import Path

from benchmarks.report import Row, table

_ALL = ("relay", "footprint", "decode", "engine", "servers", "admission", "crowd", "sandbox", "silent")
_RESULTS = Path(__file__).parent / "RESULTS.md"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", metavar="|".join(_ALL), help="default: all of them")
    parser.add_argument("--keep", action="store_true", help=f"write the table to {_RESULTS.name}")
    args = parser.parse_args()
    if unknown := set(args.which) - set(_ALL):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(_ALL)}")
    rows: list[Row] = []
    for name in args.which or _ALL:
        print(f"== {name}", flush=True)
        rows += importlib.import_module(f"benchmarks.{name}").run()
    text = table(rows)
    print(text)
    if args.keep:
        heading = f"# Results\n\n{time.strftime('%Y-%m-%d')}, {_machine()}. Medians; ratios pair by pair in one run."
        _RESULTS.write_text(
            f"{heading}\nMade by `python -m benchmarks {' '.join([*args.which, '--keep'])}`.\n\n{text}\n"
        )


if __name__ == "__main__":
    main()

"""Where a worker may still read: what Python imports from.

Python imports late (codecs, a debugger of templates), so the standard library and site-packages stay readable.
They hold programs that anybody may install, and nothing of the user's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["readable_trees", "without_homes"]


def readable_trees() -> list[Path]:
    """The import path, less what would open more than programs."""
    return without_homes([Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_absolute()])


def without_homes(trees: Iterable[Path]) -> list[Path]:
    """Those that are neither this user's home directory nor what it lies in."""
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111  # Path.home() raises where there is none
    return [tree for tree in trees if not home.is_relative_to(tree)]

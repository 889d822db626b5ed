"""Where a worker may still read: what Python imports from.

Python imports late (codecs, a debugger of templates), so the standard library and site-packages stay readable.
They hold programs that anybody may install, and nothing of the user's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["readable_trees"]


def readable_trees() -> list[Path]:
    """The import path, less what would open more than programs: a home directory, or what it lies in."""
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111  # Path.home() raises where there is none
    found = [Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_absolute()]
    return [tree for tree in found if not home.is_relative_to(tree)]

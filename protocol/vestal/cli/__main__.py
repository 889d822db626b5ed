"""`python -m vestal.cli`: the same as `vestal`."""

from __future__ import annotations

import sys

from vestal.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

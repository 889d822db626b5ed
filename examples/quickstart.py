"""Ten lines of client: ask, see the answer as it comes, read how it went. Needs a running `vestald`."""

from __future__ import annotations

import sys

import vestal

with vestal.Client() as client:
    client.wait_ready(timeout=60)
    with client.stream(" ".join(sys.argv[1:]) or "Why is the sky blue?", max_tokens=60) as answer:
        for piece in answer:
            print(piece, end="", flush=True)
    print()
    print(answer.result.usage, answer.result.timings)

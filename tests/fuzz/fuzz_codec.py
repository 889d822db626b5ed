"""A coverage-guided fuzzer of every decoder: `make fuzz`, or with atheris installed

    python -m tests.fuzz.fuzz_codec -max_total_time=600

The first byte of an input says who reads the rest: a daemon or a client, on which socket and version, the host of a
worker, or the worker. It starts from the conformance vectors; what it finds worth keeping, and what fails, is in
.cache/fuzz. The other arguments are libFuzzer's: a file of .cache/fuzz as one plays that input again.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vestal", "vestal_adapters"]):
    from tests.fuzz.corpus import CHILD_FRAMES, HOST_FRAMES, PLACES, Place, frames
    from tests.fuzz.test_frames import check_daemon, client_at, daemon_at, with_jobs, worked_off
    from vestal.errors import RemoteProtocolError

PLAYGROUND = Path(__file__).parents[2] / ".cache" / "fuzz"
EVERY = [place for places in PLACES.values() for place in places]


def to_daemon(place: Place, data: bytes) -> None:
    connection = daemon_at(place)
    check_daemon(connection, connection.receive(data))


def to_client(place: Place, data: bytes) -> None:
    connection = client_at(place)
    try:
        connection.receive(data)
    except RemoteProtocolError:
        assert connection.over


def to_host(data: bytes) -> None:
    async def main() -> None:
        lost: list[str] = []
        channel = with_jobs(lambda percent, detail: None, lost.append)
        channel.data_received(data)
        channel.connection_lost(None)
        assert len(lost) == 1

    asyncio.run(main())


def to_worker(data: bytes) -> None:
    worked_off(data)


READERS: list[tuple[Callable[[bytes], None], tuple[bytes, ...]]] = [
    *((partial(to_daemon, place), frames(place, "client")) for place in EVERY),
    *((partial(to_client, place), frames(place, "daemon")) for place in EVERY),
    (to_host, tuple(CHILD_FRAMES)),
    (to_worker, tuple(HOST_FRAMES)),
]


def read_one(data: bytes) -> None:
    """One input. Whatever it raises is a finding."""
    if data:
        reader, _ = READERS[data[0] % len(READERS)]
        reader(data[1:])


def sow(corpus: Path) -> None:
    """The good frames, each for its reader."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, (_, seeds) in enumerate(READERS):
        for index, seed in enumerate(seeds):
            (corpus / f"seed-{number}-{index}").write_bytes(bytes([number]) + seed)


def main() -> None:
    corpus = PLAYGROUND / "corpus"
    sow(corpus)
    again = any(Path(argument).is_file() for argument in sys.argv[1:])
    atheris.Setup([*sys.argv, f"-artifact_prefix={PLAYGROUND}/", *([] if again else [str(corpus)])], read_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

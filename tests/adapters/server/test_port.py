"""Whose a port is: nothing is said to a listener of another user, however early it is there."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.adapters.reports import Reports
from vestal.errors import VestalError
from vestal_adapters.server import backend as server_backend
from vestal_adapters.server.port import listeners, strangers

NOBODY = 65534
# Listens as another user, and says how many connections there were once its input ends.
STRANGER = """
import os, socket, sys, threading
os.setuid(int(sys.argv[1]))
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
met = []
def meet():
    while True:
        met.append(listening.accept())
threading.Thread(target=meet, daemon=True).start()
sys.stdin.read()
print(len(met), flush=True)
os._exit(0)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell whose a port is")
NEEDS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can make a listener of another user")


@contextmanager
def stranger() -> Iterator[tuple[int, Any]]:
    """Its port, and `met()`: how many have connected. It listens until then."""
    command = [sys.executable, "-c", STRANGER, str(NOBODY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), lambda: int(process.communicate()[0])
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "")]
)
def test_a_port_of_ones_own(family: socket.AddressFamily, address: str) -> None:
    try:
        made = socket.socket(family)
        made.bind((address, 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with made:
        port = made.getsockname()[1]
        assert strangers(port) == f"nobody listens on port {port}"
        made.listen()
        assert strangers(port) is None


@NEEDS_ROOT
def test_a_port_of_another_user() -> None:
    with stranger() as (port, _):
        assert strangers(port) == f"port {port} is listened on by uid {NOBODY}, and this is uid {os.geteuid()}"


def test_only_listeners_on_the_loopback_count() -> None:
    rest = "00000000:0000 {} 00000000:00000000 00:00000000 00000000 {} 0 1 1 0 100 0 0 10 0"
    lines = [
        "0: 0100007F:1F90 " + rest.format("0A", 7),
        "1: 0100007F:1F91 " + rest.format("0A", 8),  # another port
        "2: 0100007F:1F90 " + rest.format("01", 9),  # a connection
        "3: 0200A8C0:1F90 " + rest.format("0A", 10),  # another address
        "4: 0000000000000000FFFF00000100007F:1F90 " + rest.format("0A", 11),
    ]
    assert list(listeners(lines, 8080)) == [7, 11]


@NEEDS_ROOT
def test_a_server_s_key_is_not_told_to_who_took_its_port(puppet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with stranger() as (port, met):
        monkeypatch.setattr(server_backend, "free_port", lambda: port)
        reports = Reports()
        with pytest.raises(VestalError, match="while loading the model"):  # its own server cannot have the port
            asyncio.run(puppet(place="port").start(reports))
        assert f"port {port} is listened on by uid {NOBODY}" in str(reports.seen)
        assert met() == 0


def test_a_server_that_has_its_port_serves(serving: Any, said: Any) -> None:
    async def main() -> str:
        async with serving(place="port") as (backend, _):
            return str(await said(backend, "hello"))

    assert "hello" in asyncio.run(main())

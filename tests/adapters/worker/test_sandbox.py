"""The sandbox from inside: a worker that tries everything, with all layers on and with each of them left out."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vestal.backend import CountRequest
from vestal.errors import BackendCrashed, VestalError
from vestal.values import Message
from vestal_adapters.echo import EchoBackend, EchoOptions
from vestal_adapters.worker import sandbox
from vestal_adapters.worker.options import WorkerOptions

if TYPE_CHECKING:
    from tests.adapters.worker.conftest import PuppetBackend

HERE = Path(__file__).parent
NOBODY = 65534
DENIED, ALLOWED, ABSENT = 0, 1, 2
LAYERS = ["no_new_privs", "undumpable", "limits", "capabilities", "landlock", "seccomp"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is the Linux kernel's")


def attempts() -> list[str]:
    """The names in `probe`, which only a worker may import: it takes itself for one."""
    lines = (HERE / "probe.py").read_text().splitlines()
    return [lines[n + 1][4:].partition("(")[0] for n, line in enumerate(lines) if line == "@attempt"]


NAMES = attempts()
DEADLY = [name for name in NAMES if name.startswith("deadly_")]
RIGHTS = [name for name in NAMES if name.startswith("ok_")]
FORBIDDEN = [name for name in NAMES if name not in (*DEADLY, *RIGHTS)]

# What a layer alone holds: with it left out, and all others on, the probe must get through here.
HELD_BY = {
    "no_new_privs": {"gain_privileges_by_a_program"},
    "undumpable": {"be_traced_and_dumped"},
    "limits": {"grow_a_held_file", "open_many_descriptors"},
    "capabilities": {"read_with_root_s_rights"},
    "landlock": {"read_passwd", "list_the_models_directory", "read_a_neighbour_of_the_model", "list_devices"},
    "seccomp": {
        "truncate_a_held_file", "change_a_mode", "change_times", "change_directory", "watch_files", "socket_inet",
        "socket_udp", "socket_unix", "socket_netlink", "socket_pair", "fork", "clone_a_process", "become_somebody",
        "change_the_limits", "become_dumpable", "renice", "epoll", "map_executable_memory",
        "map_the_model_executable", "make_memory_executable", "memfd",
    },
}  # fmt: skip


class World:
    """A directory with a model, and with what lies beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.chmod(0o777)
        for name in ("model", "secret"):
            (path / name).write_bytes(b"x" * 4096)
            (path / name).chmod(0o666)
        (path / "foreign").write_bytes(b"x")
        (path / "foreign").chmod(0o600)
        if os.getuid() == 0:
            os.chown(path / "foreign", NOBODY - 1, NOBODY - 1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    for parent in tmp_path.parents:  # an unprivileged worker must get there
        if parent.owner() == Path("/proc/self").owner() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o111)
    return World(tmp_path)


@pytest.fixture
def prober(puppet: type[PuppetBackend], world: World) -> Any:
    def make(mode: sandbox.SandboxMode = "required", **options: Any) -> PuppetBackend:
        backend = puppet("Probe", target=str(world.path), **options)
        backend.engine = "probe:Probe"
        backend._rules = WorkerOptions(sandbox=mode)
        return backend

    return make


async def asked(backend: Any, name: str) -> int:
    return int(await backend.count(CountRequest(messages=[Message("user", name)])))


def results(backend: Any, names: list[str]) -> dict[str, int]:
    async def main() -> dict[str, int]:
        await backend.start(lambda event: None)
        try:
            return {name: await asked(backend, name) for name in names}
        finally:
            await backend.stop(5)

    return asyncio.run(main())


@pytest.fixture(params=["as_is", "unprivileged"])
def uid(request: pytest.FixtureRequest) -> int:
    if request.param == "as_is":
        return -1
    if os.getuid() != 0:
        pytest.skip("only root can make a worker of another user; this run is unprivileged already")
    return NOBODY


def test_everything_forbidden_is_denied(prober: Any, uid: int) -> None:
    assert len(FORBIDDEN) + len(DEADLY) >= 50
    got = results(prober(uid=uid), FORBIDDEN)
    # clone3 is answered with "there is no such call", so that the C library takes clone.
    assert got == {name: ABSENT if name == "clone3_a_process" else DENIED for name in FORBIDDEN}


def test_what_a_worker_needs_is_allowed(prober: Any, uid: int) -> None:
    # Root's Python may lie where nobody else can get.
    names = [name for name in RIGHTS if uid < 0 or name != "ok_import_late"]
    assert results(prober(uid=uid), names) == dict.fromkeys(names, ALLOWED)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_probe_finds_a_layer_that_is_left_out(prober: Any, layer: str) -> None:
    if layer == "capabilities" and os.getuid() != 0:
        pytest.skip("only root has capabilities to lose")
    # Without no_new_privs the kernel takes neither Landlock nor seccomp from one without capabilities.
    got = results(prober("best_effort", without=layer), FORBIDDEN)
    through = {name for name, result in got.items() if result == ALLOWED}
    assert through >= HELD_BY[layer]
    if layer != "no_new_privs":
        others = set().union(*(held for name, held in HELD_BY.items() if name != layer))
        assert not through & others


def test_the_probe_gets_through_where_the_sandbox_is_off(prober: Any) -> None:
    got = results(prober("off"), FORBIDDEN)
    allowed = {name for name, result in got.items() if result == ALLOWED}
    missed = set().union(*HELD_BY.values()) - allowed - ({"read_with_root_s_rights"} if os.getuid() else set())
    assert not missed
    assert {"write_a_file_in_tmp", "remove_a_file", "make_a_symbolic_link"} <= allowed


@pytest.mark.parametrize("name", DEADLY)
def test_what_only_an_intruder_does_ends_the_worker(prober: Any, name: str) -> None:
    async def main() -> None:
        backend = prober()
        await backend.start(lambda event: None)
        with pytest.raises(BackendCrashed, match=r"SIGSYS.*system call that its sandbox forbids"):
            await asked(backend, name)
        await backend.stop(5)

    asyncio.run(main())


def test_the_kernel_says_so_too(prober: Any) -> None:
    """Seen from outside, where the worker cannot lie."""

    async def main() -> dict[str, str]:
        backend = prober()
        await backend.start(lambda event: None)
        pid = (await backend.health()).pid
        status = Path(f"/proc/{pid}/status").read_text()
        await backend.stop(5)
        return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)

    status = asyncio.run(main())
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)) == ("1", "2", 0)
    assert int(status["CapPrm"], 16) == 0


def test_health_names_the_layers_and_what_is_missing(prober: Any) -> None:
    async def health(backend: Any) -> Any:
        await backend.start(lambda event: None)
        seen = await backend.health()
        await backend.stop(5)
        return seen

    confined = asyncio.run(health(prober()))
    assert [layer.partition("/")[0] for layer in confined.sandbox] == LAYERS
    assert confined.unsandboxed == ()
    free = asyncio.run(health(prober("off")))
    assert (free.sandbox, free.unsandboxed) == ((), ('everything: sandbox = "off"',))


def test_a_layer_that_the_kernel_lacks_is_refused_or_named(prober: Any) -> None:
    with pytest.raises(VestalError, match=r"landlock: Function not implemented.*best_effort"):
        results(prober(lacking="landlock"), [])

    async def main() -> Any:
        backend = prober("best_effort", lacking="landlock")
        await backend.start(lambda event: None)
        seen = await backend.health()
        await backend.stop(5)
        return seen

    health = asyncio.run(main())
    assert health.unsandboxed == ("landlock: Function not implemented",)
    assert "seccomp" in health.sandbox


def test_a_worker_with_a_second_thread_is_refused(prober: Any) -> None:
    with pytest.raises(VestalError, match="has 2 threads before its sandbox is on"):
        results(prober(threaded=True), [])


def test_the_memory_limit_holds_and_costs_one_request(prober: Any) -> None:
    async def main() -> tuple[int, int]:
        backend = prober()
        backend._rules = WorkerOptions(memory_limit=2**28)
        await backend.start(lambda event: None)
        got = await asked(backend, "ok_take_much_memory"), await asked(backend, "ok_start_a_thread")
        await backend.stop(5)
        return got

    assert asyncio.run(main()) == (DENIED, ALLOWED)


def test_an_echo_in_a_process_is_confined_too() -> None:
    async def main() -> Any:
        backend = EchoBackend("echo", EchoOptions(isolation="process"))
        await backend.start(lambda event: None)
        health = await backend.health()
        await backend.stop(5)
        return health

    assert "seccomp" in asyncio.run(main()).sandbox

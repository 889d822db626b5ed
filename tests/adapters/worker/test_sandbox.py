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
from vestal_adapters.worker.sandbox import gpu, landlock

if TYPE_CHECKING:
    from tests.adapters.worker.conftest import PuppetBackend

HERE = Path(__file__).parent
NOBODY = 65534
DENIED, ALLOWED, ABSENT = 0, 1, 2
NUMA = ("/sys/devices/system/memory", "/sys/devices/system/node")  # not on every machine
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

# What the profile of a GPU opens, by the part of it that does; every other attempt fails there too.
OPENED_BY = {
    "/dev/zero": {"gpu_open_a_device", "gpu_ask_a_device"},  # in the place of the driver's
    "IOCTL_MASKED": {"gpu_ask_a_device", "gpu_ask_the_driver", "gpu_ask_unified_memory"},
    "IOCTL_EQUAL": {"gpu_start_unified_memory"},
    "eventfd2": {"gpu_make_an_eventfd"},
    "pipe2": {"gpu_make_a_pipe"},
    "SOCKET": {"socket_unix", "gpu_listen_without_being_reached"},
    "bind": {"gpu_listen_without_being_reached"},
    "listen": {"gpu_listen_without_being_reached"},
    "/proc/self/task": {"gpu_name_a_thread"},
    "/proc/self/maps": {"gpu_read_maps"},
    "/proc/self/status": {"gpu_read_status"},
    "/proc/cpuinfo": {"gpu_read_cpuinfo"},
    "/proc/devices": {"gpu_read_devices"},
    "/proc/sys/vm/mmap_min_addr": {"gpu_read_the_least_address"},
    "/sys/devices/system/cpu": {"gpu_read_processors"},
}
OPENED = sorted(set().union(*OPENED_BY.values()))
# Answered with "there is no such file", and not done.
GONE = {"unlink": "remove_a_file", "unlinkat": "remove_a_file_the_newer_way"}

# What a layer alone holds: with it left out, and all others on, the probe must get through here.
HELD_BY = {
    "no_new_privs": {"gain_privileges_by_a_program"},
    "undumpable": {"be_traced_and_dumped"},
    "limits": {"grow_a_held_file", "open_many_descriptors"},
    "capabilities": {"read_with_root_s_rights"},
    "landlock": {
        "read_passwd", "list_the_models_directory", "read_a_neighbour_of_the_model", "list_devices",
        "read_own_environment", "list_everybody_s_sockets", "gpu_open_a_device", "gpu_name_a_thread", "gpu_read_maps",
    },
    "seccomp": {
        "truncate_a_held_file", "change_a_mode", "change_times", "change_directory", "watch_files", "socket_inet",
        "socket_udp", "socket_unix", "socket_netlink", "socket_pair", "fork", "clone_a_process", "become_somebody",
        "change_the_limits", "become_dumpable", "renice", "epoll", "map_executable_memory",
        "map_the_model_executable", "make_memory_executable", "memfd", "socket_unix_datagram", "socket_unix_raw",
        "connect_by_name", "accept_a_connection", "ask_for_flags_of_a_file", "type_into_a_terminal", "ask_a_screen",
        "ask_for_tests_of_unified_memory", "gpu_ask_the_driver", "gpu_ask_unified_memory", "gpu_start_unified_memory",
        "gpu_make_an_eventfd", "gpu_make_a_pipe", "gpu_listen_without_being_reached",
        "signal_by_what_arrives_at_a_descriptor",
    },
}  # fmt: skip

# What seccomp holds and Landlock too, since which of its versions: two have to fail before a worker gets there.
HELD_TWICE = {"bind_a_port": 4, "kill_the_parent_gently": 6}


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


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_a_worker_needs_is_allowed(prober: Any, uid: int, on_gpu: bool) -> None:
    # Root's Python may lie where nobody else can get.
    names = [name for name in RIGHTS if uid < 0 or name != "ok_import_late"]
    assert results(prober(uid=uid, on_gpu=on_gpu), names) == dict.fromkeys(names, ALLOWED)


def test_a_gpu_opens_what_it_needs_and_nothing_else(prober: Any, uid: int, world: World) -> None:
    got = results(prober(uid=uid, on_gpu=True), FORBIDDEN)
    root = uid < 0 and os.getuid() == 0
    allowed = {*OPENED, "write_own_memory"} if root else {*OPENED}  # of an undumpable process, the file is root's
    assert {name for name, result in got.items() if result == ALLOWED} == allowed
    assert {name for name, result in got.items() if result == ABSENT} == {"clone3_a_process", *GONE.values()}
    assert {path.name for path in world.path.iterdir()} == {"model", "secret", "foreign", "held"}


@pytest.mark.parametrize("part", OPENED_BY)
def test_the_probe_finds_a_part_of_the_gpu_s_profile_that_is_left_out(prober: Any, part: str) -> None:
    got = results(prober(on_gpu=True, without_gpu=part), OPENED)
    assert {name for name, result in got.items() if result != ALLOWED} == OPENED_BY[part]


@pytest.mark.parametrize("part", GONE)
def test_what_is_removed_is_not_there_by_a_rule_of_the_gpu_s_profile(prober: Any, part: str) -> None:
    got = results(prober(on_gpu=True, without_gpu=part), list(GONE.values()))
    assert got == {name: DENIED if call == part else ABSENT for call, name in GONE.items()}


def test_no_part_of_the_gpu_s_profile_goes_without_an_attempt() -> None:
    machine = (*gpu._CONTROL, *gpu._gpus(), *map(Path, ("/proc/driver/nvidia", *NUMA)))
    parts = {*gpu.CALLS, *gpu.NOT_THERE, *map(str, gpu.places().keys() - set(machine))}
    assert parts | {"SOCKET", "IOCTL_EQUAL", "IOCTL_MASKED", "/dev/zero"} == {*OPENED_BY, *GONE}


def test_a_rule_about_proc_holds_after_the_kernel_forgot_its_files(prober: Any) -> None:
    """It does when memory gets short, as when a large model is read."""

    async def main() -> list[int]:
        backend = prober(on_gpu=True)
        await backend.start(lambda event: None)
        try:
            Path("/proc/sys/vm/drop_caches").write_text("2")  # the names and inodes that nobody holds
        except OSError:
            pytest.skip("only root can have the kernel forget, and not in every container")
        finally:
            got = [await asked(backend, name) for name in OPENED]
            await backend.stop(5)
        return got

    assert asyncio.run(main()) == [ALLOWED] * len(OPENED)


def test_a_gpu_without_landlock_is_for_best_effort_and_still_filtered(prober: Any) -> None:
    with pytest.raises(VestalError, match=r"landlock: Function not implemented"):
        results(prober(on_gpu=True, lacking="landlock"), [])

    async def main() -> tuple[Any, dict[str, int]]:
        backend = prober("best_effort", on_gpu=True, lacking="landlock")
        await backend.start(lambda event: None)
        got = {name: await asked(backend, name) for name in (*HELD_BY["seccomp"], "make_a_socket_s_file")}
        seen = await backend.health()
        await backend.stop(5)
        return seen, got

    health, got = asyncio.run(main())
    assert health.unsandboxed == ("landlock: Function not implemented",)
    assert "seccomp+gpu" in health.sandbox
    assert {name for name, result in got.items() if result == ALLOWED} - {*OPENED} == {"make_a_socket_s_file"}


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


def test_landlock_holds_what_seccomp_does_where_that_is_left_out(prober: Any) -> None:
    twice = [name for name, since in HELD_TWICE.items() if landlock.version() >= since]
    if not twice:
        pytest.skip(f"this kernel's Landlock has version {landlock.version()}, and knows files only")
    assert results(prober("best_effort", without="seccomp"), twice) == dict.fromkeys(twice, DENIED)
    assert results(prober("off"), twice) == dict.fromkeys(twice, ALLOWED)


def test_the_probe_gets_through_where_the_sandbox_is_off(prober: Any) -> None:
    got = results(prober("off"), FORBIDDEN)
    allowed = {name for name, result in got.items() if result == ALLOWED}
    missed = set().union(*HELD_BY.values()) - allowed - ({"read_with_root_s_rights"} if os.getuid() else set())
    assert not missed
    assert {"write_a_file_in_tmp", "remove_a_file", "make_a_symbolic_link"} <= allowed


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("name", DEADLY)
def test_what_only_an_intruder_does_ends_the_worker(prober: Any, name: str, on_gpu: bool) -> None:
    async def main() -> None:
        backend = prober(on_gpu=on_gpu)
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
    on_gpu = asyncio.run(health(prober(on_gpu=True)))
    assert on_gpu.sandbox == (*LAYERS[:4], f"{confined.sandbox[4]}+gpu", "seccomp+gpu")
    assert on_gpu.unsandboxed == ()
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

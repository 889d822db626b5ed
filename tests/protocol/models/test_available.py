"""What is available, read from files like the kernel's, and from the kernel's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from vestal.models.available import available_memory
from vestal.models.memory import Available

GB = 10**9
MEMINFO = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    8000000 kB\n"
Machine = Callable[[Mapping[str, str]], Available | None]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    def read(files: Mapping[str, str]) -> Available | None:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return available_memory(tmp_path)

    return read


def test_without_groups_it_is_what_the_machine_has(machine: Machine) -> None:
    assert machine({"proc/meminfo": MEMINFO}) == Available(8_192_000_000, "MemAvailable of the machine")


def test_where_nothing_is_said_nothing_is_known(machine: Machine) -> None:
    assert machine({}) is None


def test_the_tightest_group_on_the_way_up_counts(machine: Machine) -> None:
    found = machine(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/user.slice/app.scope\n",
            "sys/fs/cgroup/user.slice/app.scope/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/app.scope/memory.current": f"{GB}\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{4 * GB}\n",
            "sys/fs/cgroup/user.slice/memory.current": f"{3 * GB}\n",
            "sys/fs/cgroup/user.slice/memory.stat": f"anon 5\ninactive_file {GB // 2}\nactive_file 7\n",
        }
    )
    assert found == Available(1_500_000_000, "memory limit of the control group /user.slice")


def test_a_soft_limit_counts_where_it_is_the_lower(machine: Machine) -> None:
    group = "sys/fs/cgroup/app"
    files = {f"{group}/memory.max": f"{4 * GB}", f"{group}/memory.high": f"{2 * GB}", f"{group}/memory.current": "0"}
    found = machine({"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/app\n", **files})
    assert found is not None
    assert found.size == 2 * GB


def test_a_group_of_version_one_counts_too(machine: Machine) -> None:
    group = "sys/fs/cgroup/memory/docker/abc"
    found = machine(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/x\n0::/\n",
            f"{group}/memory.limit_in_bytes": f"{2 * GB}",
            f"{group}/memory.usage_in_bytes": f"{GB}",
            f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB // 4}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5",
        }
    )
    assert found == Available(1_250_000_000, "memory limit of the control group /docker/abc")


@pytest.mark.parametrize("own", ["0::/\n", "0::/system.slice/docker-abc.scope\n", "0::/../sibling\n"])
def test_in_a_container_the_mounts_root_is_the_own_group(machine: Machine, own: str) -> None:
    files = {"sys/fs/cgroup/memory.max": f"{GB}", "sys/fs/cgroup/memory.current": f"{2 * GB}"}
    assert machine({"proc/meminfo": MEMINFO, "proc/self/cgroup": own, **files}) == Available(
        0, "memory limit of the control group /"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_has_some() -> None:
    found = available_memory()
    assert found is not None
    assert 0 < found.size < 2**50

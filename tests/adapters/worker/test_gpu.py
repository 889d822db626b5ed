"""Whether an NVIDIA driver's devices are this user's, said in words before anything is started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vestal_adapters.worker.sandbox import gpu
from vestal_adapters.worker.sandbox.landlock import DEVICE, OVERWRITE, READ

NOBODY = 65534


@contextmanager
def not_as_root() -> Iterator[None]:
    """access(2) asks for the real user, so that only this one is changed."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY, 0, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The control device, unified memory's, and one GPU, in a folder that anybody may enter."""
    made = [tmp_path / name for name in ("nvidiactl", "nvidia-uvm", "nvidia3")]
    for path in made:
        path.touch()
    monkeypatch.setattr(gpu, "_CONTROL", tuple(made[:2]))
    monkeypatch.setattr(gpu, "_gpus", lambda: iter(made[2:]))
    return made


@pytest.mark.usefixtures("devices")
def test_nothing_is_lacking_where_all_are_there() -> None:
    assert gpu.lacking() == []


def test_each_that_is_not_there_is_named(devices: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    devices[1].unlink()
    assert gpu.lacking() == [f"{devices[1]} is not there"]
    monkeypatch.setattr(gpu, "_gpus", lambda: iter(()))
    assert len(gpu.lacking()) == 1 + (not Path("/dev/nvidia0").exists())


def test_one_that_is_another_user_s_is_named(devices: list[Path]) -> None:
    devices[2].chmod(0)
    devices[0].chmod(0o444)
    with not_as_root():
        found = gpu.lacking()
    assert f"{devices[2]} is not this user's to read and write" in found
    assert f"{devices[0]} is not this user's to read and write" in found


def test_a_gpu_s_profile_gives_devices_to_use_and_files_to_read(devices: list[Path]) -> None:
    places = gpu.places()
    assert {path for path, rights in places.items() if rights == DEVICE} == set(devices)
    assert {path for path, rights in places.items() if rights == OVERWRITE} == {Path("/proc/self/task")}
    assert {rights for path, rights in places.items() if path not in devices} == {READ, OVERWRITE}

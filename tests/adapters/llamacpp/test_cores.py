"""How many threads compute, on machines made of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from vestal_adapters.llamacpp import cores
from vestal_adapters.llamacpp.cores import usable_cores


def machine(tmp_path: Path, siblings: Mapping[int, str]) -> Path:
    for cpu, shared in siblings.items():
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(shared + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("allowed", "expected"), [({0, 1, 2, 3}, 2), ({0, 2}, 1), ({1}, 1), ({0, 3}, 2), ({0, 1, 2, 3, 9}, 3)]
)
def test_processors_that_share_a_core_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], expected: int
) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: allowed)
    cpus = machine(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert usable_cores(cpus, tmp_path / "none") == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 8),
        ("", 8),
        ("x y", 8),
        ("5 0", 8),
    ],
)
def test_a_quota_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: range(8))
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert usable_cores(tmp_path / "none", file) == expected


def test_this_machine_has_at_least_one_core() -> None:
    assert usable_cores() >= 1

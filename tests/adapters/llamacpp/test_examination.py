"""What the doctor says of a GPU that a model is to be held on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vestal.findings import Finding
from vestal_adapters.llamacpp.examination import examine_model
from vestal_adapters.llamacpp.options import LlamaCppOptions
from vestal_adapters.worker.sandbox import gpu


def found(**options: Any) -> list[Finding]:
    chosen = LlamaCppOptions(model="nothing", **options)
    return [one for one in examine_model(chosen, running=False, thorough=False) if one.about == "gpu"]


def test_without_layers_on_a_gpu_nothing_is_said_of_one() -> None:
    assert found() == []


def test_devices_that_are_there_are_well_and_prebuilt_code_is_asked_for(monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "lacking", list)
    (finding,) = found(gpu_layers=-1)
    assert finding.level == "ok"
    assert "built with code for this GPU" in finding.says
    (free,) = found(gpu_layers=-1, sandbox="off")
    assert "built with" not in free.says


@pytest.mark.parametrize(("sandbox", "level"), [("required", "fail"), ("best_effort", "fail"), ("off", "warn")])
def test_a_device_that_is_not_there_is_named(monkeypatch: Any, sandbox: str, level: str) -> None:
    monkeypatch.setattr(gpu, "_CONTROL", (Path("/dev/nvidia-not-here"),))
    (finding,) = found(gpu_layers=1, sandbox=sandbox)
    assert finding.level == level
    assert "/dev/nvidia-not-here is not there" in finding.says
    assert "nvidia-modprobe" in finding.mend

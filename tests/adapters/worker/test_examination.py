"""The sandbox tried out for `vestal doctor`: on this kernel, and what is said of kernels that have less."""

from __future__ import annotations

import sys

import pytest

from vestal_adapters.worker import examination
from vestal_adapters.worker.examination import examine_sandbox
from vestal_adapters.worker.options import WorkerOptions
from vestal_adapters.worker.sandbox import LAYERS, Confinement

LESS = Confinement(("no_new_privs", "seccomp"), ("landlock: Function not implemented",))


def test_a_process_tries_it_and_this_one_stays_free() -> None:
    examination._tried.cache_clear()
    found = examination._tried()
    assert isinstance(found, Confinement)
    assert len(found.layers) + len(found.missing) == len(LAYERS)
    with open(__file__):  # noqa: PTH123  # Landlock would forbid it
        pass


@pytest.mark.parametrize(("mode", "level"), [("required", "fail"), ("best_effort", "warn"), ("off", "warn")])
def test_what_is_missing_is_as_bad_as_the_options_make_it(
    monkeypatch: pytest.MonkeyPatch, mode: str, level: str
) -> None:
    monkeypatch.setattr(examination, "_tried", lambda: LESS)
    found = examine_sandbox(WorkerOptions(sandbox=mode))  # type: ignore[arg-type]  # one of its words
    assert found.level == level
    assert ("landlock: Function not implemented" in found.says) is (mode != "off")
    assert found.mend


def test_a_process_that_says_nothing_is_told_by_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    examination._tried.cache_clear()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = examine_sandbox(WorkerOptions())
    examination._tried.cache_clear()
    assert (found.level, found.says) == ("fail", "cannot be tried out: the process exited with status 1")

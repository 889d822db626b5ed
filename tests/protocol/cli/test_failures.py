"""Exceptions → exit codes and lines."""

from __future__ import annotations

import errno

import pytest

from vestal import errors
from vestal.cli.failures import UsageError, explain


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.DaemonNotRunning("no vestald", hint="start it"), 69, "no vestald (start it)"),
        (errors.ConnectionLost("it is gone"), 69, "it is gone"),
        (errors.PermissionRefused("not you", hint="be root"), 77, "not you (be root)"),
        (errors.NotAuthorized("not you"), 77, "not_authorized: not you"),
        (errors.ModelError("no model", hint="pull"), 1, "no model (pull)"),
        (errors.ModelNotFound("no model", hint="use x"), 1, "model_not_found: no model (use x)"),
        (errors.QueueFull("full", retry_after_ms=1250), 1, "queue_full: full; try again in 1.25 s"),
        (errors.RemoteProtocolError("nonsense"), 70, "RemoteProtocolError: nonsense"),
        (UsageError("no prompt"), 2, "no prompt"),
        (OSError(errno.ENOSPC, "No space left"), 74, "the output could not be written: No space left"),
    ],
)
def test_each_kind_of_failure_has_its_code_and_its_line(error: Exception, code: int, line: str) -> None:
    assert explain(error) == (code, line)


def test_a_daemon_that_loads_can_be_waited_for_and_one_that_will_never_serve_cannot() -> None:
    loading = errors.DaemonNotReady("it is loading", hint="wait for it: client.wait_ready()")
    assert explain(loading) == (69, "it is loading (`vestal status` shows how far it is; --wait waits for it)")
    hopeless = errors.DaemonNotReady("no backend can embed", hint="add one")
    hopeless.retryable = False
    assert explain(hopeless) == (69, "no backend can embed (add one)")


def test_what_nobody_foresaw_is_a_bug_and_says_how_to_see_it() -> None:
    code, line = explain(KeyError("x"))
    assert code == 70
    assert line == "internal error: KeyError: 'x' (VESTAL_DEBUG=1 shows where)"

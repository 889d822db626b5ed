"""The exit codes, which scripts rely on: sysexits.h, one for each fault that can be told apart."""

from __future__ import annotations

import inspect

import pytest

from vestald import failures
from vestald.failures import EX_INTERNAL, Failure

CODES = {
    "BadConfiguration": 78,
    "AlreadyRunning": 75,
    "BackendFailed": 69,
    "ServiceRefused": 69,
    "Unwritten": 74,
    "BackendAbandoned": 70,
}


def test_every_failure_has_its_code_and_is_in_the_tree_of_the_docstring() -> None:
    found = {cls.__name__: cls.exit_code for cls in Failure.__subclasses__() if cls.__module__ == failures.__name__}
    assert found == CODES
    assert inspect.getdoc(failures) is not None
    for name, code in CODES.items():
        assert any(name in line and str(code) in line for line in str(failures.__doc__).splitlines())


def test_a_failure_nobody_named_is_internal() -> None:
    assert Failure.exit_code == EX_INTERNAL == 70


@pytest.mark.parametrize("hint", [None, "do this"])
def test_a_failure_reads_as_what_happened_and_what_to_do(hint: str | None) -> None:
    assert str(Failure("it broke", hint=hint)) == ("it broke (do this)" if hint else "it broke")

"""The file descriptors of a process: raised as far as they may be, and shared out so that operators keep a way in."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vestald.entrance.descriptors import connections_for
from vestald.failures import BadConfiguration

RAISED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from vestald.entrance.descriptors import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (512, 512)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int) -> None:
    code = RAISED.format(soft=soft, hard=hard)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(hard)] * 3


def test_something_is_set_aside_and_more_for_each_backend() -> None:
    assert connections_for(1024, 1) < 1024 - 100
    assert connections_for(1024, 1) - connections_for(1024, 5) >= 4 * 8
    assert connections_for(1 << 20, 1) > 1_000_000


def test_a_limit_that_leaves_next_to_nothing_is_refused_with_what_would_do() -> None:
    with pytest.raises(BadConfiguration, match="128 open files are allowed") as refused:
        connections_for(128, 2)
    assert refused.value.hint is not None
    enough = int(refused.value.hint.split("at least ")[1].split(":")[0])
    assert connections_for(enough, 2) >= 1
    with pytest.raises(BadConfiguration):
        connections_for(enough - 1, 2)

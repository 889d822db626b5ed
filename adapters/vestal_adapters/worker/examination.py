"""What a worker needs of this machine, tried out before there is one: the sandbox, layer by layer.

A process of its own puts the sandbox on and says how far it came: whether a layer works is for the kernel to say, not
for a list of versions.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import msgspec

from vestal.findings import Finding, fail, ok, warn
from vestal_adapters.worker.options import WorkerOptions
from vestal_adapters.worker.process import describe_exit, reduced_environment
from vestal_adapters.worker.sandbox import Confinement

__all__ = ["examine_sandbox"]

_PATIENCE = 20.0  # seconds for a process that imports little and does less
_KERNEL = "a kernel with Landlock (5.13 or later, with lsm=…,landlock) and seccomp has all of it"


def examine_sandbox(options: WorkerOptions) -> Finding:
    """Whether the sandbox that these options ask for can be had here."""
    if options.sandbox == "off":
        return warn("sandbox", 'off, by sandbox = "off": the engine may read what this user may', "remove that line")
    found = _tried()
    if isinstance(found, str):
        return fail("sandbox", f"cannot be tried out: {found}", _KERNEL)
    layers = ", ".join(found.layers)
    if not found.missing:
        return ok("sandbox", layers)
    says = f"{layers or 'nothing'}; missing: {', '.join(found.missing)}"
    if options.sandbox == "best_effort":
        return warn("sandbox", says, _KERNEL)
    return fail("sandbox", says, f'{_KERNEL}; or go without: sandbox = "best_effort"')


@cache
def _tried() -> Confinement | str:
    """What could be put on, or why nobody can tell."""
    command = [sys.executable, "-P", "-m", "vestal_adapters.worker.sandbox"]
    environment = reduced_environment({"OPENBLAS_NUM_THREADS": "1"})
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, env=environment, check=False)
        return msgspec.json.decode(done.stdout, type=Confinement)
    except subprocess.TimeoutExpired:
        return f"no answer within {_PATIENCE:g} s"
    except OSError as error:
        return error.strerror or str(error)
    except msgspec.DecodeError:
        return f"the process {describe_exit(done.returncode)}"

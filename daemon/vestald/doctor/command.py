"""`vestald doctor [--quick] [OPTION…]`: looks, and prints one JSON array of findings. `vestal doctor` is for people.

Without `--config` it is the file that the daemon which runs here read, whatever the variables of this process say; of
its flags and variables nobody knows. A configuration with faults is looked at as far as it can be understood: the
directory and the machine are there all the same; of one that cannot be read nobody knows the backends. The exit code is
0 however bad the findings are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from vestal.findings import Finding, fail, ok, warn
from vestal.running import running_daemon
from vestald.config import Config, Sources
from vestald.config.flags import parse
from vestald.doctor.backends import examine_backends
from vestald.doctor.directory import examine_directory
from vestald.doctor.system import examine_system
from vestald.failures import BadConfiguration

__all__ = ["findings", "main"]

_ABOUT = "configuration"
_MEND_UNREAD = "put it right before the daemon reads it again; ask as a user who may read it, or name another: --config"


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code."""
    words = [word for word in arguments if word != "--quick"]
    found = list(findings(parse(words), thorough="--quick" not in arguments))
    sys.stdout.write(f"{msgspec.json.encode(found).decode()}\n")
    return 0


def findings(sources: Sources, *, thorough: bool) -> Iterator[Finding]:
    """Everything, in the order in which it would go wrong."""
    yield from examine_system()
    sources, known = _at_hand(sources)
    config, found = _configuration(sources, told=bool(known))
    yield from (*known, *found)
    yield from examine_directory(config or Config())
    if config is not None:
        yield from examine_backends(config, thorough=thorough)


def _at_hand(sources: Sources) -> tuple[Sources, list[Finding]]:
    """Those of the daemon that runs, as far as it tells and no file is named; and that it is so."""
    daemon = running_daemon(sources.flags.get("--runtime-dir")) if sources.path is None else None
    if daemon is None or not daemon.config:
        return sources, []
    flags = {"--runtime-dir": daemon.runtime_dir, **sources.flags}
    says = f"process {daemon.pid} runs with {daemon.config}; --config FILE looks at another"
    return replace(sources, path=Path(daemon.config), flags=flags), [ok(_ABOUT, says)]


def _configuration(sources: Sources, *, told: bool) -> tuple[Config | None, list[Finding]]:
    """What can be understood of it, if it can be read, and what cannot; `told` if a daemon named the file."""
    try:
        file = sources.file()
        reading = sources.examine()
    except BadConfiguration as error:
        return None, [fail(_ABOUT, error.message, _MEND_UNREAD if told else error.hint or "")]
    if reading.faults:
        mend = f"vestald config check {file}" if file else "vestald config check"
        return reading.config, [fail(_ABOUT, str(fault), mend) for fault in reading.faults]
    found = [warn(_ABOUT, warning) for warning in reading.config.warnings]
    origin = f"{file} is sound" if file else "there is no file: every option has its default"
    return reading.config, [*found, ok(_ABOUT, origin)]

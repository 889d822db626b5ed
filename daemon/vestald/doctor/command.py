"""`vestald doctor [--quick] [OPTION…]`: looks, and prints one JSON array of findings. `vestal doctor` is for people.

A configuration with faults is looked at as far as it can be understood: the directory and the machine are there all
the same. The exit code is 0 however bad the findings are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import msgspec

from vestal.findings import Finding, fail, failed, ok, warn
from vestald.config import Config, Sources
from vestald.config.flags import parse
from vestald.doctor.backends import examine_backends
from vestald.doctor.directory import examine_directory
from vestald.doctor.system import examine_system
from vestald.failures import BadConfiguration

__all__ = ["findings", "main"]

_ABOUT = "configuration"


def main(arguments: Sequence[str]) -> int:
    """Run it; the exit code."""
    words = [word for word in arguments if word != "--quick"]
    found = list(findings(parse(words), thorough="--quick" not in arguments))
    sys.stdout.write(f"{msgspec.json.encode(found).decode()}\n")
    return 0


def findings(sources: Sources, *, thorough: bool) -> Iterator[Finding]:
    """Everything, in the order in which it would go wrong."""
    yield from examine_system()
    config, found = _configuration(sources)
    yield from found
    yield from examine_directory(config)
    yield from examine_backends(config, thorough=thorough)


def _configuration(sources: Sources) -> tuple[Config, list[Finding]]:
    """What can be understood of it, and what cannot."""
    file = sources.file()
    try:
        reading = sources.examine()
    except BadConfiguration as error:
        return Config(), [failed(_ABOUT, error)]
    if reading.faults:
        mend = f"vestald config check {file}" if file else "vestald config check"
        return reading.config, [fail(_ABOUT, str(fault), mend) for fault in reading.faults]
    found = [warn(_ABOUT, warning) for warning in reading.config.warnings]
    origin = f"{file} is sound" if file else "there is no file: every option has its default"
    return reading.config, [*found, ok(_ABOUT, origin)]

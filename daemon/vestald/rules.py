"""What the configuration says of callers, with names made numbers: whole before any of it counts.

Built at the start and at every reload; one name that nobody has, and none of the new rules is taken. What can only be
told by asking the system (users, groups, home directories) is asked here, so that a check asks it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from vestald.admission.callers import CallerTable
from vestald.admission.deadlines import Deadlines
from vestald.config import BadSettings, Config, Fault
from vestald.config.table import options_of
from vestald.entrance.access import Access, resolved
from vestald.entrance.sockets import gid_of
from vestald.failures import BadConfiguration

__all__ = ["Rules", "unanswered"]


class Rules(Struct, frozen=True):
    """Shares, quotas and classes by uid, who may use which socket, and how long a request may take."""

    weights: CallerTable[float]
    quotas: CallerTable[int]
    interactive: CallerTable[bool]
    access: dict[str, Access]
    deadlines: Deadlines

    @classmethod
    def of(cls, config: Config) -> Rules:
        """Raises `BadSettings` with every name that nobody has."""
        try:
            return cls(
                weights=_weights(config),
                quotas=_quotas(config),
                interactive=_interactive(config),
                access={"infer": _infer(config), "embed": _embed(config)},
                deadlines=Deadlines.of(config.admission),
            )
        except BadConfiguration as error:
            raise BadSettings(list(unanswered(config))) from error


def unanswered(config: Config) -> Iterator[Fault]:
    """A fault for each thing that the system does not know of, with its line."""
    told: set[Fault] = set()  # one question may lead to another
    for ask in _QUESTIONS:
        try:
            ask(config)
        except BadConfiguration as error:
            keys = [option.key for option in options_of(type(config)) if error.message.startswith(option.key)]
            fault = Fault(config.place(max(keys, key=len, default="")), error.message, error.hint or "")
            if fault not in told:
                told.add(fault)
                yield fault


def _weights(config: Config) -> CallerTable[float]:
    return CallerTable("admission.weights", config.admission.weights, 1.0)


def _quotas(config: Config) -> CallerTable[int]:
    return CallerTable("admission.quotas", config.admission.quotas, config.admission.tokens_per_minute)


def _interactive(config: Config) -> CallerTable[bool]:
    """Whom the class `interactive` is for."""
    named = config.admission.interactive
    return CallerTable("admission.interactive", dict.fromkeys(map(str, named or ()), True), named is None)


def _infer(config: Config) -> Access:
    return resolved("infer", config.sockets.infer)


def _embed(config: Config) -> Access:
    return resolved("embed", config.sockets.embed)


def _group(config: Config) -> int | None:
    return None if config.sockets.group is None else gid_of(config.sockets.group)


_QUESTIONS: tuple[Callable[[Config], object], ...] = (
    Config.runtime_dir, Config.audit_dir, Config.metrics_file, _group, _infer, _embed, _weights, _quotas,
    _interactive,
)  # fmt: skip

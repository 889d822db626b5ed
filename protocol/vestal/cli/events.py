"""Events of the daemon, and lines of its log, as one line for people: what happened, then the facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from vestal.cli.terminal import Style, printable
from vestal.messages import Event

__all__ = ["facts_of", "is_trouble", "line_of", "said"]

_TROUBLE = frozenset(
    (
        "request_failed",
        "refused",
        "backend_start_failed",
        "backend_restart_failed",
        "backend_remove_failed",
        "backend_stop_failed",
        "backends_abandoned",
        "requests_cut",
        "breaker_opened",
    )
)
_BAD_STATES = frozenset(("failed", "unavailable"))
_LEVELS = {"error": ("red", "bold"), "warning": ("yellow",), "debug": ("dim",)}


def is_trouble(event: Event) -> bool:
    """Whether it is one of those that an operator looks for."""
    return event.kind in _TROUBLE or event.data.get("state") in _BAD_STATES


def facts_of(facts: Mapping[str, object]) -> str:
    """`backend=chat state=ready`; what is empty is left out, what has blanks is quoted."""
    return " ".join(
        f"{printable(str(name))}={_value(value)}" for name, value in facts.items() if value not in ("", None)
    )


def said(event: Event) -> str:
    """The event in one line, without when it was."""
    code = event.data.get("code")
    kind = str(code) if event.kind in ("request_failed", "refused") and code else event.kind
    rest = {name: value for name, value in event.data.items() if value is not code}
    return f"{printable(kind)} {facts_of(rest)}".rstrip()


def line_of(when: str, kind: str, facts: Mapping[str, object], style: Style, level: str = "info") -> str:
    """One line of a stream: the time dimmed, what happened in the colour of its level, the facts."""
    colours = _LEVELS.get(level, ("bold",))
    return f"{style(printable(when), 'dim')} {style(printable(kind), *colours)} {facts_of(facts)}".rstrip()


def _value(value: object) -> str:
    text = printable(" ".join(map(str, value)) if isinstance(value, list) else str(value))
    return f'"{text}"' if " " in text or not text else text

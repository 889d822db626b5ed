"""The conformance kit: hold a backend to the promises of `vestal.backend`, each by a check with a name.

    async def test_it_keeps_the_port() -> None:
        print(await check_backend(lambda: MyBackend("mine", MyOptions(slots=2))))

`make_backend` makes a backend that was not started; most checks share one that is, those of the beginning and the
end of its life have their own. All run, and `NotConforming` lists every promise that was broken. A check that does
not concern the backend, by its capabilities, is in the report with the reason. No pytest is needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal

from msgspec import Struct

from vestal.backend import Backend
from vestal.testing import answer_checks, life_checks, loss_checks, option_checks, vector_checks
from vestal.testing.subject import Broken, Inapplicable, Outage, Subject
from vestal.values import Capabilities

__all__ = ["CHECKS", "NotConforming", "Outcome", "Report", "check_backend"]

_PROMPT = "Please count from one to twenty in words, then name the seven days of the week in their order."

_OF_ITS_LIFE: Mapping[str, Callable[[Subject], Awaitable[None]]] = {
    "readiness": life_checks.readiness,
    "restart": life_checks.restart,
    "stop_while_starting": life_checks.stop_while_starting,
    "stop_while_running": life_checks.stop_while_running,
    "loss": loss_checks.loss,
}
_WHILE_SERVING: Mapping[str, Callable[[Subject, Backend], Awaitable[None]]] = {
    "capabilities": life_checks.capabilities,
    "health": life_checks.health,
    "generate": answer_checks.generate,
    "generate_v2": answer_checks.generate_v2,
    "max_tokens": answer_checks.max_tokens,
    "closing": answer_checks.closing,
    "cancelling": answer_checks.cancelling,
    "concurrency": answer_checks.concurrency,
    "context_overflow": answer_checks.context_overflow,
    "options": option_checks.options,
    "stop_strings": option_checks.stop_strings,
    "response_format": option_checks.response_format,
    "grammar": option_checks.grammar,
    "logprobs": option_checks.logprobs,
    "tool_choice": option_checks.tool_choice,
    "embed": vector_checks.embed,
    "embed_options": vector_checks.embed_options,
    "count": vector_checks.count,
}
_STABLE = "stable_capabilities"
CHECKS: tuple[str, ...] = (*_WHILE_SERVING, _STABLE, *_OF_ITS_LIFE)
"""The names of all checks, in the order in which they run."""


class Outcome(Struct, frozen=True):
    """What came of one check, and why if it did not just pass."""

    check: str
    result: Literal["passed", "inapplicable", "broken"]
    why: str = ""

    def __str__(self) -> str:
        return f"{self.result:<13}{self.check}{': ' * bool(self.why)}{self.why}"


class Report(Struct, frozen=True):
    """What came of every check, a line each when printed."""

    backend: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> frozenset[str]:
        return frozenset(outcome.check for outcome in self.outcomes if outcome.result == "passed")

    @property
    def broken(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.result == "broken")

    def __str__(self) -> str:
        return "\n".join([self.backend, *(f"  {outcome}" for outcome in self.outcomes)])


class NotConforming(AssertionError):
    """Promises of the port are broken; `report` has them all."""

    def __init__(self, report: Report) -> None:
        super().__init__("\n".join([f"{report.backend} breaks promises of the port:", *map(str, report.broken)]))
        self.report = report


async def check_backend(
    make_backend: Callable[[], Backend],
    *,
    prompt: str = _PROMPT,
    patience: float = 30.0,
    stop_timeout: float = 5.0,
    outage: Outage | None = None,
    only: Collection[str] = (),
) -> Report:
    """Run the checks, or those in `only`. Raises `NotConforming` if one fails.

    `prompt` should make the backend say a dozen words or more; `patience` is how many seconds anything may take.
    `outage(backend)` is an async context manager in which the backend's engine is killed or cut off; without one nobody
    knows how, and what happens then is not checked.
    """
    if unknown := set(only) - set(CHECKS):
        raise ValueError(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    subject = Subject(make_backend, prompt, patience, stop_timeout, outage)
    chosen = only or CHECKS
    outcomes = await _while_serving(subject, chosen)
    for name, check in _OF_ITS_LIFE.items():
        if name in chosen:
            outcomes.append(await _outcome(name, check(subject)))  # one after another, on purpose
    report = Report(repr(make_backend()), tuple(outcomes))
    if report.broken:
        raise NotConforming(report)
    return report


async def _while_serving(subject: Subject, chosen: Collection[str]) -> list[Outcome]:
    names = [name for name in (*_WHILE_SERVING, _STABLE) if name in chosen]
    outcomes: list[Outcome] = []
    if not names:
        return outcomes
    try:
        async with subject.serving() as backend:
            before = backend.capabilities
            for name in names:
                check = _stable(backend, before) if name == _STABLE else _WHILE_SERVING[name](subject, backend)
                outcomes.append(await _outcome(name, check))
    except Broken as exc:  # it does not start, or does not stop
        outcomes.append(Outcome("readiness", "broken", str(exc)))
    return outcomes


async def _stable(backend: Backend, before: Capabilities) -> None:
    """Capabilities are the same as when it became ready: the daemon told them to clients."""
    if backend.capabilities != before:
        raise Broken(f"capabilities changed while it served: {before!r} became {backend.capabilities!r}")


async def _outcome(name: str, check: Awaitable[None]) -> Outcome:
    try:
        await check
    except Inapplicable as exc:
        return Outcome(name, "inapplicable", str(exc))
    except Broken as exc:
        return Outcome(name, "broken", str(exc))
    except Exception as exc:  # a backend may raise anything anywhere, and one fault must not hide the others
        return Outcome(name, "broken", f"{type(exc).__name__}: {exc}")
    return Outcome(name, "passed")

"""How every backend stands: its state, its breaker, and what the two make of its lanes.

The board owns the breakers, one for each engine that has served: one that was started anew begins without a past. A
lane is open while its backend is ready and the breaker closed; shut while either says so; half open, it lets one start
at a time, so that the one request that may try is whoever is next, and the others wait behind it. A backend that
generates and embeds has two lanes and one breaker: one try for both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from vestal import messages as m
from vestal.codec import error_frame
from vestal.errors import WireError
from vestald.admission.dispatcher import Dispatcher
from vestald.admission.lane import Lane
from vestald.backends.unit import Unit
from vestald.config import RouterConfig
from vestald.events import EventHub
from vestald.routing.blame import internal_error
from vestald.routing.breaker import Breaker, BreakerRules, counts
from vestald.routing.explain import explained
from vestald.routing.route import Ask, Prospect, Standing, named_by, ranked

__all__ = ["Board"]


class _Metrics(Protocol):
    def serves(self, backend: str) -> None: ...
    def lost(self, backend: str) -> None: ...


class _House(Protocol):
    """What the board is told of the daemon."""

    @property
    def generating(self) -> Dispatcher: ...
    @property
    def embedding(self) -> Dispatcher: ...
    @property
    def metrics(self) -> _Metrics: ...
    @property
    def events(self) -> EventHub: ...


class _Entry:
    """One unit's breaker, for the engine that serves now."""

    def __init__(self, life: int, rules: BreakerRules) -> None:
        self.life = life
        self.breaker = Breaker(rules)
        self.timer: asyncio.TimerHandle | None = None


class Board:
    """`units` gives the backends in the order of the configuration."""

    def __init__(self, house: _House, units: Callable[[], Sequence[Unit]], config: RouterConfig) -> None:
        self._house = house
        self._units = units
        self._now = time.monotonic
        self._entries: dict[Unit, _Entry] = {}
        self._adopt(config)

    def _adopt(self, config: RouterConfig) -> None:
        self.policy, self.unnamed, self.retries = config.policy, config.unnamed, config.retry_before_first_token
        window, cold = float(config.breaker_window), float(config.breaker_cold)
        self._rules = BreakerRules(config.breaker_failures, window, cold)

    def adjust(self, config: RouterConfig) -> None:
        """Other rules from now on; a breaker that is open stays so, for as long as the new rules say."""
        self._adopt(config)
        for unit, entry in list(self._entries.items()):  # to arrange one may begin another for it
            entry.breaker.adjust(self._rules, self._now())
            self._arrange(unit)

    # --- for requests -----------------------------------------------------------------------------------------

    def choose(self, ask: Ask) -> Unit:
        """The backend that takes the request. Raises the `WireError` for a client."""
        return self._ranked(ask)[0][1]

    def another(self, ask: Ask, *, but: Unit) -> Unit | None:
        """Who could take it at once instead; `but` itself if it serves and there is no other."""
        try:
            serving = [unit for prospect, unit in self._ranked(ask) if prospect.standing is Standing.SERVING]
        except WireError:
            return None
        return next((unit for unit in serving if unit is not but), but if but in serving else None)

    def embedders(self, ask: Ask) -> list[Unit]:
        """The backend that embeds, and after it those that can share its work now: same model, same dimensions.

        One that does not say whether it can takes no part in what the first says it can.
        """
        (first, unit), *others = self._ranked(ask)
        unsure = bool(ask.doubts(first.capabilities))
        alike = [(can, other) for can, other in others if _alike(first, can)]
        return [unit, *(other for can, other in alike if unsure or not ask.doubts(can.capabilities))]

    def fits(self, unit: Unit, ask: Ask) -> bool:
        """Whether a backend is still one that the request means, and that can do it; both may change while it waits."""
        meant, can = named_by(ask.model, self._prospects(ask), self.unnamed), unit.capabilities
        named = unit.served and unit.name in [p.name for p in meant]
        return named and ask.can(can) and ask.lacking(unit.name, can) is None

    def serving(self, unit: Unit, ask: Ask) -> bool:
        """Whether it could begin with a request of that kind now."""
        return self._prospect(unit, self._lane(unit, ask)).standing is Standing.SERVING

    @contextmanager
    def trial(self, unit: Unit) -> Iterator[None]:
        """What a backend does with one request counts for it or against it; whatever it raises is a `WireError`.

        It counts for the engine that had it, whoever serves in its place by then.
        """
        entry, began = self._entry(unit), self._now()
        try:
            yield
        except WireError as error:
            if counts(error):
                self._failed(unit, entry, began, error)
            raise
        except Exception as fault:
            failure = internal_error(unit.name, fault)
            self._failed(unit, entry, began, failure)
            raise failure from None
        else:
            self._succeeded(unit, entry, began)

    # --- for operators ----------------------------------------------------------------------------------------

    def breaker(self, unit: Unit) -> m.BreakerStatus:
        """As a status shows it."""
        breaker, now = self._entry(unit).breaker, self._now()
        state = breaker.state(now)
        cold = round(1000 * breaker.cold_left(now)) if state == "open" else None
        return m.BreakerStatus(state=state, failures=breaker.failures(now), cold_ms=cold, last=breaker.last)

    def explain(self, id: int, ask: Ask, closed: WireError | None = None) -> m.RouteReport:
        """Where a request would go now, and why; `closed` is what the daemon tells whoever comes, if it takes none."""
        verdicts, refusal = explained(ask, self._prospects(ask), self.policy, self.unnamed)
        if closed is not None:
            refusal = closed
            verdicts = [(p, "possible" if verdict == "chosen" else verdict, reason) for p, verdict, reason in verdicts]
        lanes = self._dispatcher(ask).scheduler.lanes
        return m.RouteReport(
            id=id,
            policy=self.policy,
            candidates=[
                m.RouteCandidate(
                    backend=prospect.name,
                    model=prospect.model,
                    verdict=verdict,
                    reason=reason,
                    running=len(lanes[prospect.name].running) if prospect.name in lanes else 0,
                    waiting=lanes[prospect.name].waiting if prospect.name in lanes else 0,
                    slots=lanes[prospect.name].slots if prospect.name in lanes else prospect.capabilities.slots,
                )
                for prospect, verdict, reason in verdicts
            ],
            chosen=next((p.name for p, verdict, _ in verdicts if verdict == "chosen"), None),
            refusal=None if refusal is None else error_frame(refusal, None),
        )

    # --- changes ----------------------------------------------------------------------------------------------

    def changed(self, unit: Unit) -> None:
        """A unit is in another state: open its lanes while it is ready, shut them while it is away."""
        house = self._house
        if unit.state == "ready":
            house.metrics.serves(unit.name)
            self._arrange(unit)
            return
        if unit.state in ("unavailable", "failed"):
            house.metrics.lost(unit.name)
        self._shut(unit)
        if unit.state == "failed" or unit.given_up:
            self.lost(unit, unit.detail)

    def lost(self, unit: Unit, reason: str) -> None:
        """It will not come back by itself."""
        for dispatcher in self._dispatchers:
            dispatcher.fail_lane(unit.name, reason, unit.remedy)

    def forget(self, unit: Unit) -> None:
        """It is no backend of this daemon's any more."""
        entry = self._entries.pop(unit, None)
        if entry is not None and entry.timer is not None:
            entry.timer.cancel()

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _dispatchers(self) -> tuple[Dispatcher, Dispatcher]:
        return self._house.generating, self._house.embedding

    def _dispatcher(self, ask: Ask) -> Dispatcher:
        return self._house.embedding if ask.embed else self._house.generating

    def _entry(self, unit: Unit) -> _Entry:
        entry = self._entries.get(unit)
        if entry is None or entry.life != unit.life:
            self.forget(unit)
            entry = self._entries[unit] = _Entry(unit.life, self._rules)
        return entry

    def _ranked(self, ask: Ask) -> list[tuple[Prospect, Unit]]:
        units = {unit.name: unit for unit in self._units()}
        best = ranked(ask, self._prospects(ask), self.policy, self.unnamed)
        return [(prospect, units[prospect.name]) for prospect in best]

    def _prospects(self, ask: Ask) -> list[Prospect]:
        return [self._prospect(unit, self._lane(unit, ask)) for unit in self._units()]

    def _lane(self, unit: Unit, ask: Ask) -> Lane | None:
        return self._dispatcher(ask).scheduler.lanes.get(unit.name)

    def _prospect(self, unit: Unit, lane: Lane | None) -> Prospect:
        standing, why = self._standing(unit, lane)
        return Prospect(
            unit.name,
            unit.capabilities,
            unit.capabilities.model if unit.served else unit.declared_model,
            unit.aliases,
            standing,
            busy=(len(lane.running) + lane.waiting) / lane.slots if lane is not None else 0.0,
            why=why,
            remedy=_remedy(unit, standing),
            retry_after=self._entry(unit).breaker.cold_left(self._now()) or None,
        )

    def _standing(self, unit: Unit, lane: Lane | None) -> tuple[Standing, str]:
        if not unit.served:
            failed = unit.state == "failed"
            return Standing.LOADING, f"is not loaded: {unit.detail}" if failed else f"is {unit.progress}"
        if unit.draining:
            return Standing.DRAINING, "is being drained"
        if unit.started_again:
            return Standing.COLD, f"is not serving, and is started again; last: {unit.told}"
        if unit.state == "failed" or unit.given_up:
            return Standing.LOST, f"is not serving: {unit.detail}"
        breaker, now = self._entry(unit).breaker, self._now()
        state = breaker.state(now)
        if state == "open":
            left = breaker.cold_left(now)
            return Standing.COLD, f"is left alone for {left:.0f} s after failures, last: {breaker.last}"
        if unit.state != "ready":
            return Standing.AWAY, f"is {unit.progress}"
        if state == "half_open" and lane is not None and (lane.waiting or not lane.has_room):
            return Standing.AWAY, "has failed, and lets one request at a time show whether it serves again"
        return Standing.SERVING, "is ready"

    def _succeeded(self, unit: Unit, entry: _Entry, began: float) -> None:
        if entry.breaker.succeeded(began):
            self._house.events.emit("breaker_closed", backend=unit.name)
            self._arrange(unit)

    def _failed(self, unit: Unit, entry: _Entry, began: float, error: WireError) -> None:
        now = self._now()
        before = entry.breaker.state(now)
        entry.breaker.failed(began, now, error.code)
        if before != "open" and entry.breaker.state(now) == "open":
            self._house.events.emit(
                "breaker_opened",
                level="warning",
                backend=unit.name,
                failures=entry.breaker.failures(now),
                last=error.code,
                seconds=self._rules.cold,
            )
            self._arrange(unit)

    def _arrange(self, unit: Unit) -> None:
        """Open or shut the lanes of a unit that is ready, as its breaker says."""
        if unit.state != "ready":
            return
        entry, now = self._entry(unit), self._now()
        state = entry.breaker.state(now)
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if state == "open":
            self._shut(unit)
            loop = asyncio.get_running_loop()
            entry.timer = loop.call_later(entry.breaker.cold_left(now), self._arrange, unit)
            return
        can, one_since = unit.capabilities, entry.breaker.one_since
        for dispatcher, able in ((self._house.generating, can.generate), (self._house.embedding, can.embed)):
            if able:
                dispatcher.open_lane(unit.name, can.slots, one_since)
            else:  # restarted as another, it may have been able before: what waits for that waits in vain
                dispatcher.fail_lane(unit.name, "it was restarted, and does not do that any more")

    def _shut(self, unit: Unit) -> None:
        for dispatcher in self._dispatchers:
            dispatcher.shut_lane(unit.name)

    def __repr__(self) -> str:
        return f"<Board {self.policy}, {len(self._entries)} breakers>"


def _remedy(unit: Unit, standing: Standing) -> str:
    if standing is Standing.LOST:
        return unit.remedy
    if standing is Standing.DRAINING:
        return f"an operator can let requests to it again: vestal backend undrain {unit.name}"
    return "try again later"


def _alike(first: Prospect, other: Prospect) -> bool:
    """Whether two backends give the same vectors, as far as they say."""
    ours, theirs = first.capabilities, other.capabilities
    same = (ours.model or first.name) == (theirs.model or other.name)
    return same and ours.embedding_dimensions == theirs.embedding_dimensions and other.standing is Standing.SERVING

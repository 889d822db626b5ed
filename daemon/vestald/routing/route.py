"""Which of the backends takes a request: by name, by what they can do, by how they stand, by policy. Pure.

The order of the four is the meaning: a request is never sent to a model that it did not name, nor to one that cannot do
all of what it asks for, however idle that one is. Of those that are left, one that serves goes before one that is
away, one that says that it can before one that does not say, and only among equals does the policy choose. A request
that names no model leaves it to all of them, or to those on this machine, as the operator likes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Literal

from msgspec import Struct

from vestal.errors import BackendUnavailable, ModelNotFound, Unsupported, WireError
from vestal.values import Capabilities, RoutePolicy

__all__ = ["STAYS", "Ask", "Prospect", "Standing", "Unnamed", "named_by", "ranked"]


Unnamed = Literal["any", "local"]
"""Where a request that names no model may go."""

STAYS = 'a request that names no model stays on this machine (router.unnamed = "local")'


class Standing(IntEnum):
    """How a backend stands for a new request, the best first."""

    SERVING = 0
    AWAY = 1  # it is coming back, or its breaker lets one request try and has it: one may wait there
    COLD = 2  # its breaker is open
    LOST = 3  # it will not come back by itself
    DRAINING = 4  # an operator keeps new requests away
    LOADING = 5  # it has not served yet; what it can do is not known


class Prospect(Struct, frozen=True):
    """What the router sees of a backend. `busy` is what it runs and has waiting, by slot; `why` is why it stands so.

    `remedy` is what there is to do about that, and `retry_after` in how many seconds to come back, where it is known.
    `model` is what it serves, and of one that has not served yet what it is declared to.
    """

    name: str
    capabilities: Capabilities
    model: str
    aliases: Sequence[str] = ()
    standing: Standing = Standing.SERVING
    busy: float = 0.0
    why: str = ""
    remedy: str = "try again later"
    retry_after: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name by which a request may mean it."""
        return tuple(name for name in (self.name, self.model, *self.aliases) if name)


class Ask(Struct, frozen=True):
    """What a request is to the router. `check` raises `Unsupported` for what a backend says that it cannot honour.

    `unsaid` names what it does not speak of. Who refused that when he was asked is in `refused`, with what he said.
    """

    embed: bool = False
    version: int = 1
    model: str | None = None
    check: Callable[[Capabilities], None] | None = None
    unsaid: Callable[[Capabilities], Sequence[str]] | None = None
    refused: Mapping[str, WireError] = {}

    @property
    def what(self) -> str:
        """As a verb."""
        return "embed" if self.embed else "generate" if self.version == 1 else f"generate on version {self.version}"

    def can(self, capabilities: Capabilities) -> bool:
        """Whether a backend does this kind of work at all."""
        if self.embed:
            return capabilities.embed
        return capabilities.generate and (self.version == 1 or capabilities.v2)

    def lacking(self, backend: str, capabilities: Capabilities) -> WireError | None:
        """What of the request a backend that does this kind of work cannot honour."""
        if (said := self.refused.get(backend)) is not None:
            return said
        try:
            if self.check is not None:
                self.check(capabilities)
        except Unsupported as error:
            return error
        return None

    def doubts(self, capabilities: Capabilities) -> Sequence[str]:
        """What of the request a backend may honour or not: only asking it tells."""
        return () if self.unsaid is None else self.unsaid(capabilities)


def ranked(ask: Ask, prospects: Sequence[Prospect], policy: RoutePolicy, unnamed: Unnamed = "any") -> list[Prospect]:
    """Those that may take the request, the best first, never none. Raises the `WireError` that says why nobody may."""
    meant = named_by(ask.model, prospects, unnamed)
    try:
        return _ranked(ask, prospects, meant, policy)
    except WireError as error:
        stays = unnamed == "local" and ask.model is None and not all(p.capabilities.local for p in prospects)
        if stays and "unnamed" not in error.details:
            error.hint = f"{error.hint or 'name a model'}; {STAYS}"
            error.details["unnamed"] = unnamed
        raise


def _ranked(ask: Ask, prospects: Sequence[Prospect], meant: Sequence[Prospect], policy: RoutePolicy) -> list[Prospect]:
    known = [p for p in prospects if p.standing is not Standing.LOADING]
    named = [p for p in meant if p.standing is not Standing.LOADING]
    able = [p for p in named if ask.can(p.capabilities)]
    lacks = [ask.lacking(p.name, p.capabilities) for p in able]
    fit = [p for p, lack in zip(able, lacks, strict=True) if lack is None]
    if not fit:
        raise _nobody(ask, meant, known, named, [lack for lack in lacks if lack is not None])
    fit.sort(key=_order(ask, policy))
    if fit[0].standing > Standing.AWAY:
        raise _not_now(fit)
    return [p for p in fit if p.standing <= Standing.AWAY]


def named_by(model: str | None, prospects: Sequence[Prospect], unnamed: Unnamed) -> list[Prospect]:
    """Those that a request means: a backend of that very name alone, else all that it is a name of.

    Without a name, all; or those on this machine, and such as have not yet said where they compute.
    """
    if model is None:
        return [p for p in prospects if unnamed == "any" or p.capabilities.local or p.standing is Standing.LOADING]
    own = [p for p in prospects if p.name == model]
    return own or [p for p in prospects if model in p.names]


def _order(ask: Ask, policy: RoutePolicy) -> Callable[[Prospect], tuple[float, ...]]:
    """Sorting is stable: the order of the configuration decides between equals."""

    def merit(p: Prospect) -> float:
        if policy == "least_busy":
            return p.busy
        return policy == "local_first" and not p.capabilities.local

    return lambda p: (p.standing, bool(ask.doubts(p.capabilities)), merit(p))


def _nobody(
    ask: Ask,
    meant: Sequence[Prospect],
    known: Sequence[Prospect],
    named: Sequence[Prospect],
    lacks: Sequence[WireError],
) -> WireError:
    loading = [p for p in meant if p.standing is Standing.LOADING]
    if lacks and not loading:
        return next((lack for lack in lacks if lack in ask.refused.values()), lacks[0])
    if loading:
        return _not_now(loading)
    can = [p for p in known if ask.can(p.capabilities)]
    if ask.model is None:
        where = " on this machine" if can else ""  # those that can, and are not meant, compute elsewhere
        return Unsupported(
            f"no backend{where} can {ask.what}",
            hint=f"models that can, elsewhere: {', '.join(_names(can))}"
            if can
            else "the welcome lists the backends and their capabilities",
            details={"option": "type" if ask.embed or ask.version == 1 else "version"},
        )
    asked = ask.model[:64]
    if named:
        return Unsupported(
            f"model {asked!r} cannot {ask.what}",
            hint=f"models that can: {', '.join(_names(can)) or 'none'}",
            details={"option": "model", "model": asked},
        )
    return ModelNotFound(
        f"no backend serves model {asked!r}",
        hint=f"models served here: {', '.join(_names(can)) or 'none'}",
        details={"model": asked, "models": _names(can)},
    )


def _not_now(prospects: Sequence[Prospect]) -> BackendUnavailable:
    """The first speaks for all; the soonest of them says when to come back."""
    first = prospects[0]
    times = [p.retry_after for p in prospects if p.retry_after is not None]
    return BackendUnavailable(
        "; ".join(f"backend {p.name!r} {p.why}" for p in prospects[:4]),
        hint=first.remedy,
        details={"backend": first.name, "backends": [p.name for p in prospects]},
        retry_after_ms=round(1000 * min(times)) if times else None,
    )


def _names(prospects: Sequence[Prospect]) -> list[str]:
    """Every name that would have been understood, each once."""
    return list(dict.fromkeys(name for p in prospects for name in p.names))

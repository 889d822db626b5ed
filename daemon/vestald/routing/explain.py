"""Why a request would go where: the router's own reasoning, backend by backend. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from vestal.errors import WireError
from vestal.values import RoutePolicy, RouteVerdict
from vestald.routing.route import STAYS, Ask, Prospect, Standing, Unnamed, named_by, ranked

__all__ = ["explained"]

_VERDICTS: dict[Standing, RouteVerdict] = {
    Standing.SERVING: "possible",
    Standing.AWAY: "away",
    Standing.COLD: "cold",
    Standing.LOST: "lost",
    Standing.DRAINING: "draining",
    Standing.LOADING: "loading",
}
_POLICIES: dict[RoutePolicy, str] = {
    "priority": "the first in the configuration",
    "least_busy": "the least busy",
    "local_first": "the first on this machine",
}


def explained(
    ask: Ask, prospects: Sequence[Prospect], policy: RoutePolicy, unnamed: Unnamed = "any"
) -> tuple[list[tuple[Prospect, RouteVerdict, str]], WireError | None]:
    """Every backend with its verdict and the reason, the best first; and what a client hears if none is chosen."""
    refusal: WireError | None = None
    best: list[Prospect] = []
    try:
        best = ranked(ask, prospects, policy, unnamed)
    except WireError as error:
        refusal = error
    meant = named_by(ask.model, prospects, unnamed)
    rest = sorted((p for p in prospects if p not in best), key=lambda p: (p not in meant, p.standing))
    return [(p, *_verdict(ask, p, meant, best, policy)) for p in (*best, *rest)], refusal


def _verdict(
    ask: Ask, prospect: Prospect, meant: Sequence[Prospect], best: Sequence[Prospect], policy: RoutePolicy
) -> tuple[RouteVerdict, str]:
    if prospect not in meant and ask.model is None:
        return "other_model", f"it computes elsewhere; {STAYS}"
    if prospect not in meant:
        return "other_model", f"it is called {' or '.join(dict.fromkeys(prospect.names))}"
    if prospect.standing is Standing.LOADING:
        return "loading", f"it {prospect.why}"
    if not ask.can(prospect.capabilities):
        return "incapable", f"it cannot {ask.what}"
    if (lack := ask.lacking(prospect.name, prospect.capabilities)) is not None:
        return "incapable", lack.message
    if best and prospect is best[0]:
        return "chosen", _merit(ask, prospect, meant, best, policy)
    if prospect.standing is not Standing.SERVING:
        return _VERDICTS[prospect.standing], f"it {prospect.why}"
    return "possible", f"{best[0].name} goes before it: {_before(ask, best[0], prospect, policy)}"


def _before(ask: Ask, first: Prospect, other: Prospect, policy: RoutePolicy) -> str:
    """Why one goes before another that stands as it does."""
    doubt = _doubt(ask, other)
    return f"{other.name} {doubt}" if doubt and not _doubt(ask, first) else _POLICIES[policy]


def _merit(
    ask: Ask, prospect: Prospect, meant: Sequence[Prospect], best: Sequence[Prospect], policy: RoutePolicy
) -> str:
    others = [p for p in meant if p is not prospect and _is_able(ask, p)]
    if not others:
        why = "it is the only one that can"
    elif len(best) > 1 and best[1].standing is prospect.standing:
        why = _before(ask, prospect, best[1], policy)
    else:
        why = (
            "it is the only one that serves now" if prospect.standing is Standing.SERVING else "no other is coming back"
        )
    if doubt := _doubt(ask, prospect):
        why = f"{why}; it {doubt}"
    return why if prospect.standing is Standing.SERVING else f"{why}; it {prospect.why}"


def _doubt(ask: Ask, prospect: Prospect) -> str:
    unsaid = ask.doubts(prospect.capabilities)
    return f"does not say whether it honours {' and '.join(unsaid)}" if unsaid else ""


def _is_able(ask: Ask, prospect: Prospect) -> bool:
    can = prospect.capabilities
    return ask.can(can) and ask.lacking(prospect.name, can) is None

"""The handshake's decision: a hello and what the daemon offers in, a welcome or an error out. Pure."""

from __future__ import annotations

from msgspec import Struct

from vestal import messages as m
from vestal.errors import CapabilityMissing, VersionUnsupported
from vestal.explain import shown
from vestal.values import FLAGS, Capabilities

__all__ = ["FEATURES", "Offer", "negotiate"]

FEATURES: tuple[str, ...] = ("queue_events",)


class Offer(Struct, frozen=True, kw_only=True):
    """What the daemon has to offer on one socket at this moment."""

    server: str
    session: str
    versions: tuple[int, ...]
    limits: m.Limits
    backends: list[m.BackendInfo]
    features: tuple[str, ...] = FEATURES


def negotiate(hello: m.Hello, offer: Offer) -> m.Welcome:
    """The answer to `hello`. Raises `VersionUnsupported` or `CapabilityMissing`."""
    common = set(hello.versions) & set(offer.versions)
    if not common:
        raise VersionUnsupported(
            f"the client speaks versions {sorted(hello.versions)}, this socket {sorted(offer.versions)}",
            hint="offer one of this socket's versions; version 2 is there while a backend speaks it",
            details={"versions": sorted(offer.versions)},
        )
    _check_required(hello.require, offer.backends)
    return m.Welcome(
        version=max(common),
        server=offer.server,
        session=offer.session,
        features=[feature for feature in offer.features if feature in hello.features],
        limits=offer.limits,
        backends=offer.backends,
    )


def _check_required(require: list[str], backends: list[m.BackendInfo]) -> None:
    """One backend must have all of `require`; of several that lack something, tell the nearest miss."""
    if not require:
        return
    missing = min((_missing(require, backend.capabilities) for backend in backends), key=len, default=list(require))
    if missing:
        unknown = [shown(name) for name in missing if name not in FLAGS]
        lacks = ", ".join([flag for flag in FLAGS if flag in missing] + unknown[:1])
        raise CapabilityMissing(
            f"no backend has {lacks}" if len(missing) == len(require) else f"the nearest backend lacks {lacks}",
            hint=f"one backend must have all that is required, out of {', '.join(FLAGS)}",
            details={"missing": [shown(name) for name in missing], "require": [shown(name) for name in require]},
        )


def _missing(require: list[str], capabilities: Capabilities) -> list[str]:
    return [flag for flag in require if flag not in FLAGS or not getattr(capabilities, flag)]

"""Which backend takes a request: by name, by capability, by the order of the configuration. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from vestal.errors import ModelNotFound, Unsupported
from vestal.values import Capabilities

__all__ = ["Candidate", "choose_embedder", "choose_generator"]


class Candidate(Protocol):
    """What the router sees of a backend."""

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...


C = TypeVar("C", bound=Candidate)


def choose_generator(model: str | None, version: int, backends: Sequence[C]) -> C:
    """The first backend that generates, on v2 one that speaks v2; `model` is a backend's name or its model's."""
    if version == 1:
        return _choose(model, backends, lambda c: c.generate, "generate")
    return _choose(model, backends, lambda c: c.generate and c.v2, "generate on version 2")


def choose_embedder(model: str | None, backends: Sequence[C]) -> C:
    """The first backend that embeds; `model` is a backend's name or its model's."""
    return _choose(model, backends, lambda c: c.embed, "embed")


def _choose(model: str | None, backends: Sequence[C], can: Callable[[Capabilities], bool], what: str) -> C:
    able = [backend for backend in backends if can(backend.capabilities)]
    if model is None:
        if able:
            return able[0]
        raise Unsupported(
            f"no backend can {what}",
            hint="the welcome lists the backends and their capabilities",
            details={"option": "version" if "version" in what else "type"},
        )
    named = [backend for backend in backends if model in (backend.name, backend.capabilities.model)]
    if not named:
        models = _names(able)
        raise ModelNotFound(
            f"no backend serves model {model[:64]!r}",
            hint=f"models served here: {', '.join(models) or 'none'}",
            details={"model": model[:64], "models": models},
        )
    for backend in named:
        if can(backend.capabilities):
            return backend
    raise Unsupported(
        f"model {model[:64]!r} cannot {what}",
        hint=f"models that can: {', '.join(_names(able)) or 'none'}",
        details={"option": "model", "model": model[:64]},
    )


def _names(backends: Sequence[Candidate]) -> list[str]:
    """Every name that would have been understood, each once."""
    return list(dict.fromkeys(name for b in backends for name in (b.name, b.capabilities.model) if name))

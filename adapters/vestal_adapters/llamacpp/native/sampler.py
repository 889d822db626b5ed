"""A request's sampling stages as a chain of llama.cpp's samplers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llama_cpp import llama_cpp as lib

from vestal_adapters.llamacpp.native.context import Context
from vestal_adapters.llamacpp.sampling import Draw, Greedy, MinP, Penalties, Stage, Temperature, TopK, TopP

__all__ = ["Sampler"]


class Sampler:
    """The stages of one request and what they remember. `history` is what penalties begin with."""

    def __init__(self, stages: Iterable[Stage], vocabulary_size: int, history: Iterable[int] = ()) -> None:
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._chain: Any = chain
        for stage in stages:
            lib.llama_sampler_chain_add(chain, _native(stage, vocabulary_size))
        for token in history:
            lib.llama_sampler_accept(chain, token)

    def __repr__(self) -> str:
        if self._chain is None:
            return "<Sampler closed>"
        count = lib.llama_sampler_chain_n(self._chain)
        parts = (lib.llama_sampler_chain_get(self._chain, index) for index in range(count))
        return f"<Sampler {' > '.join(lib.llama_sampler_name(part).decode() for part in parts)}>"

    def sample(self, context: Context, row: int) -> int:
        """Choose the token that follows the batch's `row`, and remember it."""
        token: int = lib.llama_sampler_sample(self._chain, context.handle, row)
        return token

    def close(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _native(stage: Stage, vocabulary_size: int) -> Any:
    match stage:
        case Penalties(repeat, frequency, presence, window):
            return lib.llama_sampler_init_penalties(vocabulary_size, window, repeat, frequency, presence)
        case TopK(k):
            return lib.llama_sampler_init_top_k(k)
        case TopP(p):
            return lib.llama_sampler_init_top_p(p, 1)
        case MinP(p):
            return lib.llama_sampler_init_min_p(p, 1)
        case Temperature(t):
            return lib.llama_sampler_init_temp(t)
        case Draw(seed):
            return lib.llama_sampler_init_dist(seed)
        case Greedy():
            return lib.llama_sampler_init_greedy()

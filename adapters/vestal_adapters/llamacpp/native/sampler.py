"""A request's sampling stages as a chain of llama.cpp's samplers, and a grammar before them where there is one.

With a grammar a token is sampled first, as if there were none. Most are allowed, so most steps cost little more than
without. If it is not, it is barred and the chain runs again, and with it are barred those of the likeliest tokens that
are not allowed either: first of 64, then of 128 and so on, so that it ends. Barring one after another and drawing
again draws each allowed token as often as barring all at once would, as far as the filters leave it. Only where there
is little to choose from (a key, a comma) that little is found first, and the chain runs over it alone.
llama.cpp's own grammar sampler is not used: see ADR 0014.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, Protocol

import numpy
from llama_cpp import llama_cpp as lib

from vestal.errors import BackendRefused
from vestal_adapters.llamacpp.batching.sampling import Draw, Greedy, MinP, Penalties, Stage, Temperature, TopK, TopP
from vestal_adapters.llamacpp.native.context import Context

__all__ = ["Grammar", "Sampler"]

_Ids = numpy.ndarray[tuple[int], numpy.dtype[numpy.int32]]
_Logits = numpy.ndarray[tuple[int], numpy.dtype[numpy.float32]]
_LIKELIEST = 64
# llama_token_data
_CANDIDATE = numpy.dtype([("id", numpy.int32), ("logit", numpy.float32), ("p", numpy.float32)])


class Grammar(Protocol):
    """Says which tokens may come next. What it raises leaves `sample` as it is."""

    @property
    def narrow(self) -> bool: ...

    def allows(self, token: int) -> bool: ...

    def allowed(self) -> _Ids | None: ...

    def accept(self, token: int) -> None: ...


class Sampler:
    """The stages of one request and what they remember. `history` is what penalties begin with."""

    def __init__(
        self,
        stages: Iterable[Stage],
        vocabulary_size: int,
        history: Iterable[int] = (),
        grammar: Grammar | None = None,
    ) -> None:
        self._size = vocabulary_size
        self._grammar = grammar
        self._every = numpy.arange(0 if grammar is None else vocabulary_size, dtype=numpy.int32)
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        self._chain: Any = chain
        stages = tuple(stages)
        self._likeliest = stages == (Greedy(),)
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
        if self._grammar is not None:
            return self._sample_allowed(self._grammar, context, row)
        if self._likeliest:  # the chain would first write down every token of the vocabulary
            return int(self._logits(context, row).argmax())
        token: int = lib.llama_sampler_sample(self._chain, context.handle, row)
        return token

    def _logits(self, context: Context, row: int) -> _Logits:
        return numpy.frombuffer(context.logits(row, self._size), numpy.float32)

    def _sample_allowed(self, grammar: Grammar, context: Context, row: int) -> int:
        logits = self._logits(context, row)
        allowed = grammar.allowed() if grammar.narrow else None
        if allowed is None:
            token = self._guess(grammar, logits)
        elif not len(allowed):
            raise _stuck()
        elif len(allowed) == 1:
            token = int(allowed[0])
        else:
            token = self._choose(allowed, logits[allowed])
        lib.llama_sampler_accept(self._chain, token)
        grammar.accept(token)
        return token

    def _guess(self, grammar: Grammar, logits: _Logits) -> int:
        tokens, likeliest = self._every, _LIKELIEST
        while len(tokens):
            token = self._choose(tokens, logits)
            if grammar.allows(token):
                return token
            keep = tokens != token
            for place in numpy.argpartition(logits, -min(likeliest, len(tokens)))[-likeliest:]:
                keep[place] = keep[place] and grammar.allows(int(tokens[place]))
            tokens, logits = tokens[keep], logits[keep]
            likeliest *= 2
        raise _stuck()

    def _choose(self, tokens: _Ids, logits: _Logits) -> int:
        """Run the chain over these tokens alone; it remembers nothing yet."""
        candidates = numpy.empty(len(tokens), _CANDIDATE)  # p is the samplers' own, who set it
        candidates["id"] = tokens
        candidates["logit"] = logits
        array = lib.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data)),
            size=len(tokens),
            selected=-1,
            sorted=False,
        )
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def close(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _stuck() -> BackendRefused:
    return BackendRefused("no token of this model can go on as the grammar demands")


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

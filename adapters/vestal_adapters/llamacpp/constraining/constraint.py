"""What an answer has to be: which tokens may come next, and whether it may end.

A token is allowed if its bytes are a way to go on in the grammar's automaton, one that ends the answer if the text
may end there. The whole set is worked out only where it is small: see `Sampler`. When nothing but an end is left, the
answer is `finished` and no token is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NoReturn

import numpy

from vestal.errors import BackendRefused, InvalidRequest
from vestal.values import GenerateOptions, Notice
from vestal_adapters.llamacpp.constraining.automaton import (
    Automaton,
    Program,
    TooAmbiguous,
    TooMuchWork,
    compile_grammar,
)
from vestal_adapters.llamacpp.constraining.gbnf import parse
from vestal_adapters.llamacpp.constraining.schema import to_gbnf
from vestal_adapters.llamacpp.constraining.token_bytes import Ids, TokenBytes
from vestal_adapters.llamacpp.deadline import Deadline
from vestal_adapters.llamacpp.native import Vocabulary

__all__ = ["INCOMPLETE", "MOST_WORK", "Constraint", "Constraints"]

MOST_WORK = 500_000
"""Stacks looked at for one token: half a second, which no sensible grammar comes near."""
LITTLE_WORK = 15_000
"""For finding all that may come: some 15 ms. Past that, trying the likeliest tokens is quicker."""
NARROW = 12
"""With at most so many bytes to choose from, what is allowed is usually found faster than guessed."""
INCOMPLETE = "constraint_incomplete"

_SCHEMA = "response_format.schema"


class Constraint:
    """One answer's way through a grammar. `BackendRefused` from any method if that is too ambiguous to follow.

    `markers` are control tokens that may come as the text given with them.
    """

    def __init__(
        self, program: Program, tokens: TokenBytes, ends: Collection[int], field: str, markers: Mapping[int, bytes]
    ) -> None:
        self._tokens = tokens
        self._markers = markers
        self._ends = ends
        self._field = field
        try:
            self._automaton = Automaton(program)
        except TooAmbiguous:
            raise InvalidRequest(
                f"{field}: its beginning can be read in too many ways at once", details={"field": field}
            ) from None
        self._automaton.most_work = self._automaton.work + MOST_WORK
        self._state = self._automaton.start

    def __repr__(self) -> str:
        return f"<Constraint by {self._field}, {self._state!r}>"

    @property
    def may_end(self) -> bool:
        """Whether what there is satisfies the grammar."""
        return self._state.may_end

    @property
    def finished(self) -> bool:
        """Whether it does, and nothing may follow."""
        return self._state.may_end and not self._state.bits

    @property
    def narrow(self) -> bool:
        """Whether there is little to choose from. By the state alone, so that the same seed gives the same answer."""
        return self._state.bits.bit_count() <= NARROW

    def allows(self, token: int) -> bool:
        if token in self._ends:
            return self._state.may_end
        piece = self._piece(token)
        try:
            return bool(piece) and self._automaton.read(self._state, piece) is not None
        except (TooAmbiguous, TooMuchWork):
            self._refuse()

    def allowed(self) -> Ids | None:
        """All that may come next; `None` where finding them takes long."""
        automaton = self._automaton
        automaton.most_work = automaton.work + LITTLE_WORK
        try:
            tokens = self._tokens.allowed(automaton, self._state)
        except TooMuchWork:
            return None
        except TooAmbiguous:
            self._refuse()
        finally:
            automaton.most_work = automaton.work + MOST_WORK
        others = [token for token in self._markers if self.allows(token)]
        others += sorted(self._ends) if self._state.may_end else []
        return numpy.append(tokens, numpy.array(others, numpy.int32))

    def accept(self, token: int) -> None:
        """Go on by a token that is allowed."""
        if token not in self._ends:
            after = self._automaton.read(self._state, self._piece(token))
            assert after is not None, "a token that is not allowed"
            self._state = after
        self._automaton.most_work = self._automaton.work + MOST_WORK

    def notices(self) -> list[Notice]:
        """What has to be said if the answer ends here."""
        if self.may_end:
            return []
        return [Notice(INCOMPLETE, f"the answer was cut off before it satisfied {self._field}: it is incomplete")]

    def _piece(self, token: int) -> bytes:
        return self._markers.get(token) or self._tokens[token]

    def _refuse(self) -> NoReturn:
        raise BackendRefused(
            f"{self._field}: the grammar is too ambiguous, the text so far can be read in too many ways",
            hint="rewrite it so that the next character tells which alternative it belongs to",
            details={"field": self._field},
        )


class Constraints:
    """Makes constraints for one vocabulary, whose tokens are sorted once, when the model is loaded."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokens = TokenBytes(map(vocabulary.piece, range(vocabulary.size)))
        self._ends = vocabulary.ends

    def __repr__(self) -> str:
        return f"<Constraints over {self._tokens!r}>"

    def of(self, options: GenerateOptions) -> Constraint | None:
        """What a request's options ask for; `WireError` naming what cannot be enforced."""
        if options.response_format is not None:
            deadline = Deadline(_SCHEMA)
            text = to_gbnf(options.response_format.schema, field=_SCHEMA, deadline=deadline)
            return self.by(text, _SCHEMA, deadline)
        return None if options.grammar is None else self.by(options.grammar)

    def by(
        self,
        grammar: str,
        field: str = "grammar",
        deadline: Deadline | None = None,
        markers: Mapping[int, bytes] | None = None,
    ) -> Constraint:
        """A constraint by GBNF text; errors name `field` as where it comes from."""
        deadline = deadline or Deadline(field)
        try:
            program = compile_grammar(parse(grammar, field), field, deadline)
            deadline.check()
            return Constraint(program, self._tokens, self._ends, field, markers or {})
        except RecursionError:
            raise InvalidRequest(f"{field}: nested too deeply", details={"field": field}) from None

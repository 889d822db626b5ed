"""A grammar as an automaton over bytes: what may come next, and what follows. Pure.

Theory. The rules become flat lists of positions: a position is a set of bytes or a reference to a rule. A stack is a
position and what comes after it, as a linked list whose nodes exist once, so that stacks are compared by identity.
A state is the set of all stacks that what was read so far can be at, each with a set of bytes on top; the empty stack
in it means that the text may end here. States exist once, too, and remember where each byte led: most bytes of an
answer cost one dictionary lookup.

Work is bounded. Left recursion, plain or behind what may be empty, is refused by `compile_grammar`, and so is a root
that no finite text satisfies. An ambiguous grammar can still make the number of stacks double with every byte: past
`MAX_STACKS` the text is refused with `TooAmbiguous`, and past what the caller allows it with `TooMuchWork`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from vestal.errors import InvalidRequest
from vestal_adapters.llamacpp.constraining.gbnf import Chars, Choice, Grammar, Item, Literal, Ref, Repeat
from vestal_adapters.llamacpp.constraining.utf8 import sequences
from vestal_adapters.llamacpp.deadline import Deadline

__all__ = ["MAX_STACKS", "Automaton", "Program", "State", "TooAmbiguous", "TooMuchWork", "compile_grammar"]

MAX_STACKS = 8192
MAX_POSITIONS = 200_000
MAX_STATES = 20_000
"""Remembered at once. They are only a memory: when it is full they are forgotten and made again."""


class TooAmbiguous(Exception):
    """A text that can be read in too many ways at once."""


class TooMuchWork(Exception):
    """More stacks would have to be looked at than the caller allowed."""


Element = int | frozenset[int]
"""Of a rule under construction: another rule's number, or a set of bytes."""


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled grammar. Positions of an alternative follow each other; `last` marks its end.

    `bytes_at` holds the set of a position as bits, 0 where `rule_at` refers to a rule; `starts` has for each rule the
    first position of each alternative, -1 for an empty one. Rule 0 is the root.
    """

    bytes_at: list[int]
    rule_at: list[int]
    last: list[bool]
    starts: list[tuple[int, ...]]

    def __repr__(self) -> str:
        return f"<Program of {len(self.starts)} rules, {len(self.bytes_at)} positions>"


def compile_grammar(grammar: Grammar, name: str = "grammar", deadline: Deadline | None = None) -> Program:
    """Flatten, check and lay out; `InvalidRequest` names a rule that is left-recursive or has no finite text."""
    deadline = deadline or Deadline(name)
    builder = _Builder(grammar, name, deadline)
    rules = builder.rules
    productive = _least(rules, lambda element, known: isinstance(element, frozenset) or element in known)
    if 0 not in productive:
        builder.refuse("no text that ends satisfies the rule", 0)
    rules = [_possible(rule, productive) for rule in rules]
    deadline.check()
    empty = _least(rules, lambda element, known: isinstance(element, int) and element in known)
    looping = _left_recursive(rules, empty)
    if looping is not None:
        builder.refuse("left recursion, or something repeated that may be empty, in the rule", looping)
    deadline.check()
    return _lay_out(rules)


class _Builder:
    """Repetitions and groups become rules of their own."""

    def __init__(self, grammar: Grammar, name: str, deadline: Deadline) -> None:
        self._name = name
        self._deadline = deadline
        self._names = ["root", *(rule for rule in grammar if rule != "root")]
        self._numbers = {rule: number for number, rule in enumerate(self._names)}
        self._classes: dict[Chars, int] = {}
        self._size = 0
        self.rules: list[list[tuple[Element, ...]]] = [[] for _ in self._names]
        for rule, number in self._numbers.items():
            self.rules[number] = self._options(grammar[rule], rule)

    def refuse(self, what: str, number: int) -> NoReturn:
        """Raise, naming the rule that the client wrote."""
        rule = self._names[number][:60]
        raise InvalidRequest(f"{self._name}: {what} `{rule}`", details={"field": self._name, "rule": rule})

    def _options(self, choice: Choice, owner: str) -> list[tuple[Element, ...]]:
        return [self._sequence(option, owner) for option in choice.options]

    def _sequence(self, items: tuple[Item, ...], owner: str) -> tuple[Element, ...]:
        elements: list[Element] = []
        for item in items:
            elements += self._elements(item, owner)
        self._grow(len(elements))
        return tuple(elements)

    def _elements(self, item: Item, owner: str) -> list[Element]:
        match item:
            case Literal(text):
                return [frozenset([byte]) for byte in text.encode()]
            case Ref(name):
                return [self._numbers[name]]
            case Chars():
                return [self._chars(item, owner)]
            case Choice():
                return [self._rule(self._options(item, owner), owner)]
            case Repeat(repeated, low, high):
                return self._repeat(self._elements(repeated, owner), low, high, owner)

    def _chars(self, chars: Chars, owner: str) -> Element:
        narrow = frozenset(byte for low, high in chars.ranges for byte in range(low, min(high, 0x7F) + 1))
        if chars.ranges[-1][1] <= 0x7F:
            return narrow
        if chars not in self._classes:
            wide = [
                tuple(frozenset(range(first, last + 1)) for first, last in sequence)
                for low, high in chars.ranges
                if high > 0x7F
                for sequence in sequences(max(low, 0x80), high)
            ]
            self._classes[chars] = self._rule([(narrow,), *wide] if narrow else list(wide), owner)
        return self._classes[chars]

    def _repeat(self, elements: list[Element], low: int, high: int | None, owner: str) -> list[Element]:
        """`low` times, then a rule for the rest: `rest ::= item rest | ""` without end, else a chain of such."""
        if not elements or high == 0:
            return []
        item: list[Element] = elements if len(elements) == 1 else [self._rule([tuple(elements)], owner)]
        if high is None:
            rest = self._reserve(owner)
            self.rules[rest] = [(*item, rest), ()]
            return [*item * low, rest]
        tail: list[Element] = []
        for _ in range(high - low):
            tail = [self._rule([(*item, *tail), ()], owner)]
        return [*item * low, *tail]

    def _rule(self, options: list[tuple[Element, ...]], owner: str) -> int:
        number = self._reserve(owner)
        self.rules[number] = options
        self._grow(sum(map(len, options)))
        return number

    def _reserve(self, owner: str) -> int:
        self._names.append(owner)
        self.rules.append([])
        return len(self.rules) - 1

    def _grow(self, positions: int) -> None:
        self._size += positions + 1
        self._deadline.check()
        if self._size > MAX_POSITIONS:
            raise InvalidRequest(
                f"{self._name}: written out it is longer than {MAX_POSITIONS:,} characters and references",
                details={"field": self._name, "limit": MAX_POSITIONS},
            )


_Rules = list[list[tuple[Element, ...]]]


def _least(rules: _Rules, holds: Callable[[Element, set[int]], bool]) -> set[int]:
    """The rules with an alternative all of whose elements hold, given those rules: the least fixed point.

    Each alternative waits for one element at a time that does not hold yet, so the whole is linear.
    """
    known: set[int] = set()
    waiting: dict[int, list[tuple[int, tuple[Element, ...], int]]] = {}
    todo = [(number, option, 0) for number, options in enumerate(rules) for option in options]
    while todo:
        number, option, at = todo.pop()
        if number in known:
            continue
        while at < len(option) and holds(option[at], known):
            at += 1
        if at == len(option):
            known.add(number)
            todo += waiting.pop(number, ())
        elif isinstance(blocking := option[at], int):
            waiting.setdefault(blocking, []).append((number, option, at))
    return known


def _possible(rule: list[tuple[Element, ...]], productive: set[int]) -> list[tuple[Element, ...]]:
    """Without the alternatives that could never be finished: a model that began one would be stuck."""
    return [option for option in rule if all(isinstance(part, frozenset) or part in productive for part in option)]


def _left_recursive(rules: _Rules, empty: set[int]) -> int | None:
    """A rule that can come to itself before anything is read; `None` if there is none."""
    before = [_leftmost(rule, empty) for rule in rules]
    state = [0] * len(rules)  # 1 while its own are looked at, 2 when done
    for root in range(len(rules)):
        path = [(root, iter(before[root]))] if state[root] == 0 else []
        state[root] = state[root] or 1
        while path:
            number, parts = path[-1]
            part = next(parts, None)
            if part is None:
                state[number] = 2
                path.pop()
            elif state[part] == 1:
                return part
            elif state[part] == 0:
                state[part] = 1
                path.append((part, iter(before[part])))
    return None


def _leftmost(rule: list[tuple[Element, ...]], empty: set[int]) -> list[int]:
    found: dict[int, None] = {}
    for option in rule:
        for part in option:
            if isinstance(part, frozenset):
                break
            found[part] = None
            if part not in empty:
                break
    return list(found)


def _lay_out(rules: _Rules) -> Program:
    program = Program([], [], [], [])
    for rule in rules:
        starts = []
        for option in rule:
            starts.append(len(program.last) if option else -1)
            for part in option:
                program.bytes_at.append(sum(1 << byte for byte in part) if isinstance(part, frozenset) else 0)
                program.rule_at.append(part if isinstance(part, int) else -1)
                program.last.append(False)
            if option:
                program.last[-1] = True
        program.starts.append(tuple(starts))
    return program


class _Node:
    """A stack: the position on top, and what is below; `None` below is the end."""

    __slots__ = ("below", "position")

    def __init__(self, position: int, below: _Node | None) -> None:
        self.position = position
        self.below = below


class State:
    """Where a text can be. `may_end` if it may end here, `bits` are the bytes that may come next."""

    __slots__ = ("bits", "following", "may_end", "stacks")

    def __init__(self, stacks: frozenset[_Node | None], bits: int) -> None:
        self.stacks = stacks
        self.bits = bits
        self.may_end = None in stacks
        self.following: dict[int, State | None] = {}

    def __repr__(self) -> str:
        return f"<State of {len(self.stacks)} stacks, {self.bits.bit_count()} bytes may come>"


class Automaton:
    """Runs one program; one to an answer. `work` counts the stacks that were looked at, up to `most_work`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._nodes: dict[tuple[int, _Node | None], _Node] = {}
        self._states: dict[frozenset[_Node | None], State] = {}
        self.work = 0
        self.most_work = 1 << 62
        stacks: set[_Node | None] = set()
        for start in program.starts[0]:
            self._expand(None if start < 0 else self._node(start, None), stacks)
        self.start = self._state(stacks)

    def __repr__(self) -> str:
        return f"<Automaton with {len(self._states)} states of {self._program!r}>"

    def step(self, state: State, byte: int) -> State | None:
        """The state after one more byte; `None` if that may not come. `TooAmbiguous` past `MAX_STACKS`."""
        try:
            return state.following[byte]
        except KeyError:
            after = state.following[byte] = self._after(state, byte) if state.bits >> byte & 1 else None
            return after

    def read(self, state: State, data: bytes) -> State | None:
        """The state after all of `data`."""
        now: State | None = state
        for byte in data:
            now = self.step(state, byte)
            if now is None:
                return None
            state = now
        return now

    def _after(self, state: State, byte: int) -> State:
        if self.work > self.most_work:
            raise TooMuchWork
        program, stacks = self._program, set[_Node | None]()
        for node in state.stacks:
            if node is not None and program.bytes_at[node.position] >> byte & 1:
                self._expand(self._next(node), stacks)
        self.work += len(state.stacks)
        return self._state(stacks)

    def _next(self, node: _Node) -> _Node | None:
        position = node.position
        return node.below if self._program.last[position] else self._node(position + 1, node.below)

    def _expand(self, node: _Node | None, stacks: set[_Node | None]) -> None:
        """Add to `stacks` what `node` can become until a set of bytes is on top."""
        program, todo, seen = self._program, [node], {node}
        while todo:
            node = todo.pop()
            if node is None or program.rule_at[node.position] < 0:
                stacks.add(node)
                continue
            rest = self._next(node)
            for start in program.starts[program.rule_at[node.position]]:
                inner = rest if start < 0 else self._node(start, rest)
                if inner not in seen:
                    seen.add(inner)
                    todo.append(inner)
            if len(seen) > MAX_STACKS:
                raise TooAmbiguous
        self.work += len(seen)
        if len(stacks) > MAX_STACKS:
            raise TooAmbiguous

    def _node(self, position: int, below: _Node | None) -> _Node:
        key = (position, below)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = _Node(position, below)
        return node

    def _state(self, stacks: set[_Node | None]) -> State:
        key = frozenset(stacks)
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= MAX_STATES:
                self._forget()
            bits = 0
            for node in key:
                bits |= 0 if node is None else self._program.bytes_at[node.position]
            state = self._states[key] = State(key, bits)
        return state

    def _forget(self) -> None:
        """States still in use go on; what they led to is worked out again."""
        for state in self._states.values():
            state.following.clear()
        self._states.clear()
        self._nodes.clear()

"""Texts that a grammar lets through, at random: a derivation from its rules, without the automaton."""

from __future__ import annotations

import random

from vestal_adapters.llamacpp.constraining.gbnf import Chars, Choice, Grammar, Item, Literal, Ref, Repeat, parse

__all__ = ["Derivation"]

FAR = 10**6


class Derivation:
    """Draws texts from a grammar; past `room` derived items it takes the shortest way to an end."""

    def __init__(self, text: str, seed: int, room: int = 200) -> None:
        self._grammar: Grammar = parse(text)
        self._random = random.Random(seed)
        self._room = room
        self._left = room
        self._cost = dict.fromkeys(self._grammar, FAR)
        for _ in self._grammar:
            self._cost |= {name: min(FAR, 1 + self._price(rule)) for name, rule in self._grammar.items()}

    def text(self) -> str:
        self._left = self._room
        return self._derive(self._grammar["root"])

    def _derive(self, item: Item) -> str:
        self._left -= 1
        match item:
            case Literal(text):
                return text
            case Chars(ranges):
                low, high = self._random.choice(ranges)
                return chr(self._random.randint(low, min(high, low + 200)))
            case Ref(name):
                return self._derive(self._grammar[name])
            case Choice(options):
                ending = [option for option in options if self._sum(option) < FAR] or options
                option = min(options, key=self._sum) if self._left < 0 else self._random.choice(ending)
                return "".join(map(self._derive, option))
            case Repeat(repeated, low, high):
                most = low + self._random.choice([0, 1, 3]) if high is None else high
                endless = self._price(repeated) >= FAR
                count = low if self._left < 0 or endless else self._random.randint(low, min(most, low + 10))
                return "".join(self._derive(repeated) for _ in range(count))

    def _price(self, item: Item) -> int:
        match item:
            case Ref(name):
                return self._cost[name]
            case Choice(options):
                return min(map(self._sum, options))
            case Repeat(repeated, low, _):
                return low * self._price(repeated)
            case _:
                return 0

    def _sum(self, option: tuple[Item, ...]) -> int:
        return sum(map(self._price, option))

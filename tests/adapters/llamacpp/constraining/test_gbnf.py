"""Grammars: what is refused before anything is compiled, and that what is not means what llama.cpp says it means."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapters.llamacpp.derivation import Derivation
from vestal.errors import InvalidRequest, Unsupported, WireError
from vestal_adapters.llamacpp.constraining.automaton import (
    MAX_STACKS,
    Automaton,
    TooAmbiguous,
    TooMuchWork,
    compile_grammar,
)
from vestal_adapters.llamacpp.constraining.gbnf import MAX_ALTERNATIONS, MAX_DEPTH, parse
from vestal_adapters.llamacpp.constraining.utf8 import sequences

JSON = r"""
# llama.cpp's own json.gbnf
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

# Optional space: by convention, applied in this grammar after literal chars when allowed
ws ::= | " " | "\n" [ \t]{0,20}
"""

WRONG = [
    ("", "no rule `root`"),
    ('start ::= "a"', "no rule `root`"),
    ("root ::= other", "`other` is not defined"),
    ('root ::= "a"\nroot ::= "b"', "defined twice"),
    ('root ::= "a', "ends too early"),
    ('root ::= "a" )', "is not expected"),
    ('root ::= ("a"', "not closed"),
    ("root ::= []", "holds no character"),
    ("root ::= [\\x00]", "holds no character"),
    ("root ::= [z-a]", "holds nothing"),
    ('root ::= "\\q"', "escape"),
    ('root ::= "\\x4"', "escape"),
    ('root ::= "\\UFFFFFFFF"', "no character"),
    ('root ::= "\\x00"', "U\\+0000"),
    ('root ::= "\\uD800"', "U\\+D800"),
    ("root ::= *", "nothing before it"),
    ('root ::= "a"{5,2}', "from 5 down to 2"),
    ('root ::= "a"{x}', "expected a number"),
    ('root ::= "a"{99999999999999999999}', "20 digits"),
    ('root ::= "a"**', "behind a repetition"),
    ("root = 3", "expected ::="),
    ("::= 3", "expected a rule's name"),
    ("root ::= root", "no text that ends"),
    ('root ::= root "a" | "b"', "left recursion.*`root`"),
    ('root ::= a "x"\na ::= b\nb ::= a "c" | "d"', "left recursion"),
    ('root ::= x\nx ::= y x "c" | "d"\ny ::= z z\nz ::= "e"?', "left recursion.*`x`"),
    ('root ::= ("a"* "b"*)*', "left recursion, or something repeated that may be empty"),
    ('root ::= "a" more\nmore ::= "b" more', "no text that ends"),
]


@pytest.mark.parametrize(("grammar", "reason"), WRONG, ids=[repr(grammar[:40]) for grammar, _ in WRONG])
def test_a_wrong_grammar_is_refused_with_the_reason(grammar: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as wrong:
        compile_grammar(parse(grammar))
    assert wrong.value.details["field"] == "grammar"
    assert len(str(wrong.value)) < 400


def test_a_token_cannot_be_named() -> None:
    for reference in ("<[7]>", "<think>", "!<[7]>"):
        with pytest.raises(Unsupported, match="tokens"):
            parse(f"root ::= {reference}")


def test_an_error_says_where() -> None:
    with pytest.raises(InvalidRequest, match="line 3, column 13"):
        parse('root ::= a\n\na ::= "x" | ]\n')


LIMITS: list[tuple[str, str, int, int]] = [
    ('root ::= "' + "a" * 70_000 + '"', "bytes", 70_011, 65_536),
    ('root ::= "é"' + " " * 65_530, "bytes", 65_543, 65_536),
    ("root ::= " + " | ".join(["[a]"] * 4097), "alternations", 4097, MAX_ALTERNATIONS),
    ('root ::= "a"{4097}', "alternations", 4097, MAX_ALTERNATIONS),
    ('root ::= "a"{0,999999999}', "alternations", 999_999_999, MAX_ALTERNATIONS),
    ('root ::= ((("a"{100}){100}){100}){100}', "alternations", 10**8, MAX_ALTERNATIONS),
    ('root ::= (("a" | "b"){50} "c"){50}', "alternations", 5000, MAX_ALTERNATIONS),
    ("root ::= " + "(" * 33 + '"a"' + ")" * 33, "brackets inside each other", 33, MAX_DEPTH),
]


@pytest.mark.parametrize(("grammar", "what", "count", "limit"), LIMITS, ids=[f"{w}-{c}" for _, w, c, _ in LIMITS])
def test_limits_are_arithmetic(grammar: str, what: str, count: int, limit: int) -> None:
    begun = time.process_time()
    with pytest.raises(InvalidRequest) as over:
        parse(grammar)
    assert over.value.details == {"field": "grammar", "count": count, "limit": limit, "of": what}
    assert time.process_time() - begun < 1


def test_left_corners_that_double_are_refused_and_not_tried() -> None:
    """Each rule begins with the next in two ways: llama.cpp's check for left recursion takes 2^60 steps."""
    lines = [f'r{n} ::= r{n + 1} "a" | r{n + 1} "b"' for n in range(60)]
    program = compile_grammar(parse("\n".join(["root ::= r0", *lines, 'r60 ::= "x"'])))
    with pytest.raises(TooAmbiguous):
        Automaton(program)


def test_ways_to_read_a_text_that_double_with_each_character_are_refused() -> None:
    automaton = Automaton(compile_grammar(parse('root ::= "a" root "b" | "a" root "c" | ""')))
    with pytest.raises(TooAmbiguous):
        automaton.read(automaton.start, b"a" * 40)
    assert automaton.work < 10 * MAX_STACKS


def test_a_caller_can_bound_the_work() -> None:
    automaton = Automaton(compile_grammar(parse("root ::= [a-z]{2000}")))
    automaton.most_work = automaton.work + 100
    with pytest.raises(TooMuchWork):
        automaton.read(automaton.start, b"a" * 2000)


def test_states_are_forgotten_and_the_text_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestal_adapters.llamacpp.constraining.automaton.MAX_STATES", 5)
    automaton = Automaton(compile_grammar(parse('root ::= "[" root* "]" | [0-9]{1,30}')))
    state = automaton.read(automaton.start, b"[" * 50 + b"1234567" + b"]" * 50)
    assert state is not None and state.may_end and not state.bits
    assert len(automaton._states) <= 6


def test_alternatives_that_never_end_are_left_out() -> None:
    automaton = Automaton(compile_grammar(parse('root ::= "a" x | "b"\nx ::= "c" x')))
    assert automaton.read(automaton.start, b"a") is None
    assert automaton.read(automaton.start, b"b") is not None


def _accepts(grammar: str, text: str | bytes) -> bool:
    automaton = Automaton(compile_grammar(parse(grammar)))
    state = automaton.read(automaton.start, text if isinstance(text, bytes) else text.encode())
    return state is not None and state.may_end


MEANINGS: list[tuple[str, list[str], list[str]]] = [
    ('root ::= "a" | "b" # or\n', ["a", "b"], ["", "c", "ab"]),
    ("root ::= [a-c-]{2,3}", ["a-", "abc"], ["a", "abca", "d"]),
    ('root ::= [^"\\\\\\x00-\\x1f]+', ["aé€😀"], ["", '"', "\n"]),
    ('root ::= ("ab")? "c"* .', ["x", "abccx", "é"], ["", "abcxx"]),
    ('root ::= "ab"{2}', ["abab"], ["abb", "ab"]),
    ('root ::= "\\u00e9\\x41\\U0001F600\\t\\"\\\\"', ['éA😀\t"\\'], ["e"]),
    ('root ::=\n  "a"\n', ["a"], []),
    ('root ::= ("a"\n  "b" | # first\n "c")\n\nx ::= "y"', ["ab", "c"], ["a"]),
    ('root ::= "a"{0} "b"', ["b"], ["ab"]),
    ('root ::= "a"{0,2}', ["", "a", "aa"], ["aaa"]),
    ("root ::= [à-ü]", ["é"], ["e", "ÿ"]),
    ('root ::= ""', [""], ["a"]),
]


@pytest.mark.parametrize(("grammar", "valid", "invalid"), MEANINGS, ids=[repr(g[:30]) for g, _, _ in MEANINGS])
def test_what_a_grammar_means(grammar: str, valid: list[str], invalid: list[str]) -> None:
    assert all(_accepts(grammar, text) for text in valid)
    assert not any(_accepts(grammar, text) for text in invalid)


def test_llama_cpps_own_json_grammar_is_read() -> None:
    assert _accepts(JSON, '{"a": [1, 2.5e3, true, null, "é\\n"], "b": {}}')
    assert not _accepts(JSON, '{"a": }')
    for seed in range(50):
        assert _accepts(JSON, Derivation(JSON, seed).text())


def test_bytes_that_are_no_utf_8_are_no_character() -> None:
    for data in (b"\xff", b"\xc0\x80", b"\xe0\x80\x80", b"\xe0\x82\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3"):
        assert not _accepts("root ::= .", data)


@given(st.tuples(st.integers(0x80, 0x10FFFF), st.integers(0x80, 0x10FFFF)).map(sorted), st.characters())
def test_ranges_of_characters_become_ranges_of_bytes(bounds: list[int], char: str) -> None:
    low, high = bounds
    for first, last in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)):
        if first <= last:
            found = [
                sequence
                for sequence in sequences(first, last)
                if len(sequence) == len(data := char.encode())
                and all(a <= byte <= b for (a, b), byte in zip(sequence, data, strict=True))
            ]
            assert len(found) == (first <= ord(char) <= last)


ALPHABET = [
    '"a"',
    '"b"',
    "[a-c]",
    "[^b]",
    ".",
    "x",
    "y",
    "root",
    "(",
    ")",
    "|",
    "*",
    "+",
    "?",
    "{2}",
    "{0,3}",
    "{1,}",
    " ",
]


@st.composite
def _grammars(draw: st.DrawFn) -> str:
    def body() -> str:
        return " ".join(draw(st.lists(st.sampled_from(ALPHABET), max_size=8)))

    return f'root ::= {body()}\nx ::= {body()}\ny ::= "a" {body()}'


@settings(max_examples=500, deadline=None)
@given(_grammars(), st.integers(0, 99))
def test_what_can_be_derived_is_accepted(grammar: str, seed: int) -> None:
    try:
        program = compile_grammar(parse(grammar))
    except InvalidRequest:
        return
    automaton, derivation = Automaton(program), Derivation(grammar, seed, room=30)
    for _ in range(3):
        state = automaton.read(automaton.start, derivation.text().encode())
        assert state is not None and state.may_end


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('rotx:=|()[]{}*+?.^-"\\ \n09,#é<>'), max_size=60))
def test_any_text_is_a_grammar_or_refused(text: str) -> None:
    for grammar in (text, f"root ::= {text}"):
        try:
            Automaton(compile_grammar(parse(grammar)))
        except (WireError, TooAmbiguous):
            continue


# In a process of its own: what ends it, or keeps it from ending, is seen from outside.
FUZZ = """
import random, sys, time
from vestal.errors import WireError
from vestal_adapters.llamacpp.constraining.automaton import Automaton, TooAmbiguous, TooMuchWork, compile_grammar
from vestal_adapters.llamacpp.constraining.gbnf import parse
from tests.adapters.llamacpp.constraining.test_gbnf import ALPHABET, JSON, mutated
draw, slowest, compiled = random.Random(int(sys.argv[1])), 0.0, 0
for number in range(4000):
    begun = time.process_time()
    try:
        automaton = Automaton(compile_grammar(parse(mutated(draw))))
        automaton.most_work = automaton.work + 50_000
        compiled += 1
        automaton.read(automaton.start, bytes(draw.choices(b'ab{}"[0', k=40)))
    except (WireError, TooAmbiguous, TooMuchWork):
        pass
    slowest = max(slowest, time.process_time() - begun)
print(compiled, slowest)
"""


def mutated(draw: random.Random) -> str:
    """A grammar that was right once, or never."""
    if draw.random() < 0.5:
        rules = (" ".join(draw.choices(ALPHABET, k=draw.randint(0, 12))) for _ in range(3))
        return "\n".join(f"{name} ::= {body}" for name, body in zip(("root", "x", "y"), rules, strict=True))
    chars = list(JSON)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(chars))
        chars[at : at + draw.randint(0, 1)] = draw.choice(
            [[], [draw.choice('"[](){}*+?|\\^-.\n:=0é\x00')], draw.choices(JSON, k=20), [draw.choice(JSON)]]
        )
    return "".join(chars)


def test_thousands_of_broken_grammars_neither_end_nor_hold_up_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FUZZ, "7"], capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr[-2000:]
    compiled, slowest = done.stdout.split()
    assert int(compiled) > 100
    assert float(slowest) < 2

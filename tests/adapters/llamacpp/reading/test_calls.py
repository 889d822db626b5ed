"""Calls of tools in an answer's text, in the syntax of each family, however the text is cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal_adapters.llamacpp.families import FAMILIES, Call, Family
from vestal_adapters.llamacpp.families.hermes import Hermes
from vestal_adapters.llamacpp.families.llama import Llama
from vestal_adapters.llamacpp.families.mistral import MistralArgs, MistralList
from vestal_adapters.llamacpp.reading.calls import CallSplitter
from vestal_adapters.llamacpp.reading.spans import Span

TOOLS = ("f", "get_weather")
F = Call("f", {"x": 1})
HERMES = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
LLAMA = '{"name": "f", "parameters": {"x": 1}}'
MISTRAL = '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}]'
MISTRAL_ARGS = '[TOOL_CALLS]f[ARGS]{"x": 1}'


def split(family: Family, pieces: Iterable[str]) -> tuple[list[str | Call], list[str]]:
    """Text and calls in order, neighbouring text joined, and the flaws."""
    splitter = CallSplitter(family, TOOLS)
    spans: list[Span] = []
    fed = 0
    for piece in pieces:
        spans += splitter.feed(piece)
        fed += len(piece)
    spans += splitter.finish()
    assert sum(span.width for span in spans) == fed, "every character is accounted for"
    return joined(spans), [span.text for span in spans if span.kind == "flaw"]


def joined(spans: Sequence[Span]) -> list[str | Call]:
    parts: list[str | Call] = []
    for span in spans:
        if span.call is not None:
            parts.append(span.call)
        elif span.kind == "text" and parts and isinstance(parts[-1], str):
            parts[-1] += span.text
        elif span.kind == "text":
            parts.append(span.text)
    return parts


def parse(family: Family, text: str) -> list[str | Call]:
    """However it is cut; nothing has to be said about it."""
    parts, flaws = split(family, [text])
    assert flaws == []
    assert split(family, text) == (parts, flaws)
    return parts


# --- each family's calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "text", "parts"),
    [
        (Hermes(), HERMES, [F]),
        (Hermes(), '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>', [F]),
        (Hermes(), f"Let me see.\n{HERMES}\n{HERMES}", ["Let me see.", F, F]),
        (Hermes(), f"{HERMES}\n\nDone.", [F, "\n\nDone."]),
        (Hermes(), HERMES.removesuffix("\n</tool_call>"), [F]),
        (Hermes(), HERMES.removesuffix("call>"), [F]),
        (Hermes(), '<tool_call>{"name": "f"}</tool_call>', [Call("f", {})]),
        (Hermes(), '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', [F]),
        (Hermes(), '<tool_call>{"arguments": {"a": "}\\"{"}, "name": "f"}</tool_call>', [Call("f", {"a": '}"{'})]),
        (Hermes(), '<tool_call>{"name":"f","arguments":{"a":"one\ntwo"}}</tool_call>', [Call("f", {"a": "one\ntwo"})]),
        (Llama(), LLAMA, [F]),
        (Llama(), f"\n{LLAMA}", [F]),
        (Llama(), f"<|python_tag|>{LLAMA}", [F]),
        (Llama(), f"<|python_tag|>{LLAMA}; {LLAMA}", [F, F]),
        (Llama(), f"{LLAMA}\n{LLAMA}", [F, F]),
        (Llama(), '{"type": "function", "name": "f", "parameters": {"x": 1}}', [F]),
        (Llama(), f"so <|python_tag|>{LLAMA}", ["so", F]),
        (MistralList(), MISTRAL, [F]),
        (MistralList(), '[TOOL_CALLS][{"name":"f","arguments":{"x":1},"id":"1"},{"name":"f"}]', [F, Call("f", {})]),
        (MistralList(), MISTRAL_ARGS, [F]),
        (MistralArgs(), MISTRAL_ARGS * 2, [F, F]),
        (MistralArgs(), '[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"x": 1}', [F]),
        (MistralArgs(), f"Well. {MISTRAL}", ["Well.", F]),
    ],
)
def test_a_call_comes_out_whole_and_the_text_around_it_stays(family: Family, text: str, parts: list[Any]) -> None:
    assert parse(family, text) == parts


@pytest.mark.parametrize("family", [*FAMILIES, MistralArgs()])
def test_what_a_family_enforces_it_can_read(family: Family) -> None:
    syntax = family.syntax
    call = f'{syntax.before}f{syntax.between}{{"x": 1}}{syntax.after}'
    assert parse(family, f"{syntax.begin}{call}{syntax.end}") == [F]
    if syntax.separator is not None:
        assert parse(family, f"{syntax.begin}{call}{syntax.separator}{call}{syntax.end}") == [F, F]


# --- text that is none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (Hermes(), "a < b <tool <tool_cal <tool_call"),
        (Hermes(), "if (a <b) {} \n\n"),
        (Hermes(), " \n"),
        (Hermes(), LLAMA),
        (Llama(), '{"city": "Rome", "name": "x"}'),
        (Llama(), '{"name": "x"}'),
        (Llama(), "{}"),
        (Llama(), f"Call it so: {LLAMA}"),
        (Llama(), "{not json}; {"),
        (MistralList(), "[TOOL_CALL] [TOOL [1, 2]"),
    ],
)
def test_text_that_only_looks_like_a_call_is_text(family: Family, text: str) -> None:
    assert parse(family, text) == [text]


@pytest.mark.parametrize(
    ("family", "text", "why"),
    [
        (Hermes(), '<tool_call>{"name": "f", "arguments": oops}</tool_call>', "syntax"),
        (Hermes(), "<tool_call> is a tag", "syntax"),
        (Hermes(), '<tool_call>{"name": "f", "argu', "not complete"),
        (Hermes(), '<tool_call>{"name": "nonesuch", "arguments": {}}</tool_call>', "names no tool"),
        (Hermes(), '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "no JSON object"),
        (Hermes(), '<tool_call>{"name": "f", "arguments": "x"}</tool_call>', "not JSON"),
        (Hermes(), '<tool_call>{"arguments": {}}</tool_call>', "no name"),
        (Hermes(), '<tool_call>{"name": "f", "arguments": {"x": 1e999}}</tool_call>', "cannot be sent"),
        (Hermes(), '<tool_call>{"name": "f", "arguments": {"x": 99999999999999999999}}</tool_call>', "cannot be sent"),
        (Hermes(), '<tool_call>{"name": "f", "arguments": {"x": "\\ud800"}}</tool_call>', "cannot be sent"),
        (Hermes(), '<tool_call>{"name":"f","arguments":{"x":' + "9" * 5000 + "}}</tool_call>", "cannot be read"),
        (Hermes(), "<tool_call>" + '{"a":' * 70, "syntax"),
        (Llama(), "<|python_tag|>print(1)", "syntax"),
        (Llama(), '{"name": "nonesuch", "parameters": {}}', "names no tool"),
        (MistralList(), "[TOOL_CALLS] []", "empty"),
        (MistralList(), '[TOOL_CALLS] [{"name": "f"', "not complete"),
        (MistralArgs(), "[TOOL_CALLS]f[ARGS][1]", "syntax"),
    ],
)
def test_a_call_that_cannot_be_read_is_text_and_its_flaw_is_told(family: Family, text: str, why: str) -> None:
    for pieces in ([text], text):
        parts, (flaw,) = split(family, pieces)
        assert parts == [text]
        assert why in flaw


def test_a_call_after_one_that_cannot_be_read_is_found() -> None:
    broken = '<tool_call>{"name": "f", '
    parts, flaws = split(Hermes(), [broken + HERMES])
    assert parts == [broken.rstrip(), F]
    assert len(flaws) == 1


def test_text_is_held_back_only_while_it_can_still_become_a_call() -> None:
    splitter = CallSplitter(Llama(), TOOLS)
    assert splitter.feed('{"city') == []
    assert joined(splitter.feed('"')) == ['{"city"']
    assert joined(splitter.feed(': "Rome"}')) == [': "Rome"}']
    splitter = CallSplitter(Hermes(), TOOLS)
    assert joined(splitter.feed("a \n<tool_c")) == ["a"]
    assert joined(splitter.feed("at")) == [" \n<tool_cat"]


# --- any text, any cut ----------------------------------------------------------------------------------------

FRAGMENTS = (
    *(HERMES, LLAMA, MISTRAL, MISTRAL_ARGS, "<tool_call>", "</tool_call>", "<tool_", "<|python_tag|>", "[TOOL_CALLS]"),
    *("[ARGS]", "[", "]", "{", "}", '"', '{"name": "f"', ', "arguments": {}', '{"name"', ": ", "1", "-", "1.5e", "\\"),
    *("true", "tru", "null", ";", " ", "\n", "text", "é", "f", "<", ","),
)
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


def cut(text: str, places: Iterable[int]) -> list[str]:
    borders = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


@pytest.mark.parametrize("family", [*FAMILIES, MistralArgs()])
@settings(deadline=None)
@given(text=texts, places=st.lists(st.integers(0, 1000), max_size=8))
def test_the_same_comes_out_wherever_the_text_is_cut(family: Family, text: str, places: list[int]) -> None:
    assert split(family, cut(text, places)) == split(family, [text]) == split(family, text)


@pytest.mark.parametrize("family", [*FAMILIES, MistralArgs()])
@settings(deadline=None)
@given(text=texts)
def test_no_text_is_lost(family: Family, text: str) -> None:
    """What is not in a call is in the text, in order; all that may go with a call is white space."""
    parts, _ = split(family, [text])
    rest = text
    for part in parts:
        if isinstance(part, str):
            assert part in rest
            rest = rest[rest.index(part) + len(part) :]
    if not any(isinstance(part, Call) for part in parts):
        assert "".join(map(str, parts)) == text

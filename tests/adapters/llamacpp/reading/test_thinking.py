"""Thinking between tags, however the text is cut, and what turns it off."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal.errors import Unsupported
from vestal_adapters.llamacpp.reading.spans import Span
from vestal_adapters.llamacpp.reading.thinking import Tags, ThinkingSplitter, effort, find_tags

TAGS = find_tags("<think>")
assert TAGS is not None


def split(pieces: Iterable[str], *, opened: bool = False) -> tuple[str, str]:
    """The thinking and the text."""
    assert TAGS is not None
    splitter = ThinkingSplitter(TAGS, opened=opened)
    spans: list[Span] = []
    fed = 0
    for piece in pieces:
        spans += splitter.feed(piece)
        fed += len(piece)
    spans += splitter.finish()
    assert sum(span.width for span in spans) == fed, "every character is accounted for"
    kinds = [span.kind for span in spans if span.kind != "skip"]
    assert kinds == sorted(kinds, reverse=True), "thinking comes first"
    return tuple("".join(span.text for span in spans if span.kind == kind) for kind in ("thinking", "text"))  # type: ignore[return-value]  # two


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer"),
    [
        ("<think>\nhm, hm\n</think>\n\nYes.", False, "hm, hm", "Yes."),
        ("\n<think>hm</think>Yes. ", False, "hm", "Yes. "),
        ("hm\n</think>\n\nYes.", True, "hm", "Yes."),
        ("<think>\n\n</think>\n\nYes.", False, "", "Yes."),
        ("</think>Yes.", True, "", "Yes."),
        ("<think>hm", False, "hm", ""),
        ("a < b </thin", True, "a < b </thin", ""),
        ("a </th b</think> c", True, "a </th b", "c"),
        ("Yes. <think>no</think>", False, "", "Yes. <think>no</think>"),
        (" Yes.", False, "", " Yes."),
        ("<thin", False, "", "<thin"),
        ("<thinking>", False, "", "<thinking>"),
        ("<think>a</think>b<think>c</think>d", False, "a", "b<think>c</think>d"),
        ("", True, "", ""),
    ],
)
def test_thinking_is_parted_from_the_answer(text: str, opened: bool, thinking: str, answer: str) -> None:
    for pieces in ([text], text):
        assert split(pieces, opened=opened) == (thinking, answer)


FRAGMENTS = ("<think>", "</think>", "<", "/", "think>", "</th", " ", "\n", "hm", "é")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=10).map("".join),
    st.lists(st.integers(0, 100), max_size=6),
    st.booleans(),
)
def test_the_same_comes_out_wherever_the_text_is_cut(text: str, places: list[int], opened: bool) -> None:
    borders = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    pieces = [text[start:end] for start, end in pairwise(borders)]
    assert split(pieces, opened=opened) == split([text], opened=opened)


def test_thinking_streams() -> None:
    assert TAGS is not None
    splitter = ThinkingSplitter(TAGS, opened=True)
    assert [span.text for span in splitter.feed("I think")] == ["I think"]
    assert splitter.feed(" </") == []
    assert [span.text for span in splitter.feed("T")] == [" </T"]


@pytest.mark.parametrize(
    ("prompt", "source", "closing"),
    [
        ("user: x\nbot: <think>\n", "<think>", "\n</think>\n\n"),
        ("user: x\nbot: <think>\n\n</think>\n\n", "<think> enable_thinking", ""),
        ("system: /no_think\nbot:", "<think> enable_thinking", ""),
        ("bot:", "</think>", "<think>\n\n</think>\n\n"),
    ],
)
def test_thinking_is_turned_off_at_the_end_of_the_prompt(prompt: str, source: str, closing: str) -> None:
    assert isinstance(TAGS, Tags)
    assert TAGS.closing(prompt, source) == closing


def test_tags_of_which_it_is_not_known_are_not_closed() -> None:
    tags = find_tags("[THINK]")
    assert tags is not None
    assert tags.closing("bot:", "[THINK]") is None


def test_a_template_without_tags_is_of_a_model_that_does_not_think() -> None:
    assert find_tags("{{ messages[0].content }}") is None


@pytest.mark.parametrize(
    ("source", "thinking", "variables"),
    [
        ("", "auto", {}),
        ("", "off", {"enable_thinking": False}),
        ("reasoning_effort", "low", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("reasoning_effort", "high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_what_the_template_is_told(source: str, thinking: Any, variables: dict[str, Any]) -> None:
    assert effort(source, thinking) == variables


@pytest.mark.parametrize(("source", "thinking"), [("", "low"), ("reasoning_effort", "xhigh"), ("", "minimal")])
def test_a_level_that_the_template_does_not_know_is_refused(source: str, thinking: Any) -> None:
    with pytest.raises(Unsupported, match=thinking) as caught:
        effort(source, thinking)
    assert caught.value.details["option"] == "thinking"

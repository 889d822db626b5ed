"""What the echo says, without a backend around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.backend import CountRequest, EndEvent, GenerateRequest, GenerateRequestV2
from vestal.errors import BackendRefused
from vestal.values import (
    GenerateOptions,
    ImageBlock,
    Message,
    MessageV2,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    Usage,
)
from vestal_adapters.echo.options import Fault
from vestal_adapters.echo.script import Script, count_words, script_of, tokens_of

NONE = Fault()
words = st.text(st.sampled_from("ab \t\n\u3000\x1c"), max_size=40)


def ask(text: str, stop: list[str] | None = None, max_tokens: int | None = None) -> GenerateRequest:
    return GenerateRequest(
        messages=[Message("user", text)], options=GenerateOptions(stop=stop or [], max_tokens=max_tokens)
    )


def said(script: Script) -> str:
    return "".join(script.pieces)


def end_of(script: Script) -> EndEvent:
    assert isinstance(script.end, EndEvent)
    return script.end


@given(st.one_of(words, st.text()))
def test_tokens_joined_are_the_text_if_it_has_a_word(text: str) -> None:
    tokens = tokens_of(text)
    assert len(tokens) == len(text.split())
    if text.split():
        assert "".join(tokens) == text
        assert all(token.strip() for token in tokens)
    else:
        assert tokens == []


def test_white_space_belongs_to_the_word_after_it_and_at_the_end_to_the_last() -> None:
    assert tokens_of("  one\n two\tthree \n") == ["  one", "\n two", "\tthree \n"]


def test_the_answer_is_the_last_user_message_and_the_input_is_all_words() -> None:
    messages = [
        Message("system", "be brief"),
        Message("user", "first one"),
        Message("assistant", "yes"),
        Message("user", "second one here"),
        Message("assistant", "and so"),
    ]
    script = script_of(GenerateRequest(messages=messages), NONE)
    assert script.pieces == ["second", " one", " here"]
    assert script.end == EndEvent("end", Usage(10, 0, 3))


@pytest.mark.parametrize("messages", [[Message("user", " \n")], [Message("user", "")], [Message("system", "x y")]])
def test_without_a_word_to_repeat_there_are_no_tokens(messages: list[Message]) -> None:
    script = script_of(GenerateRequest(messages=messages), NONE)
    assert script.pieces == []
    assert (end_of(script).stop_reason, end_of(script).usage.output_tokens) == ("end", 0)


def test_typed_blocks_are_their_text() -> None:
    messages = [
        MessageV2("user", [TextBlock("old")]),
        MessageV2("assistant", [ThinkingBlock("not counted here"), TextBlock("so so")]),
        MessageV2("user", [TextBlock("look at "), ImageBlock(0), TextBlock("this now"), ToolResultBlock("1", "no")]),
    ]
    script = script_of(GenerateRequestV2(messages=messages), NONE)
    assert script.pieces == ["look", " at", " this", " now"]
    assert end_of(script).usage == Usage(7, 0, 4)
    assert count_words(CountRequest(messages_v2=messages)) == 7


@given(words, st.integers(1, 10))
def test_max_tokens_cuts_and_says_length_only_when_it_cut(text: str, limit: int) -> None:
    script = script_of(ask(text, max_tokens=limit), NONE)
    all_of_it = tokens_of(text)
    assert script.pieces == all_of_it[:limit]
    assert end_of(script).stop_reason == ("length" if len(all_of_it) > limit else "end")
    assert end_of(script).usage.output_tokens == len(script.pieces)


@pytest.mark.parametrize(
    ("text", "stop", "pieces", "tokens"),
    [
        ("a b STOP c", ["STOP"], ["a", " b", " "], 3),
        ("a b STOP c", [" STOP"], ["a", " b"], 3),
        ("a b STOP c", ["b ST"], ["a", " "], 3),
        ("a b c", ["a"], [], 1),
        ("abc def", ["c d"], ["ab"], 2),
        ("a b c d", ["b c d", "c"], ["a", " b", " "], 3),
        ("a bb c", ["bb", "b"], ["a", " "], 2),
    ],
)
def test_a_stop_string_ends_before_itself_and_is_paid_for(
    text: str, stop: list[str], pieces: list[str], tokens: int
) -> None:
    script = script_of(ask(text, stop), NONE)
    assert script.pieces == pieces
    assert (end_of(script).stop_reason, end_of(script).usage.output_tokens) == ("stop_sequence", tokens)


@given(words, st.lists(st.text(st.sampled_from("ab "), min_size=1, max_size=4), max_size=3))
def test_no_stop_string_is_ever_in_the_answer(text: str, stop: list[str]) -> None:
    script = script_of(ask(text, stop), NONE)
    answer = said(script)
    assert all(string not in answer for string in stop)
    assert "".join(tokens_of(text)).startswith(answer)
    assert (end_of(script).stop_reason == "stop_sequence") == any(s in "".join(tokens_of(text)) for s in stop)
    assert "" not in script.pieces


def test_a_stop_string_that_max_tokens_cuts_off_is_not_seen() -> None:
    script = script_of(ask("a b STOP c", ["b STOP"], max_tokens=2), NONE)
    assert (said(script), end_of(script).stop_reason) == ("a b", "length")


def test_faults() -> None:
    assert script_of(ask("a b"), Fault("hang")) == Script([], None)
    before = script_of(ask("a b"), Fault("before"))
    assert before.pieces == []
    assert isinstance(before.end, BackendRefused)
    after = script_of(ask("a b c"), Fault("after", 2))
    assert after.pieces == ["a", " b"]
    assert isinstance(after.end, BackendRefused)
    assert script_of(ask("a b c"), Fault("crash", 2)) == Script(["a", " b"], None, crash=True)


@pytest.mark.parametrize("kind", ["after", "crash"])
def test_an_answer_shorter_than_the_fault_is_whole(kind: str) -> None:
    script = script_of(ask("a b c"), Fault(kind, 4))  # type: ignore[arg-type]  # one of the literals
    assert end_of(script).stop_reason == "end"
    assert not isinstance(script_of(ask("a b c"), Fault(kind, 3)).end, EndEvent)  # type: ignore[arg-type]

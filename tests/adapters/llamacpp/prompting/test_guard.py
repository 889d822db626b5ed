"""What users write is never read as a control token."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.errors import ModelError
from vestal_adapters.llamacpp.prompting.guard import Segment, SpecialGuard

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|im|>", "<s>", "</s>", "[INST]"]
GUARD = SpecialGuard(SPECIALS)
ANY = re.compile("|".join(map(re.escape, SPECIALS)))


def joined(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def test_harmless_text_stays_as_it_is_and_in_one_piece() -> None:
    prompt = f"<|im_start|>user\n{GUARD.protect('a <b> c')}<|im_end|>\n"
    assert GUARD.segments(prompt) == [Segment("<|im_start|>user\na <b> c<|im_end|>\n", True)]


def test_a_control_tokens_text_in_a_message_is_plain_with_all_around_it() -> None:
    prompt = f"<|im_start|>user\nsay {GUARD.protect('<|im_end|> now')} ok<|im_end|>\n"
    assert GUARD.segments(prompt) == [
        Segment("<|im_start|>", True),
        Segment("user\nsay <|im_end|> now ok", False),
        Segment("<|im_end|>\n", True),
    ]


def test_an_empty_prompt_has_no_segments() -> None:
    assert GUARD.segments("") == []


@pytest.mark.parametrize("change", [str.upper, str.strip, str.title, lambda text: text.replace("x", "y")])
def test_what_a_template_does_to_a_text_does_not_uncover_it(change: object) -> None:
    assert callable(change)
    segments = GUARD.segments(change(GUARD.protect("x<|im_end|>x")))
    assert [segment.trusted for segment in segments] == [False]
    assert "<|im_end|>" in joined(segments)


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("space", ["", " \n"])
def test_two_texts_side_by_side_do_not_make_a_control_token(special: str, space: str) -> None:
    for cut in range(1, len(special)):
        head, tail = f"x {special[:cut]}", special[cut:]
        rendered = GUARD.protect(head + space).strip() + GUARD.protect(tail)
        segments = GUARD.segments(rendered)
        assert not any(ANY.search(segment.text) for segment in segments if segment.trusted)
        assert joined(segments) == head + tail


fragments = st.sampled_from(
    [*SPECIALS, "<|im_", "end|>", "<", "|>", "a", " ", "\n", "\U000f0000", "\U000f0006", "\U000f0007", "\U0010ffff"]
)
messages = st.lists(st.lists(fragments, max_size=6).map("".join), max_size=4)


@given(messages)
def test_no_message_makes_a_control_token_or_loses_a_character(contents: list[str]) -> None:
    segments = GUARD.segments("".join(map(GUARD.protect, contents)))
    assert joined(segments) == "".join(contents)
    assert not any(ANY.search(segment.text) for segment in segments if segment.trusted)


@given(messages)
def test_the_templates_own_control_tokens_stay_control_tokens(contents: list[str]) -> None:
    rendered = "".join(f"<|im_start|>user\n{GUARD.protect(content)}<|im_end|>\n" for content in contents)
    segments = GUARD.segments(rendered)
    trusted = [found for segment in segments if segment.trusted for found in ANY.findall(segment.text)]
    assert trusted == ["<|im_start|>", "<|im_end|>"] * len(contents)
    assert joined(segments) == "".join(f"<|im_start|>user\n{content}<|im_end|>\n" for content in contents)


def test_of_two_control_tokens_the_longer_is_seen() -> None:
    guard = SpecialGuard(["<a>", "<a><b>"])
    assert guard.segments(f"<a><b>{guard.protect('<a>')}<a><b>") == [
        Segment("<a><b>", True), Segment("<a>", False), Segment("<a><b>", True),
    ]  # fmt: skip


@pytest.mark.parametrize("texts", [[], [""]])
def test_a_vocabulary_without_control_tokens_changes_nothing(texts: list[str]) -> None:
    guard = SpecialGuard(texts)
    text = "<|im_end|> \U000f0000\U000f0001 x"
    assert joined(guard.segments(guard.protect(text))) == text


def test_an_absurd_number_of_control_tokens_is_refused() -> None:
    with pytest.raises(ModelError, match="140,000"):
        SpecialGuard(f"<{number}>" for number in range(140_000))

"""A conversation or an answer that is too long for the context: refused, shortened, or slid along."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vestal.backend import GenerateRequest, GenerateRequestV2
from vestal.errors import ContextOverflow, Unsupported
from vestal.values import GenerateOptions, Message, MessageV2, Notice, TextBlock
from vestal_adapters.llamacpp.native import Context

END = "<|end|>"
COUNT = ["a", " one", " two", " three", END]
LOOP = ["b", " la", " la"]
TURNS = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}"
"""A letter and the content: a message of nine characters takes ten tokens."""


@pytest.fixture
def driver(make_model: Any, start: Any) -> Any:
    """128 tokens."""
    return start(make_model(COUNT, LOOP, template=TURNS))


def talk(*contents: str) -> list[Message]:
    """A system message, then user and assistant in turn."""
    roles: list[Any] = ["system", *["user", "assistant"] * len(contents)]
    return [Message(role, content) for role, content in zip(roles, contents, strict=False)]


def submit(driver: Any, job: int, messages: list[Message], **options: Any) -> None:
    driver.submit(job, GenerateRequest(messages=messages, options=GenerateOptions(**options)))


def notice(driver: Any, job: int, code: str) -> Notice:
    (found,) = [notice for notice in driver.end(job).notices if notice.code == code]
    assert isinstance(found, Notice)
    return found


LONG = talk("s" * 9, *["u" * 19, "v" * 19] * 3, "u" * 8 + "a")
"""10 + 6 x 20 + 10 tokens: 140."""


# --- truncate -------------------------------------------------------------------------------------------------


def test_truncate_leaves_out_the_fewest_oldest_turns(driver: Any) -> None:
    submit(driver, 1, LONG, context_policy="truncate", max_tokens=10)
    driver.run()
    assert driver.text(1) == " one two three"
    assert driver.end(1).usage.input_tokens == 140 - 40


def test_what_was_left_out_is_told_with_the_numbers(driver: Any) -> None:
    submit(driver, 1, LONG, context_policy="truncate", max_tokens=10)
    driver.run()
    numbers = re.findall(r"[\d,]+\d|\d", notice(driver, 1, "truncated").message)
    assert numbers == ["128", "1", "4", "2", "100"]


def test_what_fits_is_left_alone(driver: Any) -> None:
    submit(driver, 1, LONG[2:], context_policy="truncate", max_tokens=10)
    driver.run()
    assert driver.end(1).notices == []
    assert driver.end(1).usage.input_tokens == 110


def test_without_max_tokens_a_quarter_is_left_for_the_answer(driver: Any) -> None:
    submit(driver, 1, LONG, context_policy="truncate")
    driver.run()
    assert driver.end(1).usage.input_tokens == 60
    assert driver.end(1).stop_reason == "end"


def test_without_max_tokens_what_leaves_less_than_a_quarter_is_still_answered(driver: Any) -> None:
    submit(driver, 1, talk("s" * 9, "u" * 20, "v", "u" * 107 + "b"), context_policy="truncate")
    driver.run()
    assert driver.end(1).usage.input_tokens == 10 + 109
    assert driver.end(1).stop_reason == "length"


def test_the_last_turn_stays_and_what_then_does_not_fit_is_refused(driver: Any) -> None:
    with pytest.raises(ContextOverflow) as caught:
        submit(driver, 1, talk("s" * 9, "u", "v", "u" * 119), context_policy="truncate", max_tokens=1)
    assert caught.value.details == {"prompt_tokens": 130, "max_tokens": 1, "context_length": 128}
    assert not driver.engine.busy


def test_a_conversation_of_megabytes_is_shortened_too(driver: Any) -> None:
    messages = talk("s", *["u" * 50_000, "v" * 50_000] * 20, "a")
    submit(driver, 1, messages, context_policy="truncate", max_tokens=5)
    driver.run()
    assert driver.text(1) == " one two three"


def test_v2_conversations_are_shortened_alike(driver: Any) -> None:
    messages = [MessageV2(message.role, [TextBlock(message.content)]) for message in LONG]
    options = GenerateOptions(context_policy="truncate", max_tokens=10)
    driver.submit(1, GenerateRequestV2(messages=messages, options=options))
    driver.run()
    assert driver.end(1).usage.input_tokens == 100


def test_without_the_policy_nothing_is_left_out(driver: Any) -> None:
    with pytest.raises(ContextOverflow):
        submit(driver, 1, LONG, max_tokens=10)


# --- shift ----------------------------------------------------------------------------------------------------


def test_shift_goes_on_past_the_end_of_the_context(driver: Any) -> None:
    submit(driver, 1, talk("s" * 9, "u" * 8 + "b"), context_policy="shift", max_tokens=500)
    driver.run()
    assert driver.text(1) == " la" * 500
    assert driver.end(1).stop_reason == "length"
    assert driver.end(1).usage.input_tokens == 20


def test_what_was_dropped_is_told_with_the_numbers(driver: Any) -> None:
    submit(driver, 1, talk("s" * 9, "u" * 8 + "b"), context_policy="shift", max_tokens=150)
    driver.run()
    kept, dropped = 11, (128 - 11) // 2  # the system's part and the `u` of the user's
    assert re.findall(r"\d+", notice(driver, 1, "shifted").message) == [str(dropped), str(kept)]


def test_an_answer_that_fits_is_not_shifted(driver: Any) -> None:
    submit(driver, 1, talk("s", "xa"), context_policy="shift", max_tokens=1000)
    driver.run()
    assert driver.text(1) == " one two three"
    assert driver.end(1).notices == []


def test_without_max_tokens_an_answer_ends_with_the_context(driver: Any) -> None:
    submit(driver, 1, talk("s" * 9, "u" * 8 + "b"), context_policy="shift")
    driver.run()
    assert driver.end(1).stop_reason == "length"
    assert driver.end(1).usage.output_tokens == 108
    assert driver.end(1).notices == []


def test_a_prompt_that_does_not_fit_is_refused_all_the_same(driver: Any) -> None:
    with pytest.raises(ContextOverflow):
        submit(driver, 1, LONG, context_policy="shift")


def test_a_shift_touches_no_neighbour(driver: Any) -> None:
    submit(driver, 1, talk("s", "xb"), context_policy="shift", max_tokens=300)
    driver.step()
    submit(driver, 2, talk("s", "yb"), max_tokens=100)
    driver.run()
    assert (driver.text(1), driver.text(2)) == (" la" * 300, " la" * 100)


def test_a_system_message_that_fills_the_context_leaves_room_for_one_token_at_a_time(driver: Any) -> None:
    submit(driver, 1, talk("s" * 120, "b"), context_policy="shift", max_tokens=50)
    driver.run()
    assert driver.text(1) == " la" * 50


def test_a_model_that_cannot_shift_refuses_it_by_name(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "shifts", False)
    with pytest.raises(Unsupported, match="shift") as caught:
        submit(driver, 1, talk("s", "b"), context_policy="shift", max_tokens=5)
    assert caught.value.details["option"] == "context_policy"
    assert not driver.engine.busy


@pytest.mark.model
def test_smollm2_goes_on_in_whole_sentences(smollm2_path: str, start: Any) -> None:
    driver = start(smollm2_path, context_length=128)
    driver.engine._part._vocabulary.ends = frozenset()
    options = {"context_policy": "shift", "max_tokens": 300, "temperature": 0}
    submit(driver, 1, [Message("user", "Tell me a very long story.")], **options)
    driver.run()
    assert driver.end(1).usage.output_tokens == 300
    words = driver.text(1).split()
    assert len(set(words[-40:])) > 5, "not one word over and over"

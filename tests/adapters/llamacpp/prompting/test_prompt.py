"""Conversations to tokens, with the vocabulary of a chain model: every byte of the text is a token."""

from __future__ import annotations

from typing import Any

import pytest

from vestal.backend import CountRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import ContextOverflow, InvalidRequest
from vestal.values import GenerateOptions, Message, MessageV2, TextBlock, Tool

CHAIN = ["a", "b", "<|end|>"]
TURNS = "{% for m in messages %}<|role|>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}<|role|>"


def count(driver: Any, text: str) -> int:
    tokens: int = driver.engine.count(CountRequest(messages=[Message("user", text)]))
    return tokens


def test_count_is_the_prompt_of_a_generate_request(make_model: Any, start: Any) -> None:
    driver = start(make_model(CHAIN, template=TURNS))
    driver.ask(1, "hello", max_tokens=1)
    driver.run()
    assert count(driver, "hello") == driver.end(1).usage.input_tokens == 3 + len("user:hello")


def test_count_takes_v2_messages(make_model: Any, start: Any) -> None:
    driver = start(make_model(CHAIN, template=TURNS))
    messages = [MessageV2("user", [TextBlock("hel"), TextBlock("lo")])]
    assert driver.engine.count(CountRequest(messages_v2=messages)) == count(driver, "hello")


def test_count_knows_no_limit_short_of_absurd(make_model: Any, start: Any) -> None:
    assert count(start(make_model(CHAIN)), "x" * 5000) == 5000


def test_a_control_token_in_a_message_is_counted_as_its_letters(make_model: Any, start: Any) -> None:
    driver = start(make_model(CHAIN, template=TURNS))
    assert count(driver, "a<|end|>b") == count(driver, "ab") + len("<|end|>")


def test_bos_is_added_where_the_model_wants_it(make_model: Any, start: Any) -> None:
    assert count(start(make_model(CHAIN, adds_bos=True)), "ab") == 3


def test_bos_is_not_added_twice(make_model: Any, start: Any) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}"
    assert count(start(make_model(CHAIN, template=template, adds_bos=True)), "ab") == 3
    assert count(start(make_model(CHAIN, template=template)), "ab") == 3


def test_bos_alone_is_a_prompt_and_nothing_is_none(make_model: Any, start: Any) -> None:
    assert count(start(make_model(CHAIN, adds_bos=True)), "") == 1
    with pytest.raises(InvalidRequest, match="empty"):
        count(start(make_model(CHAIN)), "")


def test_tools_are_counted(make_model: Any, start: Any) -> None:
    driver = start(make_model(CHAIN, context=2048), context_length=2048)
    messages, tools = [MessageV2("user", [TextBlock("a")])], [Tool("f", {})]
    driver.submit(1, GenerateRequestV2(messages=messages, tools=tools, options=GenerateOptions(max_tokens=1)))
    driver.run()
    counted = driver.engine.count(CountRequest(messages_v2=messages, tools=tools))
    assert counted == driver.end(1).usage.input_tokens > 100


# --- far too much ----------------------------------------------------------------------------------------------

NEVER_LONG = (
    "{% if messages | length > 300 or messages[0].content | length > 100000 or tools %}"
    "{{ raise_exception('rendered') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
)
"""Whether it was rendered is seen from the error."""


@pytest.mark.parametrize("policy", ["error", "truncate", "shift"])
def test_a_text_that_cannot_fit_is_refused_without_being_rendered(make_model: Any, start: Any, policy: Any) -> None:
    driver = start(make_model(CHAIN, template=NEVER_LONG))
    with pytest.raises(ContextOverflow, match=r"at least [\d,]+ tokens"):
        driver.ask(1, "<" * 1_000_000, context_policy=policy)
    with pytest.raises(ContextOverflow, match="at least"):
        count(driver, "<" * 1_000_000)


def test_more_messages_than_can_fit_are_refused_without_being_rendered(make_model: Any, start: Any) -> None:
    driver = start(make_model(CHAIN, template=NEVER_LONG))
    messages = [Message("user", "a")] * 100_000
    with pytest.raises(ContextOverflow, match="at least 100,000 tokens"):
        driver.engine.count(CountRequest(messages=messages))
    with pytest.raises(ContextOverflow, match="at least 100,000 tokens"):
        driver.submit(1, GenerateRequest(messages=messages, options=GenerateOptions()))


def test_tools_that_cannot_fit_are_refused_without_being_rendered(make_model: Any, start: Any) -> None:
    driver = start(make_model(CHAIN, template=NEVER_LONG))
    tools = [Tool("f", {"enum": list(range(100_000))})]
    request = GenerateRequestV2(messages=[MessageV2("user", [TextBlock("a")])], tools=tools, options=GenerateOptions())
    with pytest.raises(ContextOverflow, match="at least"):
        driver.submit(1, request)


def test_what_is_left_of_a_very_long_conversation_is_found_without_rendering_all_of_it(
    make_model: Any, start: Any
) -> None:
    driver = start(make_model(CHAIN, template=NEVER_LONG))  # of 128 tokens
    messages = [Message("user", "a")] * 100_000
    driver.submit(
        1, GenerateRequest(messages=messages, options=GenerateOptions(max_tokens=8, context_policy="truncate"))
    )
    driver.run()
    end = driver.end(1)
    assert end.usage.input_tokens == 120
    assert [notice.code for notice in end.notices if notice.code == "truncated"] == ["truncated"]

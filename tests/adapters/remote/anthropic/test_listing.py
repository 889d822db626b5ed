"""What a server says of a model becomes capabilities and a manner of asking, and no more than that is promised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.adapters.remote.anthropic.model import CONTEXT, ENTRY
from vestal.errors import ModelNotFound
from vestal.values import Capabilities
from vestal_adapters.remote.anthropic.listing import Listing, Manner, capabilities_of, listed, manner_of
from vestal_adapters.remote.anthropic.options import AnthropicOptions

YES, NO = {"supported": True}, {"supported": False}
EFFORT = {"supported": True, "low": YES, "medium": YES, "high": YES, "xhigh": NO, "max": YES}
ADAPTIVE = {"thinking": {"supported": True, "types": {"enabled": NO, "adaptive": YES}}, "effort": EFFORT}


def manner(entry: dict[str, Any], **table: Any) -> Manner:
    return manner_of(AnthropicOptions(model="small", **table), entry)


def can(entry: dict[str, Any], **table: Any) -> Capabilities:
    return capabilities_of(AnthropicOptions(model="small", **table), entry, manner(entry, **table), count=True)


def test_what_the_server_says() -> None:
    told = can(ENTRY)
    assert (told.context_length, told.max_output_tokens, told.model) == (CONTEXT, 40_000, "small")
    assert told.v2
    assert told.tools
    assert told.vision
    assert told.thinking
    assert told.json_schema
    assert told.count
    assert told.options == ("max_tokens", "stop", "temperature", "top_p", "top_k")


def test_a_server_that_says_nothing_is_promised_nothing_but_text() -> None:
    told = can({"id": "small"}, base_url="http://127.0.0.1:8080/v1")
    assert (told.vision, told.thinking, told.json_schema, told.context_length) == (False, False, False, None)
    assert not told.tools  # it may leave them out in silence: llama-server does
    assert can({"id": "small"}, base_url="http://127.0.0.1:8080/v1", tools=True).tools
    assert can({"id": "small"}).tools  # the API's own
    assert manner({"id": "small"}) == Manner(4096)


def test_the_operators_word_goes_first() -> None:
    told = can(ENTRY, tools=False, vision=False, thinking=False, json_schema=False, context_length=99, sampling=False)
    assert (told.tools, told.vision, told.thinking, told.json_schema) == (False, False, False, False)
    assert (told.context_length, told.options) == (99, ("max_tokens", "stop"))
    assert manner(ENTRY, max_output_tokens=9).max_tokens == 9


def test_thinking_has_words_where_it_adapts_and_budgets_where_it_does_not() -> None:
    assert manner({"id": "small", "capabilities": ADAPTIVE}).levels == {
        "low": "low",
        "medium": "medium",
        "high": "high",
    }
    assert manner(ENTRY).thinking == "enabled"
    assert manner(ENTRY).levels["minimal"] == 1024
    assert manner({"id": "small"}, thinking=True).thinking == "enabled"


def test_thinking_that_cannot_be_asked_for_is_not_promised() -> None:
    capabilities = ADAPTIVE | {"effort": NO}
    assert not can({"id": "small", "capabilities": capabilities}).thinking


@pytest.mark.parametrize("junk", [None, "x", -1, 0, True, [], {}, 1.5])
def test_nonsense_in_a_page_promises_nothing(junk: Any) -> None:
    capabilities = dict.fromkeys(("thinking", "effort", "image_input"), junk)
    facts = dict.fromkeys(("max_tokens", "max_input_tokens", "capabilities"), junk)
    for page in (facts, {"capabilities": capabilities}):
        told = can({"id": "small"} | page)
        msgspec.convert(msgspec.to_builtins(told), Capabilities)
        assert not told.thinking
        assert told.context_length is None


def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    listing = Listing([{"id": "b"}, {"id": "a"}, {"no": "id"}])
    assert listed(listing, "a", "cloud")["id"] == "a"
    with pytest.raises(ModelNotFound, match="does not serve model 'c'") as refused:
        listed(listing, "c", "cloud")
    assert refused.value.details["models"] == ["a", "b"]

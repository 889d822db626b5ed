"""What each kind of server says of its model becomes capabilities, and no more than that is promised."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from vestal.errors import ModelNotFound
from vestal.values import Capabilities, GenerateOptions
from vestal_adapters.remote.openai.listing import Listing, capabilities_of, chosen
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.remote.openai.presets import PRESETS, PresetName

OPENROUTER = {
    "id": "small",
    "context_length": 8192,
    "top_provider": {"max_completion_tokens": 1024},
    "supported_parameters": ["tools", "reasoning", "structured_outputs"],
    "architecture": {"input_modalities": ["text", "image"]},
}
VENICE = {
    "id": "small",
    "model_spec": {
        "availableContextTokens": 4096,
        "maxCompletionTokens": 512,
        "capabilities": {"supportsFunctionCalling": True, "supportsVision": False, "supportsResponseSchema": True},
    },
}


def can(preset: PresetName, entry: dict[str, Any], details: dict[str, Any] | None = None, **table: Any) -> Capabilities:
    return capabilities_of(OpenAIOptions(preset=preset, **table), entry, details or {}, None)


@pytest.mark.parametrize(
    ("preset", "entry", "details", "promised"),
    [
        ("vllm", {"id": "small", "max_model_len": 2048}, {}, {"context_length": 2048, "tools": False, "vision": False}),
        ("openrouter", OPENROUTER, {}, {"context_length": 8192, "max_output_tokens": 1024, "tools": True,
                                        "vision": True, "thinking": True, "json_schema": True}),
        ("openrouter", OPENROUTER | {"supported_parameters": []}, {}, {"tools": False, "json_schema": False}),
        ("venice", VENICE, {}, {"context_length": 4096, "max_output_tokens": 512, "tools": True, "vision": False,
                                "json_schema": True}),
        ("lmstudio", {"id": "small"}, {"type": "vlm", "max_context_length": 4096, "loaded_context_length": 1024,
                                       "capabilities": ["tool_use"]},
         {"context_length": 1024, "tools": True, "vision": True, "thinking": False}),
        ("llamacpp", {"id": "small"}, {"default_generation_settings": {"n_ctx": 512}, "modalities": {"vision": True}},
         {"context_length": 512, "vision": True, "grammar": True, "tools": False}),
        ("llamacpp", {"id": "small"}, {"chat_template_caps": {"supports_tools": True}}, {"tools": True}),
        ("llamacpp", {"id": "small"}, {"chat_template_caps": {"supports_tools": False}}, {"tools": False}),
        ("openai", {"id": "small"}, {}, {"context_length": None, "tools": True, "vision": False, "logprobs": True}),
        ("ollama", {"id": "small"}, {}, {"tools": False, "thinking": False, "logprobs": False}),
    ],
)  # fmt: skip
def test_what_servers_say(preset: PresetName, entry: Any, details: Any, promised: dict[str, Any]) -> None:
    told = can(preset, entry, details)
    assert {name: getattr(told, name) for name in promised} == promised


def test_the_operators_word_goes_first() -> None:
    told = can("openrouter", OPENROUTER, tools=False, context_length=99, max_output_tokens=9, vision=False)
    assert (told.tools, told.vision, told.context_length, told.max_output_tokens) == (False, False, 99, 9)


def test_parameters_that_a_model_does_not_take_are_not_promised() -> None:
    takes = ["max_tokens", "temperature", "repetition_penalty", "tools", 7]
    told = can("openrouter", OPENROUTER | {"supported_parameters": takes})
    assert set(told.options) == {"max_tokens", "temperature", "repeat_penalty"}
    assert set(can("openrouter", {"id": "small"}).options) == set(PRESETS["openrouter"].fields)


def test_thinking_is_not_promised_where_no_level_can_be_asked_for() -> None:
    assert not can("lmstudio", {"id": "small"}, thinking=True).thinking
    assert can("openai", {"id": "small"}, thinking=True).thinking


@pytest.mark.parametrize("junk", [None, "x", -1, 0, True, [], {}, 1.5])
@pytest.mark.parametrize("preset", get_args(PresetName))
def test_nonsense_in_a_listing_promises_nothing(preset: PresetName, junk: Any) -> None:
    keys = ("max_model_len", "context_length", "top_provider", "supported_parameters", "architecture", "model_spec")
    pages = ("default_generation_settings", "modalities", "capabilities", "loaded_context_length")
    told = can(preset, {"id": "small"} | dict.fromkeys(keys, junk), dict.fromkeys(pages, junk))
    msgspec.convert(msgspec.to_builtins(told), Capabilities)
    assert told.context_length is None


@pytest.mark.parametrize("preset", get_args(PresetName))
def test_a_preset_names_real_options_and_is_reachable_by_default(preset: PresetName) -> None:
    assert set(PRESETS[preset].fields) <= set(GenerateOptions.__struct_fields__)
    assert OpenAIOptions(preset=preset).url.startswith("http")


def test_a_model_is_found_by_its_name_and_by_ollamas() -> None:
    listing = Listing([{"id": "a"}, {"id": "b:latest"}, {"no": "id"}])
    assert chosen(listing, "a", "x")["id"] == "a"
    assert chosen(listing, "b", "x")["id"] == "b:latest"


@pytest.mark.parametrize("model", ["c", None])
def test_what_is_not_served_is_told_with_what_is(model: str | None) -> None:
    listing = Listing([{"id": f"m{index}"} for index in range(10)])
    with pytest.raises(ModelNotFound) as refused:
        chosen(listing, model, "x")
    assert "m0, m1" in str(refused.value.hint)
    assert "and 2 more" in str(refused.value.hint)


@pytest.mark.parametrize("name", ["", "x" * 257, "a\x1b[2Jb"])
def test_a_model_that_no_request_can_name_is_none(name: str) -> None:
    """Its name would be in every welcome, and on every terminal."""
    listing = Listing([{"id": name}, {"id": "small"}])
    assert chosen(listing, None, "cluster")["id"] == "small"
    with pytest.raises(ModelNotFound, match="serves 0 models"):
        chosen(Listing([{"id": name}]), None, "cluster")
    with pytest.raises(ModelNotFound) as absent:
        chosen(listing, "large", "cluster")
    assert absent.value.details["models"] == ["small"]


def test_a_context_that_no_frame_can_hold_is_not_known() -> None:
    assert can("vllm", {"id": "small", "max_model_len": 10**30}).context_length is None

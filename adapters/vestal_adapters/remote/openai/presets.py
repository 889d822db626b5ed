"""How the servers with this API differ, in one table: what they are asked, what they tell, what they honour.

An option that is not in a preset's `fields` is one that the server would ignore, so the backend does not promise it.
`efforts` is the words for each level of thinking; a level that has none is refused. Sources: the API references of
llama-server, vLLM, LM Studio, Ollama, OpenRouter, Venice and OpenAI.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct

from vestal.values import Thinking

__all__ = ["PRESETS", "Preset", "PresetName"]

PresetName = Literal["llamacpp", "vllm", "lmstudio", "ollama", "openrouter", "venice", "openai"]


class Preset(Struct, frozen=True, kw_only=True):
    """`fields`: JSON names of generate options. `context` and `output`: paths in the model's entry of the listing."""

    base_url: str
    health: str | None = None  # answers 200 when the server serves; many have none
    account: str | None = None  # a page that only a good key opens, where everybody is shown the listing
    details: str | None = None  # one more page about the model, for those whose listing says little
    context: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    fields: Mapping[str, str]
    most_stops: int = 16
    thinking: Literal["reasoning_effort", "reasoning", "chat_template_kwargs", None] = None
    efforts: Mapping[Thinking, Any] = MappingProxyType({})
    tells_thinking: bool = False  # its listing says which models think; of the others it refuses to be told not to
    schema: Literal["json_schema", "json_object"] = "json_schema"
    grammar: str | None = None  # the field for GBNF
    logprobs: bool = False
    required_calls: bool = True  # honours a tool_choice beyond `auto` and `none`
    cache: Literal["salt", "switch", None] = None  # how a prompt is kept out of a cache that others see
    extras: Mapping[str, Any] = MappingProxyType({})  # sent with every request
    tools: bool = False  # what is promised where neither the server nor the operator says anything
    json_schema: bool = False
    dimensions: bool = False  # honours `dimensions` of an embedding


_COMMON = {name: name for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop")}
_USUAL = _COMMON | {"max_tokens": "max_tokens"}
_LOCAL = _USUAL | {"top_k": "top_k", "min_p": "min_p"}
_OPENAI_EFFORTS: Mapping[Thinking, Any] = {
    "off": "none", "minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh",
}  # fmt: skip

PRESETS: Mapping[PresetName, Preset] = {
    "llamacpp": Preset(
        base_url="http://127.0.0.1:8080/v1",
        health="/health",
        details="/props",
        fields=_LOCAL | {"repeat_penalty": "repeat_penalty"},
        thinking="chat_template_kwargs",
        efforts={"off": {"enable_thinking": False}},
        schema="json_object",  # which llama_cpp.server takes as well
        required_calls=False,  # llama-server lets a model say what it likes before the call, and end without one
        grammar="grammar",
        cache="switch",
        json_schema=True,
    ),
    "vllm": Preset(
        base_url="http://127.0.0.1:8000/v1",
        health="/health",
        context=("max_model_len",),
        fields=_LOCAL | {"repeat_penalty": "repetition_penalty"},
        thinking="chat_template_kwargs",
        efforts={"off": {"enable_thinking": False}},
        logprobs=True,
        cache="salt",
        json_schema=True,
        dimensions=True,
    ),
    "lmstudio": Preset(
        base_url="http://127.0.0.1:1234/v1",
        details="/api/v0/models/{model}",
        fields=_USUAL | {"top_k": "top_k", "repeat_penalty": "repeat_penalty"},
        json_schema=True,
    ),
    "ollama": Preset(
        base_url="http://127.0.0.1:11434/v1",
        health="/api/version",
        fields=_USUAL,
        thinking="reasoning_effort",
        efforts={"off": "none", "low": "low", "medium": "medium", "high": "high"},
        required_calls=False,
        json_schema=True,
    ),
    "openrouter": Preset(
        base_url="https://openrouter.ai/api/v1",
        account="key",
        context=("context_length",),
        output=("top_provider", "max_completion_tokens"),
        fields=_LOCAL | {"repeat_penalty": "repetition_penalty"},
        thinking="reasoning",
        efforts={level: {"effort": word} for level, word in _OPENAI_EFFORTS.items()},
        tells_thinking=True,
        # Only providers that honour every field that is sent: the others would ignore some in silence.
        extras={"provider": {"require_parameters": True}},
    ),
    "venice": Preset(
        base_url="https://api.venice.ai/api/v1",
        account="api_keys/rate_limits",
        context=("model_spec", "availableContextTokens"),
        output=("model_spec", "maxCompletionTokens"),
        fields=_LOCAL | {"repeat_penalty": "repetition_penalty"},
        most_stops=4,
        thinking="reasoning_effort",
        efforts={"low": "low", "medium": "medium", "high": "high"},
        # Otherwise a system prompt of theirs comes before the caller's.
        extras={"venice_parameters": {"include_venice_system_prompt": False}},
    ),
    "openai": Preset(
        base_url="https://api.openai.com/v1",
        fields=_COMMON | {"max_tokens": "max_completion_tokens"},
        most_stops=4,
        thinking="reasoning_effort",
        efforts=_OPENAI_EFFORTS,
        logprobs=True,
        tools=True,
        json_schema=True,
        dimensions=True,
    ),
}

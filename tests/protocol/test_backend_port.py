"""The port's own promises: each unsupported option is refused by name, and the defaults refuse politely."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, get_args

import msgspec
import pytest

from vestal import backend as port
from vestal.backend import (
    Backend,
    BackendOptions,
    CountRequest,
    EmbedRequest,
    EndEvent,
    GenerateRequest,
    GenerateRequestV2,
    Report,
    TextEvent,
    TokenEvent,
    check_embed,
    check_supported,
    unsaid_of_embed,
)
from vestal.errors import Unsupported
from vestal.values import (
    FLAGS,
    Attachment,
    AudioBlock,
    Capabilities,
    GenerateOptions,
    ImageBlock,
    Message,
    MessageV2,
    ResponseFormat,
    TextBlock,
    Thinking,
    Tool,
    Usage,
)

MESSAGES = [Message(role="user", content="Hi")]
TEXT = [MessageV2(role="user", content=[TextBlock(text="Hi")])]
TOOL = Tool(name="weather", input_schema={})

# One value other than the default for every option, so that no option can be added without a decision here.
ASKED: dict[str, Any] = {
    "model": "smollm2-135m",
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.5,
    "repeat_penalty": 1.5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 5,
    "stop": ["END"],
    "stream": False,
    "grammar": 'root ::= "a"',
    "response_format": ResponseFormat(schema={}),
    "logprobs": 5,
    "context_policy": "shift",
    "priority": "batch",
    "queue_timeout_ms": 5,
    "timeout_ms": 5,
    "cache": "none",
}
DAEMONS = {"model", "stream", "priority", "queue_timeout_ms", "timeout_ms", "cache"}
FLAG_OF = {"grammar": "grammar", "response_format": "json_schema", "logprobs": "logprobs"}
NOTHING = Capabilities(options=())


def v1(**options: Any) -> GenerateRequest:
    return GenerateRequest(messages=MESSAGES, options=GenerateOptions(**options))


def refusal(request: GenerateRequest | GenerateRequestV2, capabilities: Capabilities) -> Unsupported:
    with pytest.raises(Unsupported) as refused:
        check_supported(request, capabilities)
    return refused.value


def test_the_table_above_asks_for_every_option() -> None:
    assert set(ASKED) == set(GenerateOptions.__struct_fields__)
    assert all(getattr(GenerateOptions(), option) != value for option, value in ASKED.items())


@pytest.mark.parametrize("option", sorted(set(ASKED) - DAEMONS))
def test_an_option_the_backend_does_not_have_is_refused_by_name(option: str) -> None:
    error = refusal(v1(**{option: ASKED[option]}), NOTHING)
    assert error.details["option"] == option
    assert option in error.message
    assert "welcome lists" in str(error.hint)


@pytest.mark.parametrize("option", sorted(DAEMONS))
def test_what_the_daemon_does_itself_needs_no_capability(option: str) -> None:
    check_supported(v1(**{option: ASKED[option]}), NOTHING)


@pytest.mark.parametrize("option", sorted(set(ASKED) - DAEMONS))
def test_an_option_the_backend_has_is_passed(option: str) -> None:
    flag = FLAG_OF.get(option)
    able = Capabilities(options=(), **{flag: True}) if flag else Capabilities(options=(option,))  # type: ignore[arg-type]  # a flag is a bool
    check_supported(v1(**{option: ASKED[option]}), able)


@pytest.mark.parametrize(("option", "flag"), FLAG_OF.items())
def test_a_capability_with_a_flag_of_its_own_is_not_granted_by_the_list_of_options(option: str, flag: str) -> None:
    assert flag in FLAGS
    assert refusal(v1(**{option: ASKED[option]}), Capabilities(options=(option,))).details["option"] == option


def test_options_at_their_defaults_ask_for_nothing() -> None:
    check_supported(v1(), NOTHING)
    check_supported(v1(stop=[], context_policy="error", cache="caller"), NOTHING)


@pytest.mark.parametrize("option", sorted({"temperature", "top_k", "seed", "logprobs"}))
def test_zero_asks_for_something(option: str) -> None:
    assert refusal(v1(**{option: 0}), NOTHING).details["option"] == option


def test_a_long_value_is_not_repeated_at_length() -> None:
    assert "x" * 65 not in refusal(v1(stop=["x" * 256]), NOTHING).message


def v2(**fields: Any) -> GenerateRequestV2:
    return GenerateRequestV2(**{"messages": TEXT, **fields})


V2 = Capabilities(v2=True)


def test_a_v2_request_needs_a_backend_that_speaks_v2() -> None:
    assert refusal(v2(), Capabilities()).details["option"] == "version"
    check_supported(v2(), V2)


def test_tools_need_a_backend_with_tools() -> None:
    assert refusal(v2(tools=[TOOL]), V2).details["option"] == "tools"
    check_supported(v2(tools=[TOOL]), Capabilities(v2=True, tools=True))


@pytest.mark.parametrize("level", get_args(Thinking))
def test_thinking_that_is_asked_for_needs_a_backend_that_thinks(level: Thinking) -> None:
    if level in ("auto", "off"):
        check_supported(v2(thinking=level), V2)
    else:
        assert refusal(v2(thinking=level), V2).details["option"] == "thinking"
        check_supported(v2(thinking=level), Capabilities(v2=True, thinking=True))


@pytest.mark.parametrize(("block", "flag"), [(ImageBlock(attachment=0), "vision"), (AudioBlock(attachment=0), "audio")])
def test_media_needs_a_backend_that_takes_it_and_the_block_is_named(block: ImageBlock | AudioBlock, flag: str) -> None:
    messages = [*TEXT, MessageV2(role="user", content=[TextBlock(text="See"), block])]
    kind: Any = block.__struct_config__.tag
    request = v2(messages=messages, attachments=[Attachment(kind=kind, media_type="x/y", data=b"")])
    assert refusal(request, V2).details["option"] == "messages[1].content[1]"
    check_supported(request, Capabilities(v2=True, **{flag: True}))  # type: ignore[arg-type]  # a flag is a bool


def test_options_are_checked_on_v2_requests_too() -> None:
    assert refusal(v2(options=GenerateOptions(seed=5)), V2).details["option"] == "seed"


def test_a_refusal_tells_what_the_model_can() -> None:
    able = Capabilities(model="small", tools=True, options=("seed",))
    assert refusal(v1(top_k=5), able).details == {
        "option": "top_k",
        "model": "small",
        "capabilities": ["generate", "tools"],
        "options": ("seed",),
    }


# --- the smallest adapter -------------------------------------------------------------------------------------


class Smallest(Backend):
    """Three methods, as the design promises."""

    ready = True  # a constant where the port has a property

    async def start(self, report: Report) -> None: ...

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenEvent]:
        yield TextEvent("Hi")
        yield EndEvent(stop_reason="end", usage=Usage())

    async def stop(self, timeout: float) -> None: ...


def run_now(coroutine: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waited")


def small() -> Smallest:
    return Smallest("tiny", BackendOptions())


def test_a_backend_needs_the_four_abstract_members_and_no_more() -> None:
    assert Backend.__abstractmethods__ == {"ready", "start", "generate", "stop"}
    with pytest.raises(TypeError):
        Backend("x", BackendOptions())  # type: ignore[abstract]  # that is the point


def test_what_a_backend_does_not_override_is_unsupported_and_names_the_backend() -> None:
    with pytest.raises(Unsupported, match="'tiny' does not speak v2") as no_v2:
        small().generate_v2(v2())
    assert no_v2.value.details == {"option": "version", "backend": "tiny"}
    with pytest.raises(Unsupported, match="'tiny' does not embed"):
        run_now(small().embed(EmbedRequest(input=["a"])))
    with pytest.raises(Unsupported, match="'tiny' does not count"):
        run_now(small().count(CountRequest(messages=MESSAGES)))


def test_health_follows_readiness() -> None:
    backend = small()
    assert run_now(backend.health()).state == "ok"
    backend.ready = False
    assert run_now(backend.health()).state == "unavailable"


def test_a_backend_prints_its_state_in_one_line() -> None:
    assert repr(small()) == "<Smallest 'tiny' ready, slots=1>"


def test_an_option_the_adapter_does_not_have_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `slot`"):
        msgspec.convert({"slot": 4}, BackendOptions)


def test_every_exported_name_exists() -> None:
    assert all(hasattr(port, name) for name in port.__all__)


# --- embed ----------------------------------------------------------------------------------------------------

SILENT = Capabilities(embed=True, embedding_dimensions=384, model="m")
EMBEDS = Capabilities(
    embed=True, embedding_dimensions=384, model="m",
    embedding_tasks=("query", "text"), embedding_shortest=64, embedding_longest=384, embedding_raw=True,
)  # fmt: skip
PLAIN = Capabilities(
    embed=True, embedding_dimensions=384, model="m",
    embedding_tasks=(), embedding_shortest=384, embedding_longest=384, embedding_raw=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "capabilities", "expected"),
    [
        ({}, SILENT, "honoured"),
        ({}, EMBEDS, "honoured"),
        ({}, PLAIN, "honoured"),
        ({"task": "query"}, SILENT, "unsaid"),
        ({"task": "query"}, EMBEDS, "honoured"),
        ({"task": "image"}, EMBEDS, "refused"),
        ({"task": "query"}, PLAIN, "refused"),
        ({"dimensions": 384}, SILENT, "honoured"),
        ({"dimensions": 384}, PLAIN, "honoured"),
        ({"dimensions": 383}, SILENT, "unsaid"),
        ({"dimensions": 383}, PLAIN, "refused"),
        ({"dimensions": 64}, EMBEDS, "honoured"),
        ({"dimensions": 63}, EMBEDS, "refused"),
        ({"dimensions": 385}, EMBEDS, "refused"),
        ({"dimensions": 63}, msgspec.structs.replace(EMBEDS, embedding_shortest=None), "unsaid"),
        ({"dimensions": 385}, msgspec.structs.replace(EMBEDS, embedding_shortest=None), "refused"),
        ({"dimensions": 385}, msgspec.structs.replace(EMBEDS, embedding_longest=None), "unsaid"),
        ({"dimensions": 384}, msgspec.structs.replace(SILENT, embedding_dimensions=None), "unsaid"),
        ({"normalize": False}, SILENT, "unsaid"),
        ({"normalize": False}, EMBEDS, "honoured"),
        ({"normalize": False}, PLAIN, "refused"),
    ],
    ids=str,
)
def test_what_an_embed_asks_for_is_honoured_refused_by_name_or_not_known(
    wish: dict[str, Any], capabilities: Capabilities, expected: str
) -> None:
    request = EmbedRequest(input=["a"], **wish)
    if expected == "refused":
        with pytest.raises(Unsupported) as refused:
            check_embed(request, capabilities)
        assert refused.value.details["option"] == next(iter(wish))
        assert "model 'm' cannot honour" in refused.value.message
        return
    check_embed(request, capabilities)
    assert unsaid_of_embed(request, capabilities) == ([next(iter(wish))] if expected == "unsaid" else [])


def test_all_that_is_not_said_is_named() -> None:
    request = EmbedRequest(input=["a"], task="query", dimensions=2, normalize=False)
    assert unsaid_of_embed(request, SILENT) == ["task", "dimensions", "normalize"]


def test_a_refusal_says_what_could_be_asked_for() -> None:
    for wish, said in (
        ({"task": "image"}, "it knows query, text"),
        ({"dimensions": 9}, "dimensions=9: its vectors have 64 to 384"),
    ):
        with pytest.raises(Unsupported, match=said):
            check_embed(EmbedRequest(input=["a"], **wish), EMBEDS)
    with pytest.raises(Unsupported, match="it knows none"):
        check_embed(EmbedRequest(input=["a"], task="image"), PLAIN)

"""What a value's own rules refuse, and in which words."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestal import values as v
from vestal.values import MAX_JSON_DEPTH, MAX_JSON_VALUES, blocks_text, check_json

BLOCKS: list[v.ContentBlock] = [
    v.TextBlock(text="Hi"),
    v.ImageBlock(attachment=0),
    v.AudioBlock(attachment=0),
    v.ThinkingBlock(text="Hm"),
    v.ToolUseBlock(call_id="1", name="weather", input={}),
    v.ToolResultBlock(call_id="1", content="sunny"),
]
LEGAL = {
    "system": {"text"},
    "user": {"text", "image", "audio", "tool_result"},
    "assistant": {"text", "thinking", "tool_use"},
}


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize("role", get_args(v.Role))
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(type(block).__struct_config__.tag))
def test_a_role_carries_its_own_blocks_and_no_others(role: v.Role, block: v.ContentBlock) -> None:
    kind = type(block).__struct_config__.tag
    if kind in LEGAL[role]:
        assert v.MessageV2(role=role, content=[block]).content == [block]
        return
    with pytest.raises(ValueError, match=rf"^content\[1\]: a {role} message cannot hold a `{kind}` block$"):
        v.MessageV2(role=role, content=[v.TextBlock(text="Hi"), block])


def test_the_text_of_blocks_is_that_of_the_text_blocks_alone() -> None:
    assert blocks_text([v.TextBlock(text="a"), v.ThinkingBlock(text="no"), v.TextBlock(text="b")]) == "ab"


def test_a_grammar_and_a_response_format_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"^response_format: cannot be combined with grammar"):
        v.GenerateOptions(grammar='root ::= "a"', response_format=v.ResponseFormat(schema={}))


def test_a_grammar_is_measured_in_bytes() -> None:
    assert v.GenerateOptions(grammar="x" * v.MAX_GRAMMAR_BYTES).grammar
    with pytest.raises(ValueError, match="grammar: 65538 bytes, the limit is 65536"):
        v.GenerateOptions(grammar="ü" * 32769)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_option_that_is_not_a_finite_number_is_named(number: float) -> None:
    with pytest.raises(ValueError, match=r"^min_p: expected a finite number"):
        v.GenerateOptions(min_p=number)


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_whatever_json_can_say_is_taken(value: Any) -> None:
    check_json(value, "input")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"x", "holds bytes, which JSON cannot say"),
        (msgspec.msgpack.Ext(5, b"x"), "holds Ext, which JSON cannot say"),
        (float("nan"), "holds nan, which JSON cannot say"),
        (float("-inf"), "holds -inf, which JSON cannot say"),
        ({1: 2}, "a key inside it is not a string"),
        ({b"k": 2}, "a key inside it is not a string"),
    ],
)
@pytest.mark.parametrize("depth", [1, 3])
def test_what_json_cannot_say_is_refused_at_any_depth(value: object, fault: str, depth: int) -> None:
    for _ in range(depth):
        value = {"a": [value]}
    with pytest.raises(ValueError, match=f"^input: {fault}$"):
        check_json(value, "input")


def test_nesting_is_bounded() -> None:
    check_json(nested(MAX_JSON_DEPTH), "input")
    with pytest.raises(ValueError, match=r"^input: nested deeper than 64 levels$"):
        check_json(nested(MAX_JSON_DEPTH + 1), "input")
    with pytest.raises(ValueError, match=r"nested deeper"):
        check_json([[[]] * 3, nested(100_000)], "input")


def test_how_many_values_there_are_is_bounded() -> None:
    """Sixty million of them fit one frame, and the daemon would stand still for twenty seconds over them."""
    check_json([0] * (MAX_JSON_VALUES - 1), "input")
    values: list[Any] = [[0] * MAX_JSON_VALUES, {"a": [[0] * 8] * (MAX_JSON_VALUES // 8)}, [[{}] * 2**9] * 2**9]
    for value in values:
        with pytest.raises(ValueError, match=r"^input: holds more than 262144 values$"):
            check_json(value, "input")


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (lambda bad: v.Tool(name="t", input_schema=bad), "input_schema"),
        (lambda bad: v.ToolUseBlock(call_id="1", name="t", input=bad), "input"),
        (lambda bad: v.ResponseFormat(schema=bad), "schema"),
    ],
)
def test_whoever_holds_json_checks_it(made: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: holds bytes"):
        made({"a": b""})


def test_the_defaults_of_capabilities_describe_a_text_only_v1_backend() -> None:
    default = v.Capabilities()
    assert [flag for flag in v.FLAGS if getattr(default, flag)] == ["generate"]
    assert (default.slots, default.options) == (1, ("max_tokens",))


def test_the_flags_are_exactly_the_yes_or_no_capabilities() -> None:
    booleans = [name for name in v.Capabilities.__struct_fields__ if isinstance(getattr(v.Capabilities(), name), bool)]
    assert [*v.FLAGS, "local"] == booleans  # which says where a backend computes, and nothing that it can do


def test_every_exported_name_exists() -> None:
    assert all(hasattr(v, name) for name in v.__all__)

"""What a request asks about tools, and the grammar that makes an answer call one. Pure.

`required` and a named tool are enforced in the syntax of the model's family: nothing but calls can come, with
arguments that are valid under the tool's schema. With `none` the tools are not shown to the model and its answer
is not searched for calls. With `auto` the answer is parsed, and the schemas are the model's to follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vestal.backend import GenerateRequest, GenerateRequestV2
from vestal.errors import InvalidRequest, Unsupported
from vestal.values import NamedTool, Tool, ToolUseBlock
from vestal_adapters.llamacpp.constraining.rules import Rules, literal
from vestal_adapters.llamacpp.constraining.schema import add_schema
from vestal_adapters.llamacpp.families import Family, Syntax

__all__ = ["MOST_CALLS", "call_grammar", "call_ids", "check_tools", "is_constrained", "is_forced", "offered"]

MOST_CALLS = 16
"""In one answer that has to call: a small model would go on calling for ever."""


def offered(request: GenerateRequest | GenerateRequestV2) -> Sequence[Tool]:
    """The tools that the model is shown."""
    return [] if isinstance(request, GenerateRequest) or request.tool_choice == "none" else request.tools


def is_forced(request: GenerateRequest | GenerateRequestV2) -> bool:
    """Whether the answer has to call a tool."""
    return isinstance(request, GenerateRequestV2) and request.tool_choice not in ("auto", "none")


def is_constrained(request: GenerateRequest | GenerateRequestV2) -> bool:
    """Whether the answer has to keep to a grammar from its first character."""
    return is_forced(request) or request.options.grammar is not None or request.options.response_format is not None


def check_tools(request: GenerateRequest | GenerateRequestV2) -> None:
    """`Unsupported` for tools beside a grammar of the caller's own, under which no call could come."""
    for option in ("grammar", "response_format"):
        if offered(request) and getattr(request.options, option) is not None:
            raise Unsupported(
                f"{option} cannot be combined with tools that the model may call: it leaves no room for a call",
                hint=f"leave out {option}, or set tool_choice to none",
                details={"option": option},
            )


def call_ids(request: GenerateRequest | GenerateRequestV2) -> set[str]:
    """The ids of the calls that the conversation holds already."""
    if isinstance(request, GenerateRequest):
        return set()
    return {block.call_id for message in request.messages for block in message.content if type(block) is ToolUseBlock}


def call_grammar(family: Family, request: GenerateRequest | GenerateRequestV2) -> str | None:
    """GBNF of an answer that calls as the request demands; `None` if it demands nothing.

    `Unsupported` names the part of a schema that cannot be enforced.
    """
    if not isinstance(request, GenerateRequestV2) or not is_forced(request):
        return None
    choice, syntax, rules = request.tool_choice, family.syntax, Rules("tools")
    calls = [
        _call(rules, syntax, tool, f"tools[{number}].input_schema")
        for number, tool in enumerate(request.tools)
        if not isinstance(choice, NamedTool) or tool.name == choice.name
    ]
    if not calls:
        raise InvalidRequest("tool_choice: there is no such tool", details={"field": "tool_choice"})
    call = rules.add(" | ".join(calls), "call")
    root = call
    if syntax.separator is not None and not isinstance(choice, NamedTool):
        more = rules.add(f"{literal(syntax.separator)} {call}" if syntax.separator else call, "more")
        root = f"{call} {more}{{0,{MOST_CALLS - 1}}}"
    return rules.text(" ".join(filter(None, [_literal(syntax.begin), root, _literal(syntax.end)])))


def _call(rules: Rules, syntax: Syntax, tool: Tool, field: str) -> str:
    arguments = add_schema(rules, _of_objects(tool.input_schema, field), field=field)
    head = literal(f"{syntax.before}{tool.name}{syntax.between}")
    return rules.add(" ".join(filter(None, [head, arguments, _literal(syntax.after)])), "tool")


def _of_objects(schema: dict[str, Any], field: str) -> dict[str, Any]:
    """The schema, of objects only: arguments are nothing else, whether it says so or not."""
    kinds = schema.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds):
        raise InvalidRequest(
            f"{field}: arguments are objects, and it allows none",
            hint='give it "type": "object"',
            details={"field": field},
        )
    return {**schema, "type": "object"}


def _literal(text: str) -> str:
    return literal(text) if text else ""

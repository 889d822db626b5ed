"""How a chat template wants calls of tools and their results, and how to write them so. Pure.

Templates agree on `tool_calls` of an assistant's turn, on turns of the role `tool`, and on nothing else: some
want arguments as an object and some as its JSON, some no content beside a call, some one call a turn, Mistral
call ids of nine characters. What a template takes is found out once, by giving it a small conversation of
each kind and looking for its parts in what comes out. The family of its calls is the one that can read the call
that it wrote.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestal.errors import WireError
from vestal.values import MessageV2, Tool, ToolResultBlock, ToolUseBlock, blocks_text
from vestal_adapters.llamacpp.families import FAMILIES, Call, Family, Form
from vestal_adapters.llamacpp.families.scan import Verdict

__all__ = ["Convention", "Turn", "definitions", "find_convention", "one_by_one", "result_text", "tool_turns"]

Turn = dict[str, Any]
Render = Callable[[Sequence[Turn], Sequence[Any] | None], str]
"""A template, given turns and tools, without the beginning of an answer; `WireError` if it will not."""

_SHORT_ID = re.compile("[A-Za-z0-9]{9}")


@dataclass(frozen=True)
class Convention:
    """How one template takes tools.

    `empty` is the content of a turn that only calls, `as_text` whether arguments are JSON rather than an object,
    `several` whether a turn may hold more than one call, `with_text` whether it may hold text beside them.
    """

    family: Family
    empty: str | None = ""
    as_text: bool = False
    several: bool = True
    with_text: bool = True

    def turn(self, message: MessageV2) -> Turn:
        """The assistant's turn that a message with calls stands for."""
        calls = [self._call(block) for block in message.content if isinstance(block, ToolUseBlock)]
        return {"role": "assistant", "content": blocks_text(message.content) or self.empty, "tool_calls": calls}

    def _call(self, block: ToolUseBlock) -> Turn:
        arguments = json.dumps(block.input, ensure_ascii=False) if self.as_text else block.input
        function = {"name": block.name, "arguments": arguments}
        return {"id": _short_id(block.call_id), "type": "function", "function": function}


def definitions(tools: Iterable[Tool]) -> list[Turn]:
    """Tools in the shape that templates know from Hugging Face and OpenAI."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
        }
        for tool in tools
    ]


def tool_turns(message: MessageV2, names: Mapping[str, str]) -> list[Turn]:
    """The results in a user's message, each a turn of its own. `names` are the tools by call id."""
    return [
        {
            "role": "tool",
            "tool_call_id": _short_id(block.call_id),
            "name": names.get(block.call_id, ""),
            "content": result_text(block),
        }
        for block in message.content
        if isinstance(block, ToolResultBlock)
    ]


def result_text(block: ToolResultBlock) -> str:
    """What a tool said; that it failed is said in words, since no template has a place for it."""
    return f"Error: {block.content}" if block.is_error else block.content


def one_by_one(turns: Sequence[Turn]) -> list[Turn]:
    """Each call in a turn of its own, followed by its result."""
    split: list[Turn] = []
    waiting: list[Turn] = []  # calls that are not written yet
    for turn in turns:
        if turn["role"] == "tool":
            mine = [call for call in waiting if call["tool_calls"][0]["id"] == turn["tool_call_id"]][:1]
            waiting = [call for call in waiting if call not in mine]
            split += [*mine, turn]
            continue
        split += waiting
        waiting = [{**turn, "tool_calls": [call]} for call in turn.get("tool_calls", ())]
        if not waiting:
            split.append(turn)
    return split + waiting


def _short_id(call_id: str) -> str:
    """The id as every template takes it: nine letters and digits, the same ones for the same id."""
    return call_id if _SHORT_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


# --- finding out ----------------------------------------------------------------------------------------------

_NAME, _KEY, _VALUE, _RESULT, _WORDS = "probe_tool", "probe_key", "probe_value", "probe_result", "probe_words"
_TOOLS = definitions([Tool(_NAME, {"type": "object", "properties": {_KEY: {"type": "string"}}}, "probe_description")])
_QUESTION: Turn = {"role": "user", "content": "probe_question"}


def find_convention(render: Render) -> Convention | None:
    """How the template takes tools, or `None` if it does not, or in a syntax that no family here reads."""
    if _NAME not in _try(render, [_QUESTION]):
        return None
    before = _try(render, [_QUESTION, {"role": "assistant", "content": _WORDS}]).partition(_WORDS)[0]
    for as_text in (False, True):
        for empty in ("", None):
            rendered = _try(render, _probe(1, as_text, empty))
            family = _family(rendered, before) if f"{_RESULT}0" in rendered else None
            if family is not None:
                several = f"{_RESULT}1" in _try(render, _probe(2, as_text, empty))
                with_text = _WORDS in _try(render, _probe(1, as_text, _WORDS))
                return Convention(family, empty, as_text, several, with_text)
    return None


def _probe(calls: int, as_text: bool, content: str | None) -> list[Turn]:
    arguments: Any = json.dumps({_KEY: _VALUE}) if as_text else {_KEY: _VALUE}
    function = {"name": _NAME, "arguments": arguments}
    ids = [f"probe000{number}" for number in range(calls)]
    asked = [{"id": number, "type": "function", "function": function} for number in ids]
    answered = [
        {"role": "tool", "tool_call_id": number, "name": _NAME, "content": f"{_RESULT}{index}"}
        for index, number in enumerate(ids)
    ]
    return [_QUESTION, {"role": "assistant", "content": content, "tool_calls": asked}, *answered]


def _family(rendered: str, before: str) -> Family | None:
    """The family in whose syntax the template wrote its call.

    A call without a marker counts only where an answer begins: `before` is what stands before an assistant's text.
    """
    for family in FAMILIES:
        for start, char in enumerate(rendered):
            bare_elsewhere = char == "{" and rendered[:start].rstrip() != before.rstrip()
            if char in family.firsts and not bare_elsewhere and _reads(family.forms("start"), rendered[start:]):
                return family.as_written(rendered[start:])
    return None


def _reads(forms: list[Form], text: str) -> bool:
    """Whether the text begins with the call that was given."""
    for char in text:
        verdicts = [(form, form.feed(char)) for form in forms]
        for form, verdict in verdicts:
            if verdict is Verdict.DONE:
                return _calls(form) == [Call(_NAME, {_KEY: _VALUE})]
        forms = [form for form, verdict in verdicts if verdict is Verdict.TAKEN]
        if not forms:
            break
    return False


def _calls(form: Form) -> list[Call]:
    try:
        return form.calls()
    except ValueError:
        return []


def _try(render: Render, turns: Sequence[Turn]) -> str:
    try:
        return render(turns, _TOOLS)
    except WireError:
        return ""

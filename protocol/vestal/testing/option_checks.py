"""Checks of options: what is promised is accepted and has its effect; what cannot be done is refused by name.

What capabilities do not promise never reaches a backend: the daemon refuses it by `check_supported`. So the kit
asks for what is promised, and looks for the effect wherever an effect can be seen from outside.
"""

from __future__ import annotations

import json
from typing import Any

from vestal.backend import Backend, TextEvent
from vestal.errors import InvalidRequest, Unsupported
from vestal.testing.subject import Answer, Broken, Inapplicable, Subject, refusal_names
from vestal.values import ResponseFormat, Tool

__all__ = ["grammar", "logprobs", "options", "response_format", "stop_strings", "tool_choice"]

_ORDINARY: dict[str, tuple[Any, ...]] = {
    "max_tokens": (4,), "temperature": (0.0, 0.7), "top_p": (0.9,), "top_k": (0, 20), "min_p": (0.0, 0.05),
    "repeat_penalty": (1.1,), "presence_penalty": (0.5,), "frequency_penalty": (0.5,), "seed": (0, 7),
    "stop": (["\u2603"],), "context_policy": ("truncate", "shift"),
}  # fmt: skip
_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
_TOOL = Tool("lamp", {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}, "Switch it.")


async def options(subject: Subject, backend: Backend) -> None:
    """Every option it promises is accepted at ordinary values, or one value is refused naming the option."""
    _must(backend, "generate")
    for option in backend.capabilities.options:
        for value in _ORDINARY.get(option, ()):
            request = subject.request(backend, **({"max_tokens": 4} | {option: value}))
            await _accepted(subject, backend, option, request)


async def _accepted(subject: Subject, backend: Backend, option: str, request: Any) -> Answer | None:
    """The answer; `None` if this value was refused, by name."""
    try:
        return await subject.answer(backend, request)
    except (Unsupported, InvalidRequest) as exc:
        if isinstance(exc, Unsupported) and not refusal_names(exc, option):
            raise Broken(f"{option} was refused without being named in details['option']: {exc!r}") from exc
        return None
    except Broken as exc:
        raise Broken(f"{option}: {exc}") from exc


async def stop_strings(subject: Subject, backend: Backend) -> None:
    """No answer shows, or goes beyond, a stop string."""
    _must(backend, "generate")
    if "stop" not in backend.capabilities.options:
        raise Inapplicable("it does not take stop strings")
    greedy: dict[str, Any] = {"temperature": 0.0} if "temperature" in backend.capabilities.options else {}
    free = await subject.served(backend, subject.request(backend, **greedy))
    words = free.text.split()
    if len(words) < 2:
        raise Inapplicable("its answer has fewer than two words to stop at")
    stop = words[len(words) // 2]
    answer = await subject.served(backend, subject.request(backend, stop=[stop], **greedy))
    if stop in answer.text:
        raise Broken(f"the answer shows the stop string {stop!r}")


async def response_format(subject: Subject, backend: Backend) -> None:
    """With a JSON schema the answer is JSON that is valid under it."""
    _must(backend, "json_schema")
    request = subject.request(backend, max_tokens=64, response_format=ResponseFormat(_SCHEMA))
    answer = await _accepted(subject, backend, "response_format", request)
    if answer is None or answer.end.stop_reason == "length":
        return
    try:
        value = json.loads(answer.text)
    except ValueError:
        raise Broken(f"response_format was ignored: the answer is {answer.text[:64]!r}") from None
    if not (isinstance(value, dict) and isinstance(value.get("ok"), bool) and len(value) == 1):
        raise Broken(f"response_format was ignored: {answer.text[:64]!r} is not valid under the schema")


async def grammar(subject: Subject, backend: Backend) -> None:
    """With a grammar the answer is in its language."""
    _must(backend, "grammar")
    answer = await _accepted(
        subject, backend, "grammar", subject.request(backend, grammar='root ::= "yes" | "no"', max_tokens=16)
    )
    if answer is not None and answer.end.stop_reason != "length" and answer.text not in ("yes", "no"):
        raise Broken(f"grammar was ignored: the answer is {answer.text[:64]!r}")


async def logprobs(subject: Subject, backend: Backend) -> None:
    """With logprobs every token has its probability, and at most as many alternatives as asked for."""
    _must(backend, "logprobs")
    answer = await _accepted(subject, backend, "logprobs", subject.request(backend, logprobs=2))
    if answer is None:
        return
    texts = [event for event in answer.events if isinstance(event, TextEvent)]
    if not any(event.logprobs for event in texts):
        raise Broken("logprobs was ignored: no text has any")
    for event in texts:
        if len(event.logprobs) != event.tokens or any(len(token.top) > 2 for token in event.logprobs):
            raise Broken(f"{event!r} does not have one probability a token, with at most 2 alternatives")


async def tool_choice(subject: Subject, backend: Backend) -> None:
    """A call that is required comes, whole and of a tool that was offered; with `none` there is none."""
    _must(backend, "tools")
    required = subject.request_v2(backend, [_TOOL], tool_choice="required")
    answer = await _accepted(subject, backend, "tool_choice", required)
    if answer is not None and not answer.tool_uses and not _cut_off_in_a_call(answer):
        raise Broken('tool_choice="required" was ignored: there is no call')
    if answer is not None and (wrong := {call.name for call in answer.tool_uses} - {_TOOL.name}):
        raise Broken(f"a tool was called that was not offered: {', '.join(sorted(wrong))}")
    forbidden = subject.request_v2(backend, [_TOOL], tool_choice="none")
    answer = await _accepted(subject, backend, "tool_choice", forbidden)
    if answer is not None and answer.tool_uses:
        raise Broken('tool_choice="none" was ignored: there is a call')


def _cut_off_in_a_call(answer: Answer) -> bool:
    """Whether it may have been about to call: it was cut off, and all it said is said to be the beginning of a call."""
    begun = any(notice.code == "tool_call_malformed" for notice in answer.end.notices)
    return answer.end.stop_reason == "length" and (begun or not answer.text)


def _must(backend: Backend, flag: str) -> None:
    if not getattr(backend.capabilities, flag):
        raise Inapplicable(f"its capabilities do not promise {flag}")

"""What the echo says to a request: decided whole, before the first token, by a pure function.

The answer is the last user message. A token is a word with the white space before it; white space after the last
word belongs to the last token. So the tokens of a message with at least one word, joined, are the message; a
message without a word (empty, or white space only) has no tokens, and neither has a conversation without a user.

It picks each token with certainty. Temperature, `top_p`, `top_k`, `min_p`, the penalties and the seed choose
among likely tokens, and whatever they are there is one to choose from: they are honoured without doing anything.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct

from vestal.backend import CountRequest, EndEvent, GenerateRequest, GenerateRequestV2
from vestal.errors import BackendRefused, WireError
from vestal.values import Capabilities, Message, MessageV2, StopReason, Usage, blocks_text
from vestal_adapters.echo.options import EchoOptions, Fault
from vestal_adapters.echo.vectors import BATCH, DIMENSIONS, MAX_DIMENSIONS

__all__ = ["Script", "capabilities_of", "count_words", "script_of", "tokens_of"]

_TOKEN = re.compile(r"\s*\S+")
_OPTIONS = (
    "max_tokens", "stop", "temperature", "top_p", "top_k", "min_p",
    "repeat_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip


class Script(Struct, frozen=True):
    """The pieces of text to give, and how it ends: with an event, an error, a crash, or (`None`) not at all."""

    pieces: list[str]
    end: EndEvent | WireError | None
    crash: bool = False


def capabilities_of(options: EchoOptions) -> Capabilities:
    return Capabilities(
        v2=options.v2,
        embed=options.embed,
        count=True,
        slots=options.slots,
        embedding_dimensions=DIMENSIONS if options.embed else None,
        embedding_batch=BATCH if options.embed else None,
        embedding_tasks=() if options.embed else None,
        embedding_shortest=1 if options.embed else None,
        embedding_longest=MAX_DIMENSIONS if options.embed else None,
        embedding_raw=True if options.embed else None,
        local=True,
        model="echo",
        family="echo",
        options=_OPTIONS,
    )


def tokens_of(text: str) -> list[str]:
    """The tokens of a text; joined they are the text, if it has a word."""
    tokens = _TOKEN.findall(text)
    if tokens and text[-1].isspace():
        tokens[-1] += text[len(text.rstrip()) :]
    return tokens


def count_words(request: GenerateRequest | GenerateRequestV2 | CountRequest) -> int:
    """The words of all messages; of typed blocks, those of the text."""
    messages: Sequence[Message | MessageV2] | None = request.messages
    if messages is None:
        messages = request.messages_v2 if isinstance(request, CountRequest) else None
    return sum(len(_text(message).split()) for message in messages or ())


def script_of(request: GenerateRequest | GenerateRequestV2, fault: Fault) -> Script:
    """What to say to `request`, the fault that was asked for included."""
    if fault.kind == "hang":
        return Script([], None)
    if fault.kind == "before":
        return Script([], _refusal("before"))
    script = _honest(request)
    if fault.kind not in ("after", "crash") or len(script.pieces) < fault.count:
        return script
    pieces = script.pieces[: fault.count]
    if fault.kind == "crash":
        return Script(pieces, None, crash=True)
    return Script(pieces, _refusal(f"after:{fault.count}"))


def _honest(request: GenerateRequest | GenerateRequestV2) -> Script:
    said = [_text(message) for message in request.messages if message.role == "user"]
    tokens = tokens_of(said[-1]) if said else []
    reason: StopReason = "end"
    limit = request.options.max_tokens
    if limit is not None and len(tokens) > limit:
        tokens, reason = tokens[:limit], "length"
    pieces, used = tokens, len(tokens)
    if request.options.stop and (stopped := _stopped(tokens, request.options.stop)):
        pieces, used = stopped
        reason = "stop_sequence"
    return Script(pieces, EndEvent(reason, Usage(count_words(request), 0, used)))


def _stopped(tokens: list[str], stops: list[str]) -> tuple[list[str], int] | None:
    """The pieces before the stop string that is complete first, and the tokens it took to complete it."""
    text = "".join(tokens)
    ends = list(accumulate(map(len, tokens)))
    found = [(bisect_left(ends, at + len(stop)), at) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return None
    last, cut = min(found)
    whole = bisect_left(ends, cut + 1)  # tokens that end before the cut
    rest = text[ends[whole - 1] if whole else 0 : cut]
    return tokens[:whole] + [rest] * bool(rest), last + 1


def _refusal(fault: str) -> BackendRefused:
    return BackendRefused(f"the echo backend was asked to fail: fault = {fault!r}", details={"fault": fault})


def _text(message: Message | MessageV2) -> str:
    return message.content if isinstance(message, Message) else blocks_text(message.content)

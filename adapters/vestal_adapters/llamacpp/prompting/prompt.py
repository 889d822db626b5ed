"""From a request's conversation to the tokens of its prompt, within what a slot holds.

What does not fit is refused with the arithmetic (`context_policy: error`), or made to fit by leaving out the fewest
oldest turns (`truncate`), which a notice says. Where the request does not say how long its answer may be, a shortened
prompt leaves a quarter of the context for it if it can: one that just fits would be answered in a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from vestal.backend import CountRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import ContextOverflow, InvalidRequest, WireError
from vestal.values import Message, MessageV2, Notice, Tool
from vestal_adapters.llamacpp.batching.slots import common_prefix
from vestal_adapters.llamacpp.native import Vocabulary
from vestal_adapters.llamacpp.prompting.chat import ChatTemplate, Prompt
from vestal_adapters.llamacpp.prompting.extent import extent
from vestal_adapters.llamacpp.prompting.tools import is_constrained, offered
from vestal_adapters.llamacpp.prompting.turns import droppable_turns, fewest, without

__all__ = ["QUICKLY_TOKENISED", "Prompter"]

QUICKLY_TOKENISED = 64 * 1024
"""Characters: some 30 ms."""
_QUICKLY_RENDERED = 16 * 1024
"""Messages: some 60 ms."""


class Prompter:
    """Renders and tokenises conversations for one model. `context_length` is tokens per slot."""

    def __init__(self, template: ChatTemplate, vocabulary: Vocabulary, context_length: int) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self.context_length = context_length

    def __repr__(self) -> str:
        return f"<Prompter {self._template!r}, {self.context_length:,} tokens>"

    def prompt(self, request: GenerateRequest | GenerateRequestV2) -> tuple[list[int], list[Notice]]:
        """The prompt's tokens and what has to be said about them.

        `ContextOverflow` unless they and the asked output (one token, where none is asked) fit a slot. With
        `context_policy: shift` the output makes its own room, beyond the first token.
        """
        options = request.options
        output = 1 if options.context_policy == "shift" else options.max_tokens
        try:
            return self._fitting(request, request.messages, output)
        except ContextOverflow:
            turns = droppable_turns(request.messages) if options.context_policy == "truncate" else []
            if not turns:
                raise
        return self._truncated(request, turns)

    def fixed(self, request: GenerateRequest | GenerateRequestV2, tokens: Sequence[int]) -> int:
        """How many of the prompt's first tokens come before what the user says: the system's part, at least BOS.

        They are what another conversation would have in common with this one.
        """
        messages: Sequence[Message | MessageV2] = request.messages
        lead = list(takewhile(lambda message: message.role == "system", messages))
        try:
            others = [self._rendered(request, [*lead, Message("user", text)], None)[0] for text in ("x", "y")]
        except WireError:  # the template wants more of a conversation than that
            return int(tokens[:1] == [self._vocabulary.bos])
        return min(common_prefix(tokens, other) for other in others)

    def count(self, request: CountRequest) -> int:
        """Tokens of the prompt that a generate request with the same conversation would have."""
        messages: Sequence[Message | MessageV2] = request.messages_v2 or request.messages or []
        self._check_extent(messages, request.tools, None)
        return len(self._tokens(self._template.prompt(messages, tools=request.tools), None))

    def _truncated(
        self, request: GenerateRequest | GenerateRequestV2, turns: list[list[int]]
    ) -> tuple[list[int], list[Notice]]:
        wanted = request.options.max_tokens

        def fits(count: int, output: int | None) -> bool:
            try:
                self._fitting(request, without(request.messages, turns[:count]), output)
            except ContextOverflow:
                return False
            return True

        room = wanted or self.context_length // 4
        count = fewest(len(turns), lambda count: fits(count, room)) or len(turns)
        tokens, notices = self._fitting(request, without(request.messages, turns[:count]), wanted)
        return tokens, [*notices, self._truncation(turns, count, len(tokens))]

    def _truncation(self, turns: list[list[int]], count: int, tokens: int) -> Notice:
        messages = sum(map(len, turns[:count]))
        message = (
            f"the conversation does not fit the context of {self.context_length:,} tokens: the oldest {count:,} of its"
            f" {len(turns) + 1:,} turns, {messages:,} messages, were left out; the prompt has {tokens:,} tokens now"
        )
        return Notice("truncated", message)

    def _fitting(
        self, request: GenerateRequest | GenerateRequestV2, messages: Sequence[Message | MessageV2], output: int | None
    ) -> tuple[list[int], list[Notice]]:
        tokens, notices = self._rendered(request, messages, output)
        self._check(len(tokens), output)
        return tokens, notices

    def _rendered(
        self, request: GenerateRequest | GenerateRequestV2, messages: Sequence[Message | MessageV2], output: int | None
    ) -> tuple[list[int], list[Notice]]:
        """The prompt of the request with these messages for its own; `output` is for the arithmetic of a refusal."""
        thinking = request.thinking if isinstance(request, GenerateRequestV2) else "auto"
        constrained, tools = is_constrained(request), offered(request)
        self._check_extent(messages, tools, output)
        prompt = self._template.prompt(messages, thinking, tools, constrained=constrained)
        return self._tokens(prompt, output), prompt.notices

    def _tokens(self, prompt: Prompt, max_tokens: int | None) -> list[int]:
        self._check_size(prompt, max_tokens)
        vocabulary, tokens = self._vocabulary, list[int]()
        for text, trusted in prompt.segments:
            tokens += vocabulary.tokenize(text, parse_special=trusted)
        # Many templates write BOS themselves; two of them make answers worse.
        if vocabulary.adds_bos and tokens[:1] != [vocabulary.bos]:
            tokens.insert(0, vocabulary.bos)
        if not tokens:
            raise InvalidRequest("the conversation is empty: 0 tokens", details={"field": "messages"})
        return tokens

    def _check_extent(
        self, messages: Sequence[Message | MessageV2], tools: Sequence[Tool], max_tokens: int | None
    ) -> None:
        """Refuse by its size alone what cannot fit and would hold up every other answer while it is rendered."""
        if len(messages) > max(self.context_length, _QUICKLY_RENDERED):  # each takes a token or more
            raise _overflow(len(messages), max_tokens, self.context_length, "at least ")
        self._check_characters(extent(messages, tools), max_tokens)

    def _check_size(self, prompt: Prompt, max_tokens: int | None) -> None:
        """The same for what a template made of it, before it is tokenised."""
        self._check_characters(sum(len(segment.text) for segment in prompt.segments), max_tokens)

    def _check_characters(self, characters: int, max_tokens: int | None) -> None:
        longest = self._vocabulary.longest
        if longest is not None and characters > QUICKLY_TOKENISED:
            at_least = characters // longest
            if at_least > self.context_length:
                raise _overflow(at_least, max_tokens, self.context_length, "at least ")

    def _check(self, tokens: int, max_tokens: int | None) -> None:
        if tokens + (max_tokens or 1) > self.context_length:
            raise _overflow(tokens, max_tokens, self.context_length)


def _overflow(tokens: int, max_tokens: int | None, context_length: int, how: str = "") -> ContextOverflow:
    asked = max_tokens or 1
    if tokens < context_length:
        hint = f"lower max_tokens to {context_length - tokens:,} or less, or shorten the conversation"
    else:
        hint = f"shorten the conversation by {tokens + 1 - context_length:,} tokens or more"
    return ContextOverflow(
        f"the prompt has {how}{tokens:,} tokens and the answer may take {asked:,}: together {tokens + asked:,},"
        f" and the context holds {context_length:,}",
        hint=hint,
        details={"prompt_tokens": tokens, "max_tokens": asked, "context_length": context_length},
    )

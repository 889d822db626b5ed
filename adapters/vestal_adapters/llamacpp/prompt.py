"""From a request's conversation to the tokens of its prompt, within what a slot holds."""

from __future__ import annotations

from collections.abc import Sequence

from vestal.backend import CountRequest, GenerateRequest, GenerateRequestV2
from vestal.errors import ContextOverflow, InvalidRequest, Unsupported
from vestal.values import Message, MessageV2, Notice
from vestal_adapters.llamacpp.chat import ChatTemplate, Prompt
from vestal_adapters.llamacpp.native import Vocabulary

__all__ = ["QUICKLY_TOKENISED", "Prompter"]

QUICKLY_TOKENISED = 64 * 1024
"""Characters: some 30 ms."""


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

        `ContextOverflow` unless they and the asked output (one token, where none is asked) fit a slot.
        """
        if isinstance(request, GenerateRequestV2):
            _refuse_tools(bool(request.tools))
            prompt = self._template.prompt(request.messages, request.thinking)
        else:
            prompt = self._template.prompt(request.messages)
        tokens = self._tokens(prompt, request.options.max_tokens)
        self._check(len(tokens), request.options.max_tokens)
        return tokens, prompt.notices

    def count(self, request: CountRequest) -> int:
        """Tokens of the prompt that a generate request with the same conversation would have."""
        _refuse_tools(bool(request.tools))
        messages: Sequence[Message | MessageV2] = request.messages_v2 or request.messages or []
        return len(self._tokens(self._template.prompt(messages), None))

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

    def _check_size(self, prompt: Prompt, max_tokens: int | None) -> None:
        """Refuse by its size alone what cannot fit and would hold up every other answer while it is tokenised."""
        characters, longest = sum(len(segment.text) for segment in prompt.segments), self._vocabulary.longest
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


def _refuse_tools(asked: bool) -> None:
    if asked:
        raise Unsupported("this backend does not run tools yet", details={"option": "tools"})

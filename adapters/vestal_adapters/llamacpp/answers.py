"""How one model's answers are to be read, request by request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vestal.backend import GenerateRequest, GenerateRequestV2
from vestal_adapters.llamacpp.native import Vocabulary
from vestal_adapters.llamacpp.prompting.chat import ChatTemplate
from vestal_adapters.llamacpp.prompting.tools import call_grammar, call_ids, is_constrained, offered
from vestal_adapters.llamacpp.reading.calls import CallSplitter
from vestal_adapters.llamacpp.reading.output import Reader
from vestal_adapters.llamacpp.reading.thinking import ThinkingSplitter

__all__ = ["Answers"]

_TAG_TOKENS = 32
"""A tag and the white space after it, where every byte is a token."""


class Answers:
    """What the template and the vocabulary tell about a model's answers."""

    def __init__(self, template: ChatTemplate, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._family = template.family
        self._tags = template.tags
        self._call_markers = _markers(vocabulary, template.family.markers)
        self._thinking_markers = {} if self._tags is None else _markers(vocabulary, self._tags[:2])

    def __repr__(self) -> str:
        thinks = "no thinking" if self._tags is None else f"thinking in {self._tags.begin}"
        return f"<Answers with calls as {self._family.name}, {thinks}>"

    def grammar(self, request: GenerateRequest | GenerateRequestV2) -> str | None:
        """The GBNF that makes the answer call, where it must."""
        return call_grammar(self._family, request)

    def reader(self, request: GenerateRequest | GenerateRequestV2, prompt: Sequence[int]) -> Reader:
        """What reads the answer to the request and the tokens of its prompt."""
        tools, markers = offered(request), dict[int, bytes]()
        calls = thinking = None
        if tools:
            calls = CallSplitter(self._family, {tool.name for tool in tools})
            markers |= self._call_markers
        if self._tags is not None and not is_constrained(request):
            thinking = ThinkingSplitter(self._tags, opened=self._tags.opened(self._end_of(prompt)))
            markers |= self._thinking_markers
        return Reader(
            request.options.stop,
            thinking=thinking,
            calls=calls,
            markers=markers,
            shows_thinking=isinstance(request, GenerateRequestV2) and request.thinking != "off",
            taken=call_ids(request) if tools else (),
        )

    def _end_of(self, prompt: Sequence[int]) -> str:
        """Enough of the prompt's text to see an opened tag: some templates open it for the model."""
        pieces = (self._thinking_markers.get(token) or self._vocabulary.piece(token) for token in prompt[-_TAG_TOKENS:])
        return b"".join(pieces).decode("utf-8", "replace")


def _markers(vocabulary: Vocabulary, texts: Iterable[str]) -> dict[int, bytes]:
    """Those that are control tokens, which make no text by themselves."""
    markers = {}
    for text in texts:
        match vocabulary.tokenize(text, parse_special=True):
            case [token] if not vocabulary.piece(token):
                markers[token] = text.encode()
    return markers

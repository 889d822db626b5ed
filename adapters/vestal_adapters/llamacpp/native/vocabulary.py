"""A model's tokens: text to tokens, tokens to bytes, and which of them mean something of their own."""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import llama_cpp as lib

__all__ = ["Vocabulary"]

# Tokenisers of these kinds account for every byte of the text; the others drop accents, spaces or case.
_LOSSLESS = (lib.LLAMA_VOCAB_TYPE_SPM, lib.LLAMA_VOCAB_TYPE_BPE)
# What llama.cpp takes for the token itself only where special tokens are parsed. User-defined ones it always does.
_SPECIAL = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN


class Vocabulary:
    """Belongs to its model and is of no use after that is closed.

    `ends` are the tokens that end an answer. `special_texts` are the texts that become a control token where
    special tokens are parsed. `longest` is the most bytes that a token can stand for, `None` where text may
    vanish in tokenising and so no bound holds.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._pieces: dict[int, bytes] = {}
        self.size: int = lib.llama_vocab_n_tokens(handle)
        self.bos: int = lib.llama_vocab_bos(handle)
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(handle)) and self.bos >= 0
        self.bos_text = self._token_text(self.bos)
        self.eos_text = self._token_text(lib.llama_vocab_eos(handle))
        tokens = range(self.size)
        self.ends = frozenset(token for token in tokens if lib.llama_vocab_is_eog(handle, token))
        special = (token for token in tokens if lib.llama_vocab_get_attr(handle, token) & _SPECIAL)
        self.special_texts = frozenset(text for token in special if (text := self._token_text(token)))
        self.longest = self._longest() if lib.llama_vocab_type(handle) in _LOSSLESS else None

    def __repr__(self) -> str:
        return f"<Vocabulary of {self.size:,} tokens, {len(self.special_texts)} special>"

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """The tokens of `text`.

        With `add_special` those that the model wants around a text; only with `parse_special` does the text
        of a control token become that token.
        """
        data = text.encode()
        room = len(data) + 8  # beside one per byte: BOS, EOS, a space in front
        count, tokens = self._tokenize(data, room, add_special, parse_special)
        if count < 0:
            count, tokens = self._tokenize(data, -count, add_special, parse_special)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that `token` adds to a text; none for a control token."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token)
        return known

    def _tokenize(self, data: bytes, room: int, add_special: bool, parse_special: bool) -> tuple[int, Any]:
        tokens = (ctypes.c_int32 * room)()
        return (
            lib.llama_tokenize(self._handle, data, len(data), tokens, room, add_special, parse_special),
            tokens,
        )

    def _read_piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = lib.llama_token_to_piece(self._handle, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def _token_text(self, token: int) -> str:
        if token < 0:
            return ""
        return (lib.llama_vocab_get_text(self._handle, token) or b"").decode("utf-8", "replace")

    def _longest(self) -> int:
        # The text as stored has at least as many bytes as what it stands for.
        return max((len(lib.llama_vocab_get_text(self._handle, token)) for token in range(self.size)), default=1)

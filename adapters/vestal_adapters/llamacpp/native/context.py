"""What a model computes with: a KV cache, threads, and the batch that is run."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from llama_cpp import llama_cpp as lib

from vestal.errors import VestalError
from vestal_adapters.llamacpp.native.log import log
from vestal_adapters.llamacpp.native.model import Model

__all__ = ["Batch", "Context"]

MOST_TOKENS = 2**31 - 1
"""Tokens of all sequences together. llama.cpp takes 2**32 as 0, which is the model's default."""
_POOLED = (lib.LLAMA_POOLING_TYPE_MEAN, lib.LLAMA_POOLING_TYPE_CLS, lib.LLAMA_POOLING_TYPE_LAST)


class Batch:
    """The input of one decode, in memory of our own: filled again for every step, never allocated again.

    llama.cpp computes sequences together only if they come in the order of their numbers, without a gap;
    tokens out of that order cost a pass through the weights each.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        # Any: typeshed knows no array that takes a plain list of integers.
        self._tokens: Any = (ctypes.c_int32 * size)()
        self._positions: Any = (ctypes.c_int32 * size)()
        self._sequences: Any = (ctypes.c_int32 * size)()
        self._outputs: Any = (ctypes.c_int8 * size)()
        self._keep = ((ctypes.c_int32 * size)(*[1] * size), _pointers_to(self._sequences))
        integers = ctypes.POINTER(ctypes.c_int32)
        self.native = lib.llama_batch(
            token=ctypes.cast(self._tokens, integers),
            pos=ctypes.cast(self._positions, integers),
            n_seq_id=ctypes.cast(self._keep[0], integers),
            seq_id=ctypes.cast(self._keep[1], ctypes.POINTER(integers)),
            logits=ctypes.cast(self._outputs, ctypes.POINTER(ctypes.c_int8)),
        )

    def __repr__(self) -> str:
        return f"<Batch {self.count} of {self.size} tokens>"

    def clear(self) -> None:
        self.count = 0

    def add_one(self, token: int, position: int, sequence: int) -> int:
        """Add one token that wants an output; returns its row. `IndexError` past the end."""
        row = self.count
        self._tokens[row] = token
        self._positions[row] = position
        self._sequences[row] = sequence
        self._outputs[row] = 1
        self.count = row + 1
        return row

    def add_run(self, tokens: Sequence[int], start: int, sequence: int) -> int:
        """Add tokens at positions from `start`, none of which wants an output; returns the row of the last."""
        row, count = self.count, len(tokens)
        end = row + count
        if end > self.size:
            raise IndexError(f"{end} tokens do not fit a batch of {self.size}")
        self._tokens[row:end] = tokens
        self._positions[row:end] = range(start, start + count)
        self._sequences[row:end] = [sequence] * count
        self._outputs[row:end] = bytes(count)
        self.count = end
        return end - 1

    def want_output(self, first: int, last: int) -> None:
        """Ask for the outputs of the rows from `first` to `last`."""
        self._outputs[first : last + 1] = b"\x01" * (last + 1 - first)


class Context:
    """A model with memory to compute in. Not for use by two threads at once."""

    def __init__(self, handle: int, description: str) -> None:
        self._handle: int | None = handle
        self._memory = lib.llama_get_memory(handle)
        self._description = description
        self._drops = self._slides = False

    @classmethod
    def generating(cls, model: Model, *, sequences: int, length: int, batch: int, threads: int) -> Context:
        """For `sequences` answers of `length` tokens at once; `VestalError` if there is no memory for it.

        Each sequence has a cache of its own: that is 10 to 15 % faster than one which all share.
        """
        description = f"{sequences} slot{'s' * (sequences > 1)} of {length:,} tokens"
        if sequences * length > MOST_TOKENS:
            raise VestalError(
                f"{description} are {sequences * length:,} tokens, and llama.cpp counts to {MOST_TOKENS:,}",
                hint="lower `slots` or `context_length`",
            )
        params = _context_params(batch, threads)
        params.n_ctx = sequences * length
        params.n_seq_max = params.n_outputs_max = sequences
        params.kv_unified = False
        params.swa_full = True  # or the beginning of a prompt is gone when the next request wants it
        context = cls._create(model, params, description)
        context._drops = not (lib.llama_model_is_recurrent(model.handle) or lib.llama_model_is_hybrid(model.handle))
        context._slides = lib.llama_model_n_swa(model.handle) > 0
        return context

    @classmethod
    def embedding(cls, model: Model, *, sequences: int, batch: int, threads: int) -> Context:
        """For turning up to `sequences` texts, `batch` tokens in all, into vectors at once."""
        # Rounded up: llama.cpp aborts the process where sequences do not divide a batch, or outnumber its tokens.
        params = _context_params(-(-batch // sequences) * sequences, threads)
        params.n_ctx = params.n_batch
        params.n_seq_max = sequences
        params.kv_unified = True
        params.embeddings = True
        return cls._create(model, params, f"{sequences} texts in {batch:,} tokens")

    @classmethod
    def _create(cls, model: Model, params: Any, description: str) -> Context:
        log.clear()
        handle = lib.llama_init_from_model(model.handle, params)
        if handle is None:
            message = f"llama.cpp cannot make a context of {description}: {log.cause()}"
            raise VestalError(message, hint=log.hint())
        return cls(handle, description)

    def __repr__(self) -> str:
        return f"<Context of {self._description}{', closed' if self._handle is None else ''}>"

    @property
    def handle(self) -> int:
        """For the rest of this package only."""
        if self._handle is None:
            raise VestalError(f"the context of {self._description} is closed")
        return self._handle

    @property
    def pools(self) -> bool:
        """Whether one vector per sequence comes out, rather than one per token or a rank."""
        return lib.llama_pooling_type(self.handle) in _POOLED

    def decode(self, batch: Batch) -> int:
        """Run one batch; 0, or llama.cpp's status, whose reason `complaint()` then gives."""
        log.clear()
        batch.native.n_tokens = batch.count
        # A model without a cache has nothing to decode with; llama.cpp would log that at every step.
        run = lib.llama_encode if self._memory is None else lib.llama_decode
        status: int = run(self.handle, batch.native)
        return status

    def complaint(self) -> str:
        """What llama.cpp had to say about the last decode."""
        return log.cause()

    def forget(self, sequence: int) -> None:
        """Remove a sequence from the cache."""
        if self._memory is not None:
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    @property
    def drops(self) -> bool:
        """Whether the end of a sequence can be dropped; a recurrent state cannot go back."""
        return self._memory is not None and self._drops

    @property
    def shifts(self) -> bool:
        """Whether what follows a dropped part can be moved down.

        Not with attention that sees a window only: its cache writes over what no window shows, in any order.
        """
        return self.drops and not self._slides and bool(lib.llama_memory_can_shift(self._memory))

    def keep(self, sequence: int, count: int) -> bool:
        """Drop all but the first `count` tokens of a sequence; `False` if they cannot be had alone."""
        if not self.drops or not lib.llama_memory_seq_rm(self._memory, sequence, count, -1):
            return False
        first = lib.llama_memory_seq_pos_min(self._memory, sequence)
        last = lib.llama_memory_seq_pos_max(self._memory, sequence)
        return bool(first == 0 and last == count - 1)  # a window's cache may have lost the beginning

    def copy(self, source: int, target: int, count: int) -> None:
        """Make the first `count` tokens of `source` all that `target` holds.

        Between caches of their own llama.cpp copies only whole ones, and that at the next decode: 10 ms for 4,096
        tokens of a 135M model.
        """
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        lib.llama_memory_seq_rm(self._memory, target, count, -1)

    def shift(self, sequence: int, start: int, count: int) -> None:
        """Drop `count` tokens from position `start` on, and move what follows down to there."""
        lib.llama_memory_seq_rm(self._memory, sequence, start, start + count)
        lib.llama_memory_seq_add(self._memory, sequence, start + count, -1, -count)

    def logits(self, row: int, size: int) -> memoryview:
        """The `size` logits of the batch's `row`, float32 in the machine's own byte order.

        A view that holds until the next decode: a copy costs twice as much as to find the largest.
        """
        values = lib.llama_get_logits_ith(self.handle, row)
        if not values:
            raise VestalError(f"llama.cpp has no logits for row {row}")
        return memoryview((ctypes.c_float * size).from_address(ctypes.addressof(values.contents))).cast("B")

    def forget_all(self) -> None:
        """Empty the cache."""
        if self._memory is not None:
            lib.llama_memory_clear(self._memory, False)

    def vector(self, sequence: int, dimensions: int) -> bytes:
        """The pooled vector of a sequence of the last decode: float32 in the machine's own byte order."""
        values = lib.llama_get_embeddings_seq(self.handle, sequence)
        if not values:
            raise VestalError(f"llama.cpp has no vector for sequence {sequence}")
        return ctypes.string_at(values, 4 * dimensions)

    def warm_up(self, token: int) -> None:
        """Run one token through all the weights, so that the first request does not wait for the disk."""
        batch = Batch(1)
        batch.add_one(token, 0, 0)
        lib.llama_set_warmup(self.handle, True)
        status = self.decode(batch)
        lib.llama_synchronize(self.handle)
        lib.llama_set_warmup(self.handle, False)
        if status != 0:
            raise VestalError(f"llama.cpp cannot run the model: status {status}, {log.cause()}", hint=log.hint())
        self.forget_all()

    def close(self) -> None:
        """Free the cache and the buffers."""
        if self._handle is not None:
            lib.llama_free(self._handle)
            self._handle = self._memory = None


def _context_params(batch: int, threads: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_batch = params.n_ubatch = batch
    params.n_threads = params.n_threads_batch = threads
    return params


def _pointers_to(cells: Any) -> Any:
    """An array of pointers, one to each cell: llama.cpp wants a list of sequences for every token."""
    pointer = ctypes.POINTER(ctypes.c_int32)
    base, step = ctypes.addressof(cells), ctypes.sizeof(ctypes.c_int32)
    addresses = range(base, base + step * len(cells), step)
    return (pointer * len(cells))(*(ctypes.cast(address, pointer) for address in addresses))

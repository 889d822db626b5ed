"""llama.cpp with nothing around it: a batch, a sampler chain per stream, greedy, in a process of its own.

Reads a JSON line `{"streams": N, "tokens": M}` and answers with tokens per second in all, or `{"prefill": N}` and
answers with the seconds until the token after a prompt of N tokens is known, as often as asked. A process of its own,
so that the threads and memory of the thing compared with are not beside it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the worker has it; read when the library loads

from llama_cpp import llama_cpp as lib

from benchmarks.offload import LAYERS

PROMPT = "<|im_start|>user\nWrite a long story about a lighthouse keeper.<|im_end|>\n<|im_start|>assistant\n"


class Raw:
    def __init__(self, path: str, streams: int, threads: int, length: int = 2048) -> None:
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = LAYERS
        self.model = lib.llama_model_load_from_file(path.encode(), model_params)
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = length * streams, streams, 512, 512
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        self.context = lib.llama_init_from_model(self.model, params)
        self.batch = lib.llama_batch_init(512, 0, 1)
        self.piece: Any = (ctypes.c_char * 64)()

    def run(self, streams: int, tokens: int) -> float:
        """Tokens per second of all streams, from the first sampled token to the last."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        samplers = [self._sampler() for _ in range(streams)]
        prompt = self._tokenize(PROMPT.encode())
        next_tokens = [self._prefill(prompt, stream, samplers[stream]) for stream in range(streams)]
        begun = time.perf_counter()
        for step in range(tokens - 1):
            for stream, token in enumerate(next_tokens):
                self._put(stream, token, len(prompt) + step, stream, 1)
            self.batch.n_tokens = streams
            lib.llama_decode(self.context, self.batch)
            for stream in range(streams):
                next_tokens[stream] = lib.llama_sampler_sample(samplers[stream], self.context, stream)
                lib.llama_token_to_piece(self.vocabulary, next_tokens[stream], self.piece, 64, 0, False)
        rate = streams * (tokens - 1) / (time.perf_counter() - begun)
        for sampler in samplers:
            lib.llama_sampler_free(sampler)
        return rate

    def prefill(self, count: int) -> float:
        """Seconds for a prompt of `count` tokens, a full batch at a time, and the token after it."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        sampler = self._sampler()
        text = self._tokenize(PROMPT.encode())
        tokens = (text * (count // len(text) + 1))[:count]
        begun = time.perf_counter()
        for start in range(0, count, 512):
            piece = tokens[start : start + 512]
            for row, token in enumerate(piece):
                self._put(row, token, start + row, 0, start + row == count - 1)
            self.batch.n_tokens = len(piece)
            lib.llama_decode(self.context, self.batch)
        lib.llama_sampler_sample(sampler, self.context, -1)
        took = time.perf_counter() - begun
        lib.llama_sampler_free(sampler)
        return took

    def _sampler(self) -> Any:
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        return chain

    def _prefill(self, prompt: list[int], stream: int, sampler: Any) -> int:
        for position, token in enumerate(prompt):
            self._put(position, token, position, stream, position == len(prompt) - 1)
        self.batch.n_tokens = len(prompt)
        lib.llama_decode(self.context, self.batch)
        return int(lib.llama_sampler_sample(sampler, self.context, -1))

    def _put(self, row: int, token: int, position: int, stream: int, output: int) -> None:
        batch = self.batch
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, output
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, stream

    def _tokenize(self, text: bytes) -> list[int]:
        found = (lib.llama_token * 512)()
        count = lib.llama_tokenize(self.vocabulary, text, len(text), found, 512, True, True)
        return list(found[:count])


def main() -> None:
    path, streams, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    raw = Raw(path, streams, threads, *map(int, sys.argv[4:]))
    raw.run(1, 8)  # the weights are in memory after this
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(raw.prefill(asked["prefill"]) if "prefill" in asked else raw.run(**asked), flush=True)


if __name__ == "__main__":
    main()

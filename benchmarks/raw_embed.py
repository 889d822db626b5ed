"""Embedding with nothing around it: texts packed sixteen a batch into llama.cpp, in a process of its own.

Reads a JSON list of texts a line; answers with texts per second.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the worker has it; read when the library loads

import numpy
from llama_cpp import llama_cpp as lib

_TEXTS, _TOKENS, _DIMENSIONS = 16, 512, 384


def _context(path: str, threads: int) -> tuple[Any, Any]:
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = _TOKENS
    params.n_seq_max, params.embeddings, params.kv_unified = _TEXTS, True, True
    params.n_threads = params.n_threads_batch = threads
    return lib.llama_model_get_vocab(model), lib.llama_init_from_model(model, params)


def _run(vocabulary: Any, context: Any, batch: Any, texts: list[str]) -> float:
    begun = time.perf_counter()
    tokens: Any = (lib.llama_token * _TOKENS)()
    for start in range(0, len(texts), _TEXTS):
        rows = 0
        for sequence, text in enumerate(texts[start : start + _TEXTS]):
            data = text.encode()
            count = lib.llama_tokenize(vocabulary, data, len(data), tokens, _TOKENS, True, False)
            for position in range(count):
                batch.token[rows], batch.pos[rows], batch.logits[rows] = tokens[position], position, 1
                batch.n_seq_id[rows], batch.seq_id[rows][0] = 1, sequence
                rows += 1
        batch.n_tokens = rows
        lib.llama_encode(context, batch)
        for sequence in range(min(_TEXTS, len(texts) - start)):
            data = ctypes.string_at(lib.llama_get_embeddings_seq(context, sequence), 4 * _DIMENSIONS)
            vector = numpy.frombuffer(data, numpy.float32)
            (vector / numpy.linalg.norm(vector)).tobytes()
    return len(texts) / (time.perf_counter() - begun)


def main() -> None:
    vocabulary, context = _context(sys.argv[1], int(sys.argv[2]))
    batch = lib.llama_batch_init(_TOKENS, 0, 1)
    for line in sys.stdin:
        print(_run(vocabulary, context, batch, json.loads(line)), flush=True)


if __name__ == "__main__":
    main()

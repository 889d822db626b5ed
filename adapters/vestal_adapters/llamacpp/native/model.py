"""Opening a GGUF file, and what the library knows about the model in it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as lib

from vestal.errors import ModelError, VestalError
from vestal_adapters.llamacpp.native.log import log
from vestal_adapters.llamacpp.native.vocabulary import Vocabulary

__all__ = ["Model", "why_no_gpu"]

LoadProgress = Callable[[float], None]
"""Called with the part of the weights that is loaded, 0.0 to 1.0."""


class Model:
    """The weights and the vocabulary of one GGUF file. Lengths are in tokens, `dimensions` in numbers."""

    def __init__(self, handle: int, path: Path) -> None:
        self._handle: int | None = handle
        self.path = path
        self.vocabulary = Vocabulary(lib.llama_model_get_vocab(handle))
        self.context_length: int = lib.llama_model_n_ctx_train(handle)
        self.dimensions: int = lib.llama_model_n_embd_out(handle)
        template = lib.llama_model_chat_template(handle, None)
        self.chat_template: str | None = None if template is None else template.decode("utf-8", "replace")
        decodes = lib.llama_model_has_decoder(handle) and not lib.llama_model_has_encoder(handle)
        self.generates = bool(decodes and not lib.llama_model_is_diffusion(handle))

    @classmethod
    def open(
        cls,
        path: Path,
        progress: LoadProgress,
        *,
        shown: Path | None = None,
        gpu_layers: int = 0,
        mmap: bool = True,
        mlock: bool = False,
    ) -> Model:
        """Load the file, called `shown` in messages; `ModelError` with llama.cpp's own reason if it cannot.

        What `progress` raises stops the loading and is raised again.
        """
        _initialise()
        shown = shown or path
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = _load_mode(mmap, mlock)
        watched = _Watched(progress)
        params.progress_callback = watched.callback
        handle = lib.llama_model_load_from_file(str(path).encode("utf-8", "surrogateescape"), params)
        if watched.error is not None:
            if handle is not None:
                lib.llama_model_free(handle)
            raise watched.error
        if handle is None:
            raise ModelError(f"llama.cpp cannot load {shown}: {_cause(path, shown)}", hint=log.hint())
        if lib.llama_vocab_type(lib.llama_model_get_vocab(handle)) == lib.LLAMA_VOCAB_TYPE_NONE:
            lib.llama_model_free(handle)  # asking it for a token would abort the process
            raise ModelError(f"{shown} has no vocabulary", hint="choose a model that comes with its tokenizer")
        return cls(handle, shown)

    def __repr__(self) -> str:
        return f"<Model {self.path.name!r} {'closed' if self._handle is None else self.vocabulary}>"

    @property
    def handle(self) -> int:
        """For the rest of this package only."""
        if self._handle is None:
            raise VestalError(f"the model {self.path.name!r} is closed")
        return self._handle

    def close(self) -> None:
        """Free the weights; every context on them must be closed before."""
        if self._handle is not None:
            lib.llama_model_free(self._handle)
            self._handle = None


def _cause(path: Path, shown: Path) -> str:
    """llama.cpp's reason, where it names the file as people know it."""
    return log.cause().replace(str(path), str(shown))


class _Watched:
    """A progress callback that C can call: nothing may be raised through C, so `error` keeps it for later."""

    def __init__(self, progress: LoadProgress) -> None:
        self._progress = progress
        self.error: BaseException | None = None
        self.callback = lib.llama_progress_callback(self._call)

    def _call(self, part: float, _data: object) -> bool:
        try:
            self._progress(min(max(part, 0.0), 1.0) if math.isfinite(part) else 0.0)
        except BaseException as error:
            self.error = error
        return self.error is None


@lib.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes function type
def _on_log(level: int, text: bytes, _data: object) -> None:
    log.add(level, text)


def _initialise() -> None:
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))
    log.clear()
    lib.llama_backend_init()


def why_no_gpu() -> str:
    """Why llama.cpp computes on nothing but the CPU here; "" if it can."""
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))
    log.clear()
    if lib.llama_supports_gpu_offload():
        return ""
    return log.cause("this build of llama.cpp computes on the CPU only")


def _load_mode(mmap: bool, mlock: bool) -> Any:
    if mlock:
        return lib.LLAMA_LOAD_MODE_MMAP_MLOCK if mmap else lib.LLAMA_LOAD_MODE_MLOCK
    return lib.LLAMA_LOAD_MODE_MMAP if mmap else lib.LLAMA_LOAD_MODE_NONE

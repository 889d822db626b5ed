"""The daemon's side of llama.cpp: finds the model's file and says how the worker's environment must look.

This module must never import the native library: a model file that crashes it may cost a worker, not the daemon.
"""

from __future__ import annotations

import os
from typing import cast

from vestal.backend import BackendOptions
from vestal.models.store import Store
from vestal_adapters.llamacpp.cores import usable_cores
from vestal_adapters.llamacpp.options import LlamaCppEngineOptions, LlamaCppOptions
from vestal_adapters.worker.host import WorkerBackend

__all__ = ["LlamaCppBackend"]

# OpenBLAS starts threads as soon as numpy is imported; nothing here computes with it. ggml, when it aborts, starts
# a debugger on itself, which takes seconds and prints what is on the stack: prompts, for one.
_ALWAYS = {"OPENBLAS_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"}
# libgomp's default is to spin at every barrier for as long as it takes, which collapses as soon as others want the
# cores too (two busy neighbours: no answer within a minute); to wait passively costs two thirds of the speed when
# alone. A short spin costs a few percent alone, and bends instead of breaking.
_UNLESS_SET = {"GOMP_SPINCOUNT": "1000"}
_OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


class LlamaCppBackend(WorkerBackend):
    """One GGUF model on llama.cpp, in a worker process."""

    Options = LlamaCppOptions
    engine = "vestal_adapters.llamacpp.engine:LlamaCppEngine"

    def engine_options(self) -> BackendOptions:
        """The options with the model's file and the threads resolved; `ModelError` if there is no such model.

        Asked again at every start of a worker, so that a model pulled meanwhile is found.
        """
        options = cast("LlamaCppOptions", self.options)
        model = Store().resolve(options.model)
        given = {name: getattr(options, name) for name in LlamaCppOptions.__struct_fields__}
        given["model"] = model.name
        given["threads"] = options.threads or usable_cores()
        return LlamaCppEngineOptions(path=str(model.path), **given)

    def environment(self) -> dict[str, str]:
        """Threads that give way to others, unless the operator has set it otherwise in the daemon's environment."""
        chosen = {name: os.environ[name] for name in _OPENMP if name in os.environ}
        return _ALWAYS | (chosen or _UNLESS_SET)

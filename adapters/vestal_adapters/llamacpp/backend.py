"""The daemon's side of llama.cpp: finds the model's file and says how the worker's environment must look.

This module must never import the native library: a model file that crashes it may cost a worker, not the daemon.
"""

from __future__ import annotations

import os
from typing import cast

from msgspec.structs import replace

from vestal.backend import BackendOptions, Health
from vestal.errors import VestalError
from vestal.findings import Finding
from vestal.models.store import Store
from vestal.models.trust import Trust
from vestal_adapters.llamacpp.cores import usable_cores
from vestal_adapters.llamacpp.options import LlamaCppEngineOptions, LlamaCppOptions
from vestal_adapters.worker.causes import cause
from vestal_adapters.worker.host import WorkerBackend
from vestal_adapters.worker.sandbox import gpu

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
    causes = (
        cause("model file was opened for writing", "its model file was opened for writing"),
        cause("(failed|unable) to allocate|bad_alloc|out of memory|MemoryError", "it got no more memory"),
        cause("GGML_ASSERT|ggml-.*: .*assert", "a check in llama.cpp failed"),
        cause("invalid magic|not a GGUF|bad magic", "its model file is not a GGUF"),
        # CUDA's compiler is a library of its own, which the sandbox does not let it load.
        cause(
            "PTX|no kernel image is available|device kernel image is invalid",
            "its llama.cpp has no code that was built for this GPU, and in its sandbox none can be compiled",
        ),
        cause("CUDA error: ", "the GPU or its driver failed"),
        cause("libgomp: Thread creation failed", "it could not start its threads"),
        cause("cannot open shared object file|undefined symbol", "the native library is not installed as it should be"),
    )

    def engine_options(self) -> BackendOptions:
        """The options with the model's file and the threads resolved; `ModelError` if there is no such model, or
        if its signature is asked for and does not hold.

        Asked again at every start of a worker, so that a model pulled meanwhile is found. The file itself is not
        looked into here: that is for the worker, behind its sandbox.
        """
        options = self._chosen
        if options.gpu_layers and options.sandbox != "off" and (lacking := gpu.lacking()):
            raise VestalError(
                f"gpu_layers is {options.gpu_layers}, and of NVIDIA's driver, the only one that the sandbox knows,"
                f" {', '.join(lacking)}",
                hint=f"{gpu.MEND}; or set gpu_layers = 0",
            )
        store = Store()
        model = store.locate(options.model)
        if options.signature == "trusted":
            Trust(store).check(model)
        given = {name: getattr(options, name) for name in LlamaCppOptions.__struct_fields__}
        given["model"] = model.name
        given["threads"] = options.threads or usable_cores()
        return LlamaCppEngineOptions(path=str(model.path), digest=model.digest, **given)

    @classmethod
    def examine(cls, options: BackendOptions, *, running: bool, thorough: bool) -> list[Finding]:
        """The sandbox, and the model."""
        from vestal_adapters.llamacpp.examination import examine_model

        chosen = cast("LlamaCppOptions", options)
        base = super().examine(options, running=running, thorough=thorough)
        return [*base, *examine_model(chosen, running=running, thorough=thorough)]

    async def health(self) -> Health:
        """Says what is not checked as long as it is not."""
        health = await super().health()
        if self._chosen.integrity != "path":
            return health
        return replace(health, detail=f'{health.detail}; its model file is not verified: integrity = "path"')

    @property
    def _chosen(self) -> LlamaCppOptions:
        return cast("LlamaCppOptions", self.options)

    def environment(self) -> dict[str, str]:
        """Threads that give way to others, unless the operator has set it otherwise in the daemon's environment."""
        chosen = {name: os.environ[name] for name in _OPENMP if name in os.environ}
        return _ALWAYS | (chosen or _UNLESS_SET)

"""What one GGUF model needs of this machine, looked at without the engine: the library, the file, signature, memory.

The file's header is read by the bounded reader in pure Python, and its bytes are hashed; no more of it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from vestal.errors import ModelError
from vestal.findings import Finding, fail, failed, ok, warn
from vestal.models.available import available_memory
from vestal.models.gguf_file import read_gguf
from vestal.models.memory import plan_memory, refusal
from vestal.models.store import Located, Store
from vestal.models.trust import Trust
from vestal_adapters.llamacpp.model_file import memory_settings
from vestal_adapters.llamacpp.options import LlamaCppOptions
from vestal_adapters.worker.sandbox import gpu

__all__ = ["examine_model"]


def examine_model(options: LlamaCppOptions, *, running: bool, thorough: bool) -> Iterator[Finding]:
    """Whether a backend with these options would load; `running` that it has, `thorough` that files are read whole."""
    yield _library()
    if options.gpu_layers:
        yield _gpu(options)
    store = Store()
    try:
        model = store.locate(options.model)
    except ModelError as error:
        yield failed("model", error)
        return
    yield _content(store, model, thorough=thorough)
    yield _signature(store, model, options)
    yield _memory(model, options, running=running)


def _library() -> Finding:
    try:
        return ok("engine", f"llama-cpp-python {version('llama-cpp-python')}")
    except PackageNotFoundError:
        return fail("engine", "llama-cpp-python is not installed", "pip install 'vestal[llamacpp]'")


def _gpu(options: LlamaCppOptions) -> Finding:
    """Its devices. What llama.cpp was built for is its own to say, and it is not loaded here."""
    if lacking := gpu.lacking():  # another maker's, which nobody here knows, does without them and the sandbox
        return (warn if options.sandbox == "off" else fail)("gpu", ", ".join(lacking), gpu.MEND)
    says = "NVIDIA's devices are there"
    if options.sandbox != "off":
        says += "; llama.cpp must have been built with code for this GPU, as none is compiled at load (PTX)"
    return ok("gpu", says)


def _content(store: Store, model: Located, *, thorough: bool) -> Finding:
    if model.digest is None:
        says = f"{model.path} is not in the store: nothing says what it should be"
        return warn("model", says, f"vestal pull {model.path}")
    if not thorough:
        return ok("model", f"{model.name} is there, {model.size:,} bytes; its digest was not checked")
    try:
        store.verify(model.name)
    except ModelError as error:
        return failed("model", error)
    return ok("model", f"{model.name} has its digest, {model.digest[:19]}…")


def _signature(store: Store, model: Located, options: LlamaCppOptions) -> Finding:
    wanted = options.signature == "trusted"
    try:
        if not wanted and (model.digest is None or Trust(store).statement(model.name) is None):
            return ok("signature", 'none, and none is asked for (signature = "any")')
        statement = Trust(store).check(model)
    except ModelError as error:
        return failed("signature", error, "fail" if wanted else "warn")
    return ok("signature", f"version {statement.version}, by the key {statement.key[:8]}")


def _memory(model: Located, options: LlamaCppOptions, *, running: bool) -> Finding:
    try:
        info = read_gguf(model.path)
    except ModelError as error:
        return failed("memory", error)
    settings, available = memory_settings(options, info), available_memory()
    plan = plan_memory(info, settings)
    if running:
        return ok("memory", f"it is loaded; {plan}")
    if options.gpu_layers:
        return ok("memory", "with gpu_layers nobody has made the sum")
    if available is None:
        return warn("memory", f"{plan}; this system does not say what is available")
    refused = refusal(model.name, info, settings, available)
    if refused is not None:
        return failed("memory", refused, "fail" if options.memory_check else "warn")
    return ok("memory", f"{plan}; {available.size / 1e9:.1f} GB available ({available.bound})", memory=plan.total)

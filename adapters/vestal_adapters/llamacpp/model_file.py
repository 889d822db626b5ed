"""The engine's model file: opened and verified while the process is free, measured and read once it is confined.

Between the two nothing is looked up again: the descriptor that was hashed is the one that the header is read from
and that llama.cpp opens. What is available is read before the sandbox too, and before a sealed copy takes its part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vestal.errors import ModelError
from vestal.models.available import available_memory
from vestal.models.gguf_file import GGUFInfo, read_held_gguf
from vestal.models.integrity import HeldFile, hold
from vestal.models.memory import Available, Settings, default_context, refusal
from vestal_adapters.llamacpp.options import LlamaCppEngineOptions, LlamaCppOptions
from vestal_adapters.worker.engine import Progress

__all__ = ["ModelFile", "memory_settings"]

_BROKEN = 'the model file was opened for writing by another process (integrity = "lease"): the worker ends\n'


class ModelFile:
    """The file that the options name, from `open` to `close`."""

    def __init__(self, options: LlamaCppEngineOptions) -> None:
        self._options = options
        self._held: HeldFile | None = None
        self._available: Available | None = None

    def __repr__(self) -> str:
        return f"<ModelFile {self._held or 'not open'}>"

    @property
    def path(self) -> Path:
        """What to call it in messages; never to be opened."""
        return Path(self._options.path)

    def open(self, progress: Progress) -> Sequence[int]:
        """Hold the file and see that it is the one that is meant; its descriptor, if a sandbox needs a rule for it."""
        options = self._options
        if options.memory_check:
            self._available = available_memory()
            if options.integrity == "sealed":
                self._check_copy()
        held = self._held = hold(
            self.path,
            options.integrity,
            name=options.model,
            digest=options.digest,
            progress=_told_in(progress, f"verifying {options.model}"),
            on_broken=_end_loudly,
        )
        if held.digest is None:
            progress(0.0, 'its model file is not verified: integrity = "path"')
        elif options.digest is None:
            progress(0.0, f"no digest is known of its model file, which has {held.digest}")
        return (held.descriptor,) if held.on_disk else ()

    def header(self) -> GGUFInfo:
        """What the file says of itself, read from the held bytes; `ModelError` if the model does not fit into memory.

        On a GPU the sum is another one, which nobody here has made: there the check is left out.
        """
        info = read_held_gguf(self._opened.descriptor, self.path)
        if self._available is not None and self._options.gpu_layers == 0:
            settings = memory_settings(self._options, info)
            error = refusal(self._options.model, info, settings, self._available)
            if error is not None:
                raise error
        return info

    @property
    def loadable(self) -> Path:
        """The name by which llama.cpp opens the held bytes."""
        return self._opened.loadable

    def loaded(self) -> None:
        """Let go of what loading needed: mapped pages stay without a descriptor, a lease does not."""
        if self._options.integrity != "lease":
            self.close()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._held is not None:
            self._held.close()
            self._held = None

    @property
    def _opened(self) -> HeldFile:
        if self._held is None:
            raise ModelError(f"the file of {self._options.model!r} is not open")
        return self._held

    def _check_copy(self) -> None:
        """A copy that does not fit must not be begun: whatever is killed for it need not be this process."""
        try:
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return  # `hold` says why
        available = self._available
        if available is not None and size > available.size:
            raise ModelError(
                f"model {self._options.model!r} does not fit into memory: its file has {size:,} bytes, and"
                f" {available.size:,} are available ({available.bound})",
                hint="free some memory or choose a smaller model; `vestal models plan` shows the whole sum",
            )


def memory_settings(options: LlamaCppOptions, info: GGUFInfo) -> Settings:
    """What of the options takes memory."""
    return Settings(
        slots=options.slots,
        context_length=options.context_length or default_context(info),
        batch=options.batch,
        sealed=options.integrity == "sealed",
        mapped=options.mmap,
    )


def _told_in(progress: Progress, what: str) -> Callable[[int, int], None]:
    """Bytes as words: the percent is for the loading that follows."""

    def tell(done: int, total: int) -> None:
        progress(0.0, f"{what}: {100 * done // max(total, 1)} %")

    return tell


def _end_loudly() -> None:
    """What is served is about to be rewritten. The kernel holds the writer back until this process is gone.

    Called between two bytecodes of whatever runs, inside of callbacks from C too, where an exception would be lost.
    """
    sys.stderr.write(_BROKEN)
    sys.stderr.flush()
    os._exit(1)

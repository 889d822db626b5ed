"""What a `[[backend]]` table with `adapter = "llamacpp"` may hold, and what of it reaches the worker.

The daemon imports this module to check its configuration; nothing here may import the native library.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from vestal.durations import parse_duration
from vestal.models.integrity import Integrity
from vestal_adapters.worker.options import WorkerOptions

__all__ = ["LlamaCppEngineOptions", "LlamaCppOptions"]

Duration = str | int | float


class LlamaCppOptions(WorkerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GGUF model on llama.cpp. An embedding model makes a backend that embeds and does not generate."""

    model: Annotated[
        str, Meta(min_length=1, description="a model of the store by its name, or the path of a GGUF file")
    ]
    slots: Annotated[int, Meta(ge=1, le=256, description="requests that run at once, in one continuous batch")] = 4
    context_length: (
        Annotated[int, Meta(ge=8, le=2**24, description="tokens of prompt and answer together, per slot")] | None
    ) = None
    """`None` is the model's own, but at most 4,096: a slot's memory is taken at the start."""
    threads: (
        Annotated[int, Meta(ge=1, le=1024, description="threads that compute; by default one per usable core")] | None
    ) = None
    batch: Annotated[int, Meta(ge=1, le=16384, description="most tokens in one step, which no cancel cuts short")] = 256
    """256 is within 3 % of 512 on CPUs, where a step of SmolLM2 135M then takes one second instead of two."""
    step_target: Annotated[
        Duration, Meta(description="how long a step may take while requests decode: prompts get what fits")
    ] = "100ms"
    cut_dimensions: Annotated[
        bool, Meta(description="whether an embedding model's vectors may be cut short (Matryoshka); off by default")
    ] = False
    task_prefixes: Annotated[
        dict[str, str], Meta(description="the text that each embedding task puts in front of an input, by its name")
    ] = field(default_factory=dict)
    gpu_layers: Annotated[int, Meta(ge=-1, le=10000, description="layers to hold on the GPU; -1 is all of them")] = 0
    mmap: Annotated[bool, Meta(description="map the model file instead of reading it into memory")] = True
    mlock: Annotated[bool, Meta(description="keep the model's pages from being swapped out")] = False
    integrity: Annotated[
        Integrity,
        Meta(
            description='how the file that is loaded stays the one that was verified: "sealed" copies it into memory,'
            ' "lease" ends the worker when somebody opens it for writing, "path" does nothing'
        ),
    ] = "sealed"
    signature: Annotated[
        Literal["any", "trusted"],
        Meta(description='"trusted" loads only what a trusted key has signed, and no older version than was seen'),
    ] = "any"
    memory_check: Annotated[
        bool, Meta(description="refuse to load what does not fit into the memory that is available")
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            seconds = self.step_seconds
        except ValueError as exc:
            raise ValueError(f"step_target: {exc}") from None
        if seconds <= 0:
            raise ValueError("step_target: a step takes longer than 0 seconds")
        if self.signature == "trusted" and self.integrity == "path":
            raise ValueError('signature: "trusted" says nothing of what integrity = "path" loads: choose "sealed"')

    @property
    def step_seconds(self) -> float:
        return parse_duration(self.step_target)


class LlamaCppEngineOptions(LlamaCppOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same, resolved: `path` is the file to open, `digest` what it must have, `model` the name to call it by."""

    path: Annotated[str, Meta(min_length=1)]
    digest: str | None = None
    """`None` for a file outside the store, of which nobody has said what it should be."""

"""What a `[[backend]]` table with `adapter = "llamacpp"` may hold, and what of it reaches the worker.

The daemon imports this module to check its configuration; nothing here may import the native library.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from vestal.durations import parse_duration
from vestal.models.integrity import Integrity
from vestal.options import DurationText, Trait, about
from vestal_adapters.worker.options import WorkerOptions

__all__ = ["LlamaCppEngineOptions", "LlamaCppOptions"]


class LlamaCppOptions(WorkerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GGUF model on llama.cpp. An embedding model makes a backend that embeds and does not generate."""

    model: Annotated[
        str,
        Meta(min_length=1),
        about("a model of the store by its name, or the path of a GGUF file", "smollm2-135m"),
    ]
    slots: Annotated[int, Meta(ge=1, le=256), about("requests that run at once, in one continuous batch", 8)] = 4
    context_length: Annotated[
        Annotated[int, Meta(ge=8, le=2**24)] | None,
        about("tokens of prompt and answer together, per slot; by default the model's own, but at most 4,096", 2048),
        Trait(unit="tokens"),
    ] = None
    """A slot's memory is taken at the start."""
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | None, about("threads that compute; by default one per usable core", 4)
    ] = None
    batch: Annotated[
        int,
        Meta(ge=1, le=16384),
        about("most tokens in one step, which no cancel cuts short", 512),
        Trait(unit="tokens"),
    ] = 256
    """256 is within 3 % of 512 on CPUs, where a step of SmolLM2 135M then takes one second instead of two."""
    step_target: Annotated[
        DurationText, about("how long a step may take while requests decode: prompts get what fits", "50ms")
    ] = "100ms"
    cut_dimensions: Annotated[
        bool, about("whether an embedding model's vectors may be cut short (Matryoshka)", True)
    ] = False
    task_prefixes: Annotated[
        dict[str, str],
        about("the text that each embedding task puts in front of an input, by its name", {"query": "query: "}),
    ] = field(default_factory=dict)
    gpu_layers: Annotated[
        int,
        Meta(ge=-1, le=10000),
        about('layers to hold on the GPU, -1 for all; one that is not NVIDIA\'s wants sandbox = "off"', -1),
    ] = 0
    mmap: Annotated[bool, about("map the model file instead of reading it into memory", False)] = True
    mlock: Annotated[bool, about("keep the model's pages from being swapped out", True)] = False
    integrity: Annotated[
        Integrity,
        about(
            'how the file that is loaded stays the one that was verified: "sealed" copies it into memory,'
            ' "lease" ends the worker when somebody opens it for writing, "path" does nothing',
            "lease",
        ),
    ] = "sealed"
    signature: Annotated[
        Literal["any", "trusted"],
        about('"trusted" loads only what a trusted key has signed, and no older version than was seen', "trusted"),
    ] = "any"
    memory_check: Annotated[
        bool, about("refuse to load what does not fit into the memory that is available", False)
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

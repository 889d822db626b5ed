"""How much memory a model will take, from its header and its settings: a sum that is shown before it is spent.

    weights    the file, once: mapped, or read into memory. What llama.cpp lays out anew for this CPU's instructions
               comes beside a sealed copy, which cannot be given back; so does a copy that is not to be mapped.
    kv cache   slots x tokens x the keys and values of every layer, in f16; none for encoders
    compute    activations of one step's tokens, the attention's mask, and the logits of every slot
    process    Python, the libraries, and the vocabulary
    margin     5 %, and 32 MB at least

Measured (llama.cpp of llama-cpp-python 0.3.36, CPU, two threads; RSS after requests in every slot, margin left out):
SmolLM2-135M is estimated at 0.99 to 1.01 of what it took, from 1 slot of 512 tokens to 8 of 4,096; MiniLM at 0.93
to 1.19; a Q4_0 file, of which 60 MB were repacked, at 0.99. KV caches and repacked weights came out to the byte.
Recurrent states and what a GPU holds are not in the sum.

Pure: what is available is `vestal.models.available`'s to find out.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from vestal.errors import ModelError
from vestal.models.ggml_types import ENCODERS
from vestal.models.gguf_file import GGUFInfo

__all__ = [
    "DEFAULT_BATCH", "DEFAULT_CONTEXT", "DEFAULT_SLOTS", "TEXTS_PER_STEP", "Available", "MemoryLine", "MemoryPlan",
    "Settings", "default_context", "plan_memory", "refusal", "what_would_fit",
]  # fmt: skip

DEFAULT_CONTEXT = 4096
"""Tokens per slot where neither the options nor a smaller model say otherwise: the cache is allocated up front."""
DEFAULT_SLOTS = 4
DEFAULT_BATCH = 256
TEXTS_PER_STEP = 64
"""Sequences that an embedding context is made for."""

_PROCESS = 50_000_000
_PER_TOKEN_OF_VOCABULARY = 600  # its text in llama.cpp's two tables and in ours, and its merges
_MARGIN_PART, _MARGIN_LEAST = 0.05, 32_000_000
_CELLS = 256  # a sequence's cache is rounded up to this many tokens
_F16, _F32 = 2, 4
_LEAST_CONTEXT = 256


class Settings(Struct, frozen=True, kw_only=True):
    """What of a backend's options takes memory. `context_length` is in tokens per slot, `batch` in tokens per step."""

    slots: int = DEFAULT_SLOTS
    context_length: int = DEFAULT_CONTEXT
    batch: int = DEFAULT_BATCH
    sealed: bool = True
    mapped: bool = True


class MemoryLine(Struct, frozen=True):
    """One summand: what for, how it comes about, and the bytes."""

    what: str
    how: str
    size: int

    def __str__(self) -> str:
        return f"{_megabytes(self.size)} {self.what}{f' ({self.how})' if self.how else ''}"


class MemoryPlan(Struct, frozen=True):
    """The summands in the order in which they are shown."""

    lines: tuple[MemoryLine, ...]

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return sum(line.size for line in self.lines)

    def __str__(self) -> str:
        return f"{_megabytes(self.total)} = {' + '.join(map(str, self.lines))}"


class Available(Struct, frozen=True):
    """Bytes that can be had, and which bound it is that ends there."""

    size: int
    bound: str


def default_context(info: GGUFInfo) -> int:
    """Tokens per slot where the options do not say: the model's own, within `DEFAULT_CONTEXT`."""
    return min(info.context_length or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def plan_memory(info: GGUFInfo, settings: Settings) -> MemoryPlan:
    """What a backend with these settings will take at most."""
    lines = [
        MemoryLine("weights", "the file, copied and sealed" if settings.sealed else "the file", info.file_size),
        *_second_copy(info, settings),
        _cache(info, settings),
        _compute(info, settings),
        MemoryLine("process", f"with a vocabulary of {info.vocabulary:,}", _process(info)),
    ]
    margin = max(int(sum(line.size for line in lines) * _MARGIN_PART), _MARGIN_LEAST)
    return MemoryPlan((*lines, MemoryLine("margin", "", margin)))


def _second_copy(info: GGUFInfo, settings: Settings) -> list[MemoryLine]:
    if not settings.sealed:
        return []
    if not settings.mapped:
        return [MemoryLine("second copy", "mmap = false beside a sealed file", info.file_size)]
    if info.repackable:
        return [MemoryLine("repacked weights", f"{info.quantisation} laid out for this CPU", info.repackable)]
    return []


def _cache(info: GGUFInfo, settings: Settings) -> MemoryLine:
    if info.is_embedding:
        tokens = 0 if info.architecture in ENCODERS else _rows(info, settings)
        how = f"{tokens:,} tokens" if tokens else "an encoder has none"
    else:
        tokens = settings.slots * _round_up(settings.context_length, _CELLS)
        how = f"{settings.slots} x {settings.context_length:,} tokens"
    if not info.kv_heads:
        return MemoryLine("kv cache", "not known: the header does not name its heads", 0)
    each = _F16 * info.kv_heads * (_key_length(info) + (info.value_length or _key_length(info)))
    return MemoryLine("kv cache", f"{how} x {each:,} bytes" if tokens else how, tokens * each)


def _compute(info: GGUFInfo, settings: Settings) -> MemoryLine:
    rows, width = _rows(info, settings), info.embedding_length or 0
    cells = rows if info.is_embedding else _round_up(settings.context_length, _CELLS)
    outputs = TEXTS_PER_STEP if info.is_embedding else settings.slots
    activations = _F32 * rows * (4 * width + 3 * (info.feed_forward_length or 4 * width))
    logits = 2 * _F32 * outputs * (info.vocabulary + width)  # in the graph, and where they are read
    return MemoryLine("compute", f"{rows:,} tokens per step", activations + _F16 * rows * cells + logits)


def _process(info: GGUFInfo) -> int:
    return _PROCESS + _PER_TOKEN_OF_VOCABULARY * info.vocabulary


def _rows(info: GGUFInfo, settings: Settings) -> int:
    """Tokens that a step is allocated for; a text to embed is computed in one piece."""
    if info.is_embedding:
        return _round_up(max(settings.batch, settings.context_length), TEXTS_PER_STEP)
    return max(settings.batch, settings.slots)


def _key_length(info: GGUFInfo) -> int:
    return info.key_length or (info.embedding_length or 0) // (info.heads or 1)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


# --- what fits --------------------------------------------------------------------------------------------------


def refusal(name: str, info: GGUFInfo, settings: Settings, available: Available) -> ModelError | None:
    """The error to raise where the plan is more than there is: the whole sum, and what would fit instead."""
    plan = plan_memory(info, settings)
    if plan.total <= available.size:
        return None
    has = f"{_megabytes(available.size)} are available ({available.bound})"
    return ModelError(
        f"model {name!r} does not fit into memory: it needs {plan}; {has}",
        hint=f"{what_would_fit(info, settings, available)}; `memory_check = false` loads it all the same",
    )


def what_would_fit(info: GGUFInfo, settings: Settings, available: Available) -> str:
    """What to lower, with the largest numbers that fit, each of them alone."""

    def fits(changed: Settings) -> bool:
        return plan_memory(info, changed).total <= available.size

    offers = []
    longest = min(settings.context_length, info.context_length or settings.context_length)
    context = _largest(_LEAST_CONTEXT, longest, lambda n: fits(replace(settings, context_length=n)))
    if context is not None:
        offers.append(f"context_length = {context // _CELLS * _CELLS}")
    slots = None
    if not info.is_embedding:  # its slots wait, they hold nothing
        slots = _largest(1, settings.slots, lambda n: fits(replace(settings, slots=n)))
    if slots is not None:
        offers.append(f"slots = {slots}")
    if not offers and settings.sealed and fits(replace(settings, sealed=False)):
        offers.append('integrity = "lease", which needs no second copy,')
    if offers:
        return f"{' or '.join(offers)} would fit"
    least = plan_memory(info, replace(settings, slots=1, context_length=_LEAST_CONTEXT))
    return f"no setting fits: with 1 slot of {_LEAST_CONTEXT} tokens it is {_megabytes(least.total)}; " + (
        "free some memory or choose a smaller model"
    )


def _largest(least: int, most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number in the range that fits, where every smaller one fits too; `None` if none does."""
    if least > most or not fits(least):
        return None
    while least < most:
        middle = (least + most + 1) // 2
        if fits(middle):
            least = middle
        else:
            most = middle - 1
    return least


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"

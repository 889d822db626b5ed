"""The sum of a model's memory, and what is offered where it is more than there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from vestal.models import GGUFInfo, read_gguf
from vestal.models.memory import (
    Available,
    MemoryPlan,
    Settings,
    default_context,
    plan_memory,
    refusal,
    what_would_fit,
)

LLAMA = GGUFInfo(
    architecture="llama",
    context_length=8192,
    embedding_length=4096,
    layers=32,
    heads=32,
    kv_heads=8 * 32,
    feed_forward_length=14336,
    vocabulary=128_256,
    tensor_count=291,
    file_size=4_920_000_000,
)
MB = 10**6


def sizes(plan: MemoryPlan) -> dict[str, int]:
    return {line.what: line.size for line in plan.lines}


def test_the_total_is_the_sum_of_what_is_shown() -> None:
    plan = plan_memory(LLAMA, Settings())
    assert plan.total == sum(sizes(plan).values())
    assert list(sizes(plan)) == ["weights", "kv cache", "compute", "process", "margin"]
    assert str(plan).count(" + ") == 4


def test_a_cache_is_slots_times_tokens_times_keys_and_values() -> None:
    """32 layers of 8 heads of 128 numbers, twice, in f16: 131,072 bytes a token."""
    cache = sizes(plan_memory(LLAMA, Settings(slots=3, context_length=2048)))["kv cache"]
    assert cache == 3 * 2048 * 131_072
    odd = replace(LLAMA, key_length=192, value_length=128)
    assert sizes(plan_memory(odd, Settings(slots=1, context_length=256)))["kv cache"] == 256 * 256 * (192 + 128) * 2


def test_a_cache_is_rounded_up_as_llama_cpp_does() -> None:
    one, full = (plan_memory(LLAMA, Settings(slots=2, context_length=n)) for n in (1, 256))
    assert sizes(one)["kv cache"] == sizes(full)["kv cache"]


def test_an_encoder_has_no_cache_and_a_decoder_that_embeds_has() -> None:
    encoder = replace(LLAMA, architecture="bert", pooling="mean")
    assert sizes(plan_memory(encoder, Settings()))["kv cache"] == 0
    decoder = replace(LLAMA, architecture="qwen3", pooling="last")
    assert sizes(plan_memory(decoder, Settings(context_length=512)))["kv cache"] == 512 * 131_072


def test_sealed_weights_count_once_unless_they_are_laid_out_anew_or_read() -> None:
    packed = replace(LLAMA, repackable=4_000_000_000)
    assert sizes(plan_memory(packed, Settings()))["repacked weights"] == 4_000_000_000
    assert "repacked weights" not in sizes(plan_memory(packed, Settings(sealed=False)))
    assert sizes(plan_memory(LLAMA, Settings(mapped=False)))["second copy"] == LLAMA.file_size
    assert sizes(plan_memory(LLAMA, Settings(mapped=False, sealed=False)))["weights"] == LLAMA.file_size


def test_a_header_without_heads_is_said_to_have_none() -> None:
    (line,) = [one for one in plan_memory(replace(LLAMA, kv_heads=None), Settings()).lines if one.what == "kv cache"]
    assert "not known" in line.how


@pytest.mark.parametrize(("own", "default"), [(512, 512), (131_072, 4096), (None, 4096), (0, 4096)])
def test_the_default_context_is_the_models_own_within_bounds(own: int | None, default: int) -> None:
    assert default_context(replace(LLAMA, context_length=own)) == default


def test_what_fits_is_not_refused() -> None:
    settings = Settings()
    total = plan_memory(LLAMA, settings).total
    assert refusal("m", LLAMA, settings, Available(total, "x")) is None
    assert refusal("m", LLAMA, settings, Available(total - 1, "x")) is not None


def test_a_refusal_has_the_sum_the_bound_and_numbers_that_fit() -> None:
    settings, available = Settings(slots=8, context_length=8192), Available(7_000 * MB, "memory limit of /app")
    error = refusal("m", LLAMA, settings, available)
    assert error is not None
    for part in ("4.92 GB weights", "8.59 GB kv cache (8 x 8,192 tokens x 131,072 bytes)", "compute", "process"):
        assert part in error.message
    assert "7.00 GB are available (memory limit of /app)" in error.message
    offer = re.search(r"context_length = (\d+) or slots = (\d+) would fit", error.hint or "")
    assert offer is not None
    context, slots = map(int, offer.groups())
    for offered, more in (
        (replace(settings, context_length=context), replace(settings, context_length=context + 256)),
        (replace(settings, slots=slots), replace(settings, slots=slots + 1)),
    ):
        assert plan_memory(LLAMA, offered).total <= available.size < plan_memory(LLAMA, more).total


def test_where_nothing_fits_nothing_is_offered() -> None:
    said = what_would_fit(LLAMA, Settings(), Available(1000 * MB, "x"))
    assert said.startswith("no setting fits: with 1 slot of 256 tokens it is ")
    assert "smaller model" in said


def test_where_only_the_second_copy_is_too_much_doing_without_is_offered() -> None:
    packed = replace(LLAMA, repackable=4_900_000_000)
    assert 'integrity = "lease"' in what_would_fit(packed, Settings(slots=1), Available(6_500 * MB, "x"))


def test_no_more_context_is_offered_than_the_model_has() -> None:
    said = what_would_fit(LLAMA, Settings(slots=1, context_length=2**24), Available(100_000 * MB, "x"))
    assert said.startswith("context_length = 8192 would fit")


def test_a_header_full_of_lies_makes_a_large_sum_and_no_error() -> None:
    most = 2**32 - 1
    liar = replace(LLAMA, kv_heads=most * 4096, key_length=most, embedding_length=most, feed_forward_length=most)
    error = refusal("m", liar, Settings(slots=256, context_length=2**24), Available(10**12, "x"))
    assert error is not None
    assert "no setting fits" in (error.hint or "")


@pytest.mark.model
@pytest.mark.parametrize(
    ("settings", "resident"),
    [
        (Settings(slots=1, context_length=512), 197 * MB),
        (Settings(slots=4, context_length=2048), 379 * MB),
        (Settings(slots=8, context_length=4096), 949 * MB),
        (Settings(slots=4, context_length=2048, batch=1024), 396 * MB),
    ],
)
def test_the_estimate_is_near_what_smollm2_was_measured_at(
    smollm2_path: str, settings: Settings, resident: int
) -> None:
    plan = plan_memory(read_gguf(Path(smollm2_path)), settings)
    assert 0.97 < (plan.total - sizes(plan)["margin"]) / resident < 1.03
    assert plan.total > resident


@pytest.mark.model
@pytest.mark.parametrize(("settings", "resident"), [(Settings(context_length=512), 154 * MB)])
def test_the_estimate_with_its_margin_is_above_what_minilm_was_measured_at(
    minilm_path: str, settings: Settings, resident: int
) -> None:
    assert resident < plan_memory(read_gguf(Path(minilm_path)), settings).total < 1.3 * resident

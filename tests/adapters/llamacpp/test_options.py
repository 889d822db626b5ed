"""What a configuration may say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vestal_adapters.llamacpp.options import LlamaCppEngineOptions, LlamaCppOptions


def parse(**table: Any) -> LlamaCppOptions:
    return msgspec.convert(table, LlamaCppOptions)


def test_the_model_is_all_that_must_be_given() -> None:
    options = parse(model="smollm2-135m")
    assert (options.slots, options.batch, options.step_seconds, options.gpu_layers) == (4, 256, 0.1, 0)
    assert (options.context_length, options.threads, options.mmap, options.mlock) == (None, None, True, False)


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m", "slots": 0}, "slots"),
        ({"model": "m", "slots": 257}, "slots"),
        ({"model": "m", "context_length": 0}, "context_length"),
        ({"model": "m", "threads": 0}, "threads"),
        ({"model": "m", "gpu_layers": -2}, "gpu_layers"),
        ({"model": "m", "batch": 0}, "batch"),
        ({"model": "m", "step_target": 0}, "step_target"),
        ({"model": "m", "step_target": "100"}, "step_target"),
        ({"model": "m", "slot": 4}, "slot"),
        ({"model": "m", "path": "/x"}, "path"),
    ],
)
def test_a_mistake_is_named(table: dict[str, Any], field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        parse(**table)


def test_every_option_is_described() -> None:
    schema = msgspec.json.schema(LlamaCppOptions)["$defs"]["LlamaCppOptions"]["properties"]
    for name, option in schema.items():
        assert any("description" in part for part in (option, *option.get("anyOf", []))), name


def test_the_workers_options_survive_the_pipe() -> None:
    options = LlamaCppEngineOptions(model="m", path="/models/m.gguf", slots=2, threads=3)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(options), type=LlamaCppEngineOptions) == options

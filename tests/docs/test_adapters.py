"""What docs/adapters.md says is what the adapters do: presets, options, deadlines, and the examples."""

from __future__ import annotations

import re
import tomllib

import msgspec

from tests.docs.pages import ROOT, blocks_of
from vestal.values import GenerateOptions
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.remote.openai.presets import PRESETS

PAGE = ROOT / "docs" / "adapters.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMON = {"temperature", "top_p", "seed", "stop", "max_tokens", "presence_penalty", "frequency_penalty"}


def block(language: str) -> str:
    return blocks_of(PAGE, language)[0].text


def test_the_table_is_one_the_adapter_takes() -> None:
    (table,) = tomllib.loads(block("toml"))["backend"]
    assert table.pop("adapter") == "openai"
    table.pop("name")
    assert msgspec.convert(table, OpenAIOptions).dialect is PRESETS["vllm"]


def test_the_presets_are_those_there_are_with_what_they_honour() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(http[^`]+)` \| (.*) \|$", TEXT, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(PRESETS)
    for name, url, more in rows:
        preset = PRESETS[name]
        extra = set(preset.fields)
        extra |= {"grammar"} if preset.grammar else set()
        extra |= {"logprobs"} if preset.logprobs else set()
        assert preset.base_url == url
        assert extra == COMMON | ({word.strip() for word in more.split(",")} - {"none"})
        assert extra <= set(GenerateOptions.__struct_fields__)


def test_the_deadlines_are_the_defaults() -> None:
    told = dict(re.findall(r"`(\w+_timeout)`\s+(\d+\w)", TEXT))
    assert told == {
        field.name: field.default for field in msgspec.structs.fields(OpenAIOptions) if field.name in told
    }  # fmt: skip
    assert len(told) == 4


def test_every_option_that_is_named_exists() -> None:
    names = {field.name for field in msgspec.structs.fields(OpenAIOptions)}
    named = set(re.findall(r"`(api_key_\w+|unix_socket|ca_file|plain_http|slots|kind|vision|json_schema)\b", TEXT))
    assert named
    assert named <= names

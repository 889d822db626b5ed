"""What docs/adapters.md says is what the adapters do: presets, options, deadlines, and the examples."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec

from tests.docs.pages import ROOT, blocks_of
from vestal.values import GenerateOptions
from vestal_adapters.remote.anthropic import listing as anthropic
from vestal_adapters.remote.anthropic.options import AnthropicOptions
from vestal_adapters.remote.anthropic.signatures import MOST
from vestal_adapters.remote.ollama import listing as ollama
from vestal_adapters.remote.ollama.options import OllamaOptions
from vestal_adapters.remote.openai.options import OpenAIOptions
from vestal_adapters.remote.openai.presets import PRESETS
from vestal_adapters.server.options import ServerOptions
from vestal_adapters.server.output import RotatedLog
from vestal_adapters.server.profiles import PROFILES
from vestal_adapters.worker.process import StderrTail

PAGE = ROOT / "docs" / "adapters.md"
TEXT = PAGE.read_text(encoding="utf-8")
TABLES = [table for shown in blocks_of(PAGE, "toml") for table in tomllib.loads(shown.text)["backend"]]
COMMON = {"temperature", "top_p", "seed", "stop", "max_tokens", "presence_penalty", "frequency_penalty"}


def block(language: str) -> str:
    return blocks_of(PAGE, language)[0].text


def own(table: dict[str, Any]) -> dict[str, Any]:
    """What of a table is the adapter's."""
    return {name: value for name, value in table.items() if name not in ("name", "adapter")}


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


def test_the_tables_of_servers_are_ones_the_adapter_takes() -> None:
    tables = [table for table in TABLES if table["adapter"] == "server"]
    assert [table["profile"] for table in tables] == ["llama-server", "custom"]
    for table in tables:
        msgspec.convert(own(table), ServerOptions)


def test_the_tables_of_anthropic_and_ollama_are_ones_the_adapters_take() -> None:
    (cloud,) = (table for table in TABLES if table["adapter"] == "anthropic")
    (local,) = (table for table in TABLES if table["adapter"] == "ollama")
    assert f"`{msgspec.convert(own(cloud), AnthropicOptions).url}`" in TEXT
    msgspec.convert(own(local), OllamaOptions)
    assert f"`{OllamaOptions().url}`" in TEXT


def test_what_is_said_of_anthropic_and_ollama_is_so() -> None:
    manner = anthropic.manner_of(AnthropicOptions(model="m", thinking=True), {"id": "m"})
    minimal, *more = manner.levels.values()
    assert re.search(rf"{minimal}\s+tokens for `minimal`, {', '.join(map(str, more))}, which", TEXT)
    assert f"else {manner.max_tokens}; an answer" in TEXT
    assert f"the last {MOST:,}, found" in TEXT
    told = ollama.capabilities_of(OllamaOptions(), "m", ollama.Shown(), ollama.Manner(), None)
    section = TEXT.partition("\n## `ollama`")[2]
    said = re.search(r"\*\*Options\*\*: (.*?)\. ", section)
    assert said is not None
    assert set(re.findall(r"`(\w+)`", said[1])) == set(told.options)
    assert f"else {told.context_length} or what the model has" in section


def test_what_is_said_of_servers_is_so() -> None:
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| .* \| (\d)[^|]* \|$", TEXT, re.MULTILINE))
    assert rows == {name: str(profile.most_slots or 4) for name, profile in PROFILES.items()}
    default = ServerOptions(profile="llama-server", model="m")
    assert f"`ready_timeout` ({default.ready_timeout})" in TEXT
    assert f"`heartbeat` ({default.heartbeat})" in TEXT
    assert f"the last {StderrTail.LINES} lines" in TEXT
    assert f"{RotatedLog.SIZE >> 20} MiB and two" in " ".join(TEXT.split())
    assert RotatedLog.KEPT == 3

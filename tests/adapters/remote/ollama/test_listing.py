"""What Ollama says of a model becomes capabilities and a manner of asking; a context that it would cut is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.adapters.remote.ollama.model import CONTEXT, SHOWN
from vestal.errors import ModelNotFound, VestalError
from vestal.values import Capabilities
from vestal_adapters.remote.ollama.listing import (
    Manner,
    Shown,
    Tags,
    Version,
    capabilities_of,
    check_version,
    embeds,
    manner_of,
    tagged,
)
from vestal_adapters.remote.ollama.options import OllamaOptions

TRAINED = {"general.architecture": "qwen3", "qwen3.context_length": 2048}


def shown(**page: Any) -> Shown:
    return msgspec.convert(page, Shown)


def manner(page: Shown, **table: Any) -> Manner:
    return manner_of(OllamaOptions(**table), page, False, "local")


def can(page: Shown, dimensions: int | None = None, **table: Any) -> Capabilities:
    return capabilities_of(OllamaOptions(**table), "small:latest", page, manner(page, **table), dimensions)


def test_what_the_server_says() -> None:
    told = can(shown(**SHOWN))
    assert (told.context_length, told.family, told.model) == (CONTEXT, "qwen3", "small:latest")
    assert (told.tools, told.vision, told.thinking, told.json_schema, told.embed) == (True, True, True, True, False)


def test_penalties_are_not_promised_for_its_newer_engine_ignores_them() -> None:
    assert not [option for option in can(shown(**SHOWN)).options if "penalty" in option]


def test_the_operators_word_goes_first() -> None:
    told = can(shown(**SHOWN), tools=False, vision=False, thinking=False, json_schema=False, context_length=99)
    assert (told.tools, told.vision, told.thinking, told.json_schema) == (False, False, False, False)
    assert told.context_length == 99


def test_a_model_of_vectors() -> None:
    told = can(shown(capabilities=["embedding"]), 384)
    assert (told.generate, told.embed, told.embedding_dimensions, told.options) == (False, True, 384, ())
    assert (told.embedding_tasks, told.embedding_raw) == ((), False)
    assert (told.embedding_shortest, told.embedding_longest) == (None, 384), "whether it cuts any short is not known"


@pytest.mark.parametrize(
    ("capabilities", "vectors"),
    [(["embedding"], True), (["completion", "embedding"], False), (["completion"], False), ([], False), (None, False)],
)
def test_which_models_make_vectors(capabilities: Any, vectors: bool) -> None:
    assert embeds(shown(capabilities=capabilities)) is vectors


# --- the context ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "configured", "context"),
    [
        ({}, None, 4096),
        ({"model_info": {"general.architecture": "qwen3", "qwen3.context_length": 131072}}, None, 4096),
        ({"model_info": TRAINED}, None, 2048),
        ({"parameters": "temperature 0.7\nnum_ctx    8192\nstop x"}, None, 8192),
        ({"parameters": "num_ctx 8192"}, 1024, 1024),
        ({"parameters": "num_ctx many"}, None, 4096),
        ({"parameters": 'stop "num_ctx 9"'}, None, 4096),
        ({"parameters": "num_ctx 0"}, None, 4096),
        ({"model_info": {"general.architecture": 7, "7.context_length": "x"}}, None, 4096),
    ],
)
def test_how_long_the_context_is(page: Any, configured: int | None, context: int) -> None:
    assert manner(shown(**page), context_length=configured).context == context


def test_a_context_that_the_model_does_not_have_is_refused_at_the_start() -> None:
    with pytest.raises(VestalError, match="has a context of 2048 tokens, and 4096 are configured") as refused:
        manner(shown(model_info=TRAINED), context_length=4096)
    assert "2048 or less" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("version", "cuts"),
    [
        ("0.12.6", False),
        ("0.12.10", False),
        ("1.0.0-rc1", False),
        ("0.12.5", True),
        ("0.9.6", True),
        ("0.0.0", True),
        ("", True),
    ],
)
def test_versions_that_cut_prompts_are_served_from_only_if_that_is_allowed(version: str, cuts: bool) -> None:
    assert check_version(Version(version), True, "local") is cuts
    if cuts:
        with pytest.raises(VestalError, match="cuts long prompts in silence"):
            check_version(Version(version), False, "local")
    else:
        assert not check_version(Version(version), False, "local")


# --- thinking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "values"),
    [
        ({}, (False, True)),
        ({"details": {"family": "gptoss"}}, ("low", "medium", "high")),
        ({"thinking": {"values": [False, "low", "high"], "default": "low"}}, (False, "low", "high")),
        ({"thinking": {"values": [True, 7, None]}}, (True,)),
        ({"thinking": {}}, (False, True)),
        ({"thinking": {"values": [False]}}, (False,)),
    ],
)
def test_values_of_thinking(page: Any, values: tuple[Any, ...]) -> None:
    thinker = shown(capabilities=["completion", "thinking"], **page)
    assert manner(thinker).thinking == values
    assert can(thinker).thinking == (values != (False,))  # which cannot be turned on
    assert manner(shown(**page)).thinking == ()


# --- names ----------------------------------------------------------------------------------------------------


def test_a_model_is_found_by_its_name_with_and_without_its_tag() -> None:
    tags = Tags([{"name": "a:latest"}, {"name": "b:7b"}, {"no": "name"}])
    assert tagged(tags, "a", "local") == tagged(tags, "a:latest", "local") == "a:latest"
    assert tagged(tags, "b:7b", "local") == "b:7b"
    assert tagged(Tags([{"name": "only:1b"}]), None, "local") == "only:1b"
    with pytest.raises(ModelNotFound) as refused:
        tagged(tags, "b", "local")
    assert refused.value.details["models"] == ["a:latest", "b:7b"]


# --- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configured", "field"),
    [(None, {}), ("forever", {"keep_alive": -1}), ("30m", {"keep_alive": 1800.0}), (0, {"keep_alive": 0.0})],
)
def test_how_long_it_is_kept(configured: Any, field: dict[str, float]) -> None:
    assert OllamaOptions(keep_alive=configured).kept == field


def test_a_time_to_keep_it_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_alive: 'always' is not a duration"):
        OllamaOptions(keep_alive="always")


# --- pages that mean harm -------------------------------------------------------------------------------------


def test_parameters_of_empty_lines_are_read_once() -> None:
    assert manner(shown(parameters="\n" * 1_000_000 + "num_ctx 99\n")).context == 99


def test_a_version_may_have_thousands_of_digits() -> None:
    with pytest.raises(VestalError, match="which cuts long prompts"):
        check_version(Version("9" * 5000 + ".0.0"), False, "local")
    assert not check_version(Version("1.0." + "9" * 5000), False, "local")


def test_levels_of_thinking_that_nobody_can_ask_for_are_not_kept() -> None:
    page = shown(capabilities=["thinking"], thinking={"values": [True, "high", "x" * 1_000_000, 7, {}]})
    assert manner(page).thinking == (True, "high")
    assert len(can(shown(details={"family": "x" * 1_000_000})).family) == 64

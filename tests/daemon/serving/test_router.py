"""Which backend takes a request: every combination of name, capability and order."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from msgspec import Struct

from vestal.errors import ModelNotFound, Unsupported
from vestal.values import Capabilities
from vestald.serving.router import choose_embedder, choose_generator


class Stub(Struct, frozen=True):
    """A candidate, and nothing else."""

    name: str
    capabilities: Capabilities


def stub(name: str, model: str = "", **can: Any) -> Stub:
    return Stub(name, Capabilities(model=model, **can))


V1 = stub("old", "small")
V2 = stub("new", "large", v2=True)
VECTORS = stub("vectors", "minilm", generate=False, embed=True)
ALL = [VECTORS, V1, V2]


@pytest.mark.parametrize(("version", "chosen"), [(1, V1), (2, V2)])
def test_without_a_model_the_first_that_can_is_chosen(version: int, chosen: Stub) -> None:
    assert choose_generator(None, version, ALL) is chosen
    assert choose_embedder(None, ALL) is VECTORS


def test_the_order_of_the_configuration_decides() -> None:
    one, two = stub("one"), stub("two")
    assert choose_generator(None, 1, [one, two]) is one
    assert choose_generator(None, 1, [two, one]) is two


@pytest.mark.parametrize("model", ["new", "large"])
def test_a_model_is_found_by_the_backends_name_and_by_its_own(model: str) -> None:
    assert choose_generator(model, 1, ALL) is V2
    assert choose_generator(model, 2, ALL) is V2


def test_of_several_with_one_model_the_first_that_can_is_chosen() -> None:
    candidates = [stub("a", "m", generate=False, embed=True), stub("b", "m"), stub("c", "m", v2=True)]
    assert [choose_generator("m", version, candidates).name for version in (1, 2)] == ["b", "c"]
    assert choose_embedder("m", candidates).name == "a"


def test_a_model_that_nobody_has_is_named_with_those_that_could_be_asked() -> None:
    with pytest.raises(ModelNotFound, match="no backend serves model 'gpt-7'") as refused:
        choose_generator("gpt-7", 1, ALL)
    assert refused.value.details == {"model": "gpt-7", "models": ["old", "small", "new", "large"]}
    with pytest.raises(ModelNotFound) as refused:
        choose_embedder("gpt-7", ALL)
    assert refused.value.details["models"] == ["vectors", "minilm"]


def test_a_backend_without_a_model_name_is_listed_by_its_own() -> None:
    with pytest.raises(ModelNotFound) as refused:
        choose_generator("x", 1, [stub("plain")])
    assert refused.value.details["models"] == ["plain"]


def test_a_long_name_is_cut_short_in_the_answer() -> None:
    with pytest.raises(ModelNotFound) as refused:
        choose_generator("x" * 256, 1, ALL)
    assert "x" * 65 not in str(refused.value)
    assert refused.value.details["model"] == "x" * 64


@pytest.mark.parametrize("model", ["vectors", "minilm"])
def test_a_model_that_cannot_do_it_is_said_with_those_that_can(model: str) -> None:
    with pytest.raises(Unsupported, match="cannot generate") as refused:
        choose_generator(model, 1, ALL)
    assert refused.value.details == {"option": "model", "model": model}
    assert refused.value.hint == "models that can: old, small, new, large"
    with pytest.raises(Unsupported, match="cannot embed"):
        choose_embedder("new", ALL)


def test_a_model_that_does_not_speak_the_version_is_said() -> None:
    with pytest.raises(Unsupported, match="cannot generate on version 2") as refused:
        choose_generator("old", 2, ALL)
    assert refused.value.hint == "models that can: new, large"


@pytest.mark.parametrize("version", [1, 2])
def test_where_nobody_can_it_is_unsupported(version: int) -> None:
    for candidates in ([], [VECTORS]):
        with pytest.raises(Unsupported, match="no backend can generate"):
            choose_generator(None, version, candidates)
    for candidates in ([], [V1, V2]):
        with pytest.raises(Unsupported, match="no backend can embed"):
            choose_embedder(None, candidates)


def test_whoever_is_chosen_can_do_it() -> None:
    """Over every set of three backends, each with or without each capability, and every way to ask."""
    flags = list(product([True, False], repeat=3))
    for sets in product(flags, repeat=2):
        candidates = [stub(f"b{i}", "m", generate=g, v2=v, embed=e) for i, (g, v, e) in enumerate(sets)]
        for model, version in product((None, "b0", "b1", "m"), (1, 2)):
            asked = [c for c in candidates if model in (None, c.name, c.capabilities.model)]
            able = [c for c in asked if c.capabilities.generate and (version == 1 or c.capabilities.v2)]
            if able:
                assert choose_generator(model, version, candidates) is able[0]
            else:
                with pytest.raises(Unsupported):
                    choose_generator(model, version, candidates)

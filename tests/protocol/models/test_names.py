from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.errors import ModelError
from vestal.models.names import check_name, derive_name, is_name, is_path


@pytest.mark.parametrize("name", ["a", "7b", "smollm2-135m", "llama3.2_1b", "x" * 64])
def test_ordinary_names_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        ".hidden",
        "-rf",
        "A",
        "a b",
        "a\n",
        "a\0",
        "ä",
        "x" * 65,
        "x.gguf",
    ],
)
def test_what_could_leave_the_store_or_pass_for_a_path_is_no_name(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_name(name)
    assert "1 to 64" in str(caught.value.hint)


@given(st.text(max_size=80))
def test_no_name_leaves_its_directory_and_none_is_taken_for_a_path(text: str) -> None:
    if is_name(text):
        assert not is_path(text)
        assert (Path("/store") / f"{text}.json").resolve().parent == Path("/store")


@pytest.mark.parametrize("text", ["./x", "x/y", "/x.bin", "model.gguf", "MODEL.GGUF", "~/x"])
def test_a_slash_or_the_ending_makes_a_path(text: str) -> None:
    assert is_path(text)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.q4_1"),
        ("My Model (v2).GGUF", "my-model-v2"),
        ("model.gguf.gguf", "model"),
        ("plain", "plain"),
        ("é" * 3 + "x.gguf", "x"),
        ("x" * 80 + ".gguf", "x" * 64),
    ],
)
def test_a_name_is_made_from_a_file_name(file: str, name: str) -> None:
    assert derive_name(Path("/some/where") / file) == name


@given(st.text(alphabet=st.characters(blacklist_characters="/\0"), min_size=1).filter(lambda t: t not in (".", "..")))
def test_a_derived_name_is_a_name_or_an_error(file: str) -> None:
    try:
        name = derive_name(Path("/d") / file)
    except ModelError as error:
        assert "--name" in str(error.hint)
    else:
        assert is_name(name)

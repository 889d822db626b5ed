from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vestal.errors import ModelError
from vestal.models import GGUFInfo, read_gguf

MakeGGUF = Callable[..., bytes]


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], GGUFInfo]:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"

    def read_bytes(data: bytes) -> GGUFInfo:
        path.write_bytes(data)
        return read_gguf(path)

    return read_bytes


Read = Callable[[bytes], GGUFInfo]


def refused(read: Read, data: bytes) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read(data)
    assert caught.value.hint
    return caught.value


def head(tensors: int, keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def test_the_facts_of_a_chat_model(read: Read, make_gguf: MakeGGUF) -> None:
    data = make_gguf()
    info = read(data)
    assert info == GGUFInfo(
        architecture="llama",
        name="Tiny",
        context_length=128,
        embedding_length=16,
        file_type=1,
        has_chat_template=True,
        vocabulary=3,
        tensor_count=2,
        file_size=len(data),
    )
    assert (info.kind, info.quantisation) == ("chat", "F16")


@pytest.mark.parametrize(
    ("architecture", "extra", "kind"),
    [
        ("bert", {"bert.pooling_type": 1, "bert.attention.causal": False}, "embed"),
        ("nomic-bert", {}, "embed"),
        ("qwen3", {"qwen3.pooling_type": 3}, "embed"),
        ("gemma3", {"gemma3.pooling_type": 1, "gemma3.attention.causal": False}, "embed"),
        ("llama", {"llama.pooling_type": 0}, "chat"),
        ("llama", {}, "chat"),
        ("bert", {"bert.pooling_type": 4}, "chat"),
    ],
)
def test_what_the_file_is_for(
    read: Read, make_gguf: MakeGGUF, architecture: str, extra: dict[str, int], kind: str
) -> None:
    info = read(make_gguf({"general.architecture": architecture, **extra}))
    assert info.kind == kind
    assert info.is_embedding == (kind == "embed")


def test_keys_of_another_architecture_are_not_taken_for_its_own(read: Read, make_gguf: MakeGGUF) -> None:
    info = read(make_gguf({"clip.context_length": 7, "general.architecture": "llama", "llama.context_length": 9}))
    assert info.context_length == 9


def test_the_architecture_may_come_last(read: Read, make_gguf: MakeGGUF) -> None:
    assert read(make_gguf({"bert.context_length": 512, "general.architecture": "bert"})).context_length == 512


@pytest.mark.parametrize(
    ("number", "name"), [(0, "F32"), (3, "Q4_1"), (15, "Q4_K_M"), (1024 + 15, "Q4_K_M"), (999, "type 999")]
)
def test_the_number_format_has_its_usual_name(read: Read, make_gguf: MakeGGUF, number: int, name: str) -> None:
    info = read(make_gguf({"general.architecture": "llama", "general.file_type": number}))
    assert info.quantisation == name


def test_a_file_that_does_not_say_its_format_is_of_an_unknown_one(read: Read, make_gguf: MakeGGUF) -> None:
    assert read(make_gguf({"general.architecture": "llama"})).quantisation == "unknown"


def test_version_2_is_read_too(read: Read, make_gguf: MakeGGUF) -> None:
    assert read(make_gguf(version=2)).architecture == "llama"


def test_an_escape_sequence_in_a_name_does_not_reach_the_terminal(read: Read, make_gguf: MakeGGUF) -> None:
    info = read(make_gguf({"general.architecture": "llama", "general.name": "a\x1b[2Jb"}))
    assert info.name == "a\N{REPLACEMENT CHARACTER}[2Jb"


def test_a_vocabulary_larger_than_the_buffer_is_walked_over(read: Read, make_gguf: MakeGGUF) -> None:
    words = [f"word {'x' * (i % 50)} {i}" for i in range(40_000)]
    keys = {
        "general.architecture": "llama",
        "v.tokens": words,
        "v.types": list(range(40_000)),
        "llama.context_length": 5,
    }
    assert read(make_gguf(keys)).context_length == 5


def test_strings_that_end_exactly_at_the_buffer_are_walked_over(read: Read, make_gguf: MakeGGUF) -> None:
    for length in range((1 << 18) - 120, (1 << 18) + 8):
        keys = {
            "general.architecture": "llama",
            "v.t": ["x" * length, "y", "z" * 9],
            "llama.context_length": 5,
        }
        assert read(make_gguf(keys)).context_length == 5


def test_half_a_download_is_recognised_wherever_it_stops(read: Read, make_gguf: MakeGGUF) -> None:
    data = make_gguf()
    for length in range(len(data)):
        error = refused(read, data[:length])
        assert "cut short" in str(error.hint) or "not a GGUF" in error.message, length


def test_an_error_says_where_and_how_much(read: Read, make_gguf: MakeGGUF) -> None:
    data = make_gguf()
    message = refused(read, data[:-1]).message
    assert f"end at byte {len(data):,} and the file at {len(data) - 1:,}" in message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a GGUF"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF"),
        (head(0, 0, version=1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (head(2**63, 1), "9,223,372,036,854,775,808 tensors"),
        (head(0, 2**64 - 1), "18,446,744,073,709,551,615 keys"),
        (head(0, 1) + struct.pack("<Q", 2**64 - 1), "18,446,744,073,709,551,615 bytes long"),
        (head(0, 1) + key("k", 8, struct.pack("<Q", 2**64 - 1)), "needs 18,446,744,073,709,551,615 bytes"),
        (head(0, 1) + key("k", 9, struct.pack("<IQ", 8, 2**64 - 1)), "18,446,744,073,709,551,615 elements"),
        (head(0, 1) + key("k", 9, struct.pack("<IQ", 8, 4_000_000)), "needs 8 bytes and only 0"),
        (head(0, 1) + key("k", 9, struct.pack("<IQQ", 8, 2, 2**63)), "needs 9,223,372,036,854,775,816"),
        (head(0, 1) + key("k", 9, struct.pack("<IQ", 4, 2**62)), "18,446,744,073,709,551,616"),
        (head(0, 1) + key("k", 9, struct.pack("<IQ", 9, 1)), "array of the unknown type 9"),
        (head(0, 1) + key("k", 99, b""), "unknown value type 99"),
        (head(0, 1) + key("x.context_length", 6, struct.pack("<f", 1.5)), "fraction"),
        (head(0, 1) + key("x.context_length", 5, struct.pack("<i", -1)), "is -1"),
        (
            head(0, 1) + key("x.context_length", 10, struct.pack("<Q", 2**64 - 1)),
            "18,446,744,073,709,551,615",
        ),
        (head(0, 2) + 2 * key("x.context_length", 4, struct.pack("<I", 1)), "twice"),
        (head(0, 0), "architecture"),
        (head(0, 1) + key("general.architecture", 8, struct.pack("<Q", 3) + b"a/b"), "a/b"),
        (head(0, 1) + key("general.name", 8, struct.pack("<Q", 5000) + bytes(5000)), "5,000 bytes long"),
    ],
)
def test_bytes_that_lie_are_named_with_their_numbers(read: Read, data: bytes, says: str) -> None:
    error = refused(read, data)
    assert says in error.message
    assert "at byte" in error.message


def test_a_pooling_type_of_the_future_is_an_error_with_its_number(read: Read, make_gguf: MakeGGUF) -> None:
    assert "is 77" in refused(read, make_gguf({"general.architecture": "bert", "bert.pooling_type": 77})).message


@pytest.mark.parametrize("alignment", [0, 3, 24])
def test_an_impossible_alignment_is_an_error(read: Read, make_gguf: MakeGGUF, alignment: int) -> None:
    data = make_gguf({"general.architecture": "llama", "general.alignment": alignment})
    assert "power of two" in refused(read, data).message


def test_a_header_that_is_as_long_as_it_says_but_absurd_is_not_walked(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(head(0, 1) + key("k", 8, struct.pack("<Q", 300 << 20)))
    with path.open("r+b") as file:
        file.truncate(400 << 20)
    with pytest.raises(ModelError, match="beyond the limit of 268,435,456 for a header"):
        read_gguf(path)


def test_a_git_lfs_pointer_is_recognised(read: Read) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    assert "git lfs pull" in str(refused(read, pointer).hint)


def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, tmp_path / "missing.gguf", Path("/dev/zero"), Path("a\0b"), fifo):
        with pytest.raises(ModelError):
            read_gguf(path)


@settings(deadline=None)  # each example writes a file, and a shared disk can be slow
@given(data=st.binary(max_size=400))
@example(data=head(1, 1))
def test_random_bytes_raise_nothing_but_model_error(read: Read, data: bytes) -> None:
    for candidate in (data, b"GGUF" + data, head(1, 2) + data):
        with suppress(ModelError):
            read(candidate)


@settings(deadline=None)  # each example writes a file, and a shared disk can be slow
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 60),
)
def test_a_mutated_file_raises_nothing_but_model_error(
    read: Read, make_gguf: MakeGGUF, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(make_gguf())
    for place, value in changes:
        data[place % len(data)] = value
    try:
        info = read(bytes(data[: len(data) - cut]))
    except ModelError:
        return
    assert info.file_size == len(data) - cut


@settings(deadline=None)  # each example writes a file, and a shared disk can be slow
@given(
    place=st.integers(0, 400),
    value=st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 8, 2**64 - 1]),
)
def test_a_hostile_number_anywhere_raises_nothing_but_model_error(
    read: Read, make_gguf: MakeGGUF, place: int, value: int
) -> None:
    data = bytearray(make_gguf())
    place %= len(data) - 8
    data[place : place + 8] = struct.pack("<Q", value)
    with suppress(ModelError):
        read(bytes(data))


def test_the_shape_of_a_model_is_read(read: Read, make_gguf: MakeGGUF) -> None:
    info = read(
        make_gguf(
            {
                "general.architecture": "llama",
                "llama.block_count": 4,
                "llama.attention.head_count": 8,
                "llama.attention.head_count_kv": 2,
                "llama.attention.key_length": 64,
                "llama.attention.value_length": 32,
                "llama.feed_forward_length": 99,
                "tokenizer.ggml.tokens": ["a", "b"],
            }
        )
    )
    assert (info.layers, info.heads, info.kv_heads, info.key_length, info.value_length) == (4, 8, 8, 64, 32)
    assert (info.feed_forward_length, info.vocabulary) == (99, 2)


def test_layers_may_differ(read: Read, make_gguf: MakeGGUF) -> None:
    shape = {"llama.block_count": 3, "llama.attention.head_count_kv": [4, 0, 2], "llama.feed_forward_length": [5, 7, 6]}
    info = read(make_gguf({"general.architecture": "llama", **shape}))
    assert (info.kv_heads, info.feed_forward_length) == (6, 7)


def test_without_kv_heads_every_head_has_its_own(read: Read, make_gguf: MakeGGUF) -> None:
    shape = {"bert.block_count": 6, "bert.attention.head_count": 12}
    assert read(make_gguf({"general.architecture": "bert", **shape})).kv_heads == 72
    assert read(make_gguf({"general.architecture": "bert"})).kv_heads is None


@pytest.mark.parametrize("values", [[1] * 5000, [-1, 2]])
def test_a_list_for_layers_is_bounded(read: Read, make_gguf: MakeGGUF, values: list[int]) -> None:
    keys = {"general.architecture": "llama", "llama.attention.head_count_kv": values}
    with pytest.raises(ModelError, match="head_count_kv"):
        read(make_gguf(keys))

"""What is kept of the library's log."""

from __future__ import annotations

from typing import Any

import pytest

from vestal_adapters.llamacpp.native.log import LogTail

DEBUG, INFO, WARNING, ERROR, CONTINUED = 1, 2, 3, 4, 5


def tail(*lines: tuple[int, bytes]) -> LogTail:
    log = LogTail()
    for level, text in lines:
        log.add(level, text)
    return log


def test_the_cause_is_what_was_complained_about_without_what_says_nothing() -> None:
    log = tail(
        (INFO, b"llama_model_loader: loaded meta data\n"),
        (ERROR, b"llama_model_load: error loading model: unknown model architecture: 'x'\n"),
        (ERROR, b"llama_model_load_from_file_impl: failed to load model\n"),
    )
    assert log.cause() == "unknown model architecture: 'x'"


def test_a_message_that_goes_on_has_the_level_of_its_beginning() -> None:
    assert tail((INFO, b"a"), (CONTINUED, b"b"), (ERROR, b"c"), (CONTINUED, b"d\n")).cause() == "c; d"


def test_without_a_complaint_there_is_no_reason() -> None:
    assert tail((DEBUG, b"x"), (INFO, b"y")).cause() == "it gave no reason"


def test_the_same_complaint_is_told_once() -> None:
    assert tail(*[(WARNING, b"f: low\n")] * 3).cause() == "low"


def test_what_is_kept_is_bounded() -> None:
    log = tail(*[(ERROR, b"f: %d " % number + b"x" * 10_000) for number in range(1000)])
    assert len(log.cause()) < 4 * 600
    assert repr(log) == "<LogTail 20 lines>"


def test_invalid_bytes_are_no_trouble() -> None:
    assert tail((ERROR, b"f: \xff\n")).cause() == "\ufffd"


def test_what_cuda_ends_the_process_for_outlives_it_and_nothing_else_is_written(capfd: Any) -> None:
    log = tail((ERROR, b"f: a secret"), (INFO, b"CUDA error: not one\n"), (ERROR, b"CUDA error: invalid argument\n"))
    assert capfd.readouterr().err == "CUDA error: invalid argument\n"
    assert log.cause() == "a secret; CUDA error: invalid argument"


def test_clearing_forgets() -> None:
    log = tail((ERROR, b"f: x"))
    log.clear()
    assert log.cause() == "it gave no reason"
    assert log.hint() is None


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b"error loading model: unknown model architecture: 'x'", "update"),
        (b"tensor 'x' data is not within the file bounds, model is corrupted or incomplete", "fetch it again"),
        (b"ggml_aligned_malloc: insufficient memory (attempted to allocate 9 MB)", "context_length"),
    ],
)
def test_a_known_complaint_has_a_hint(line: bytes, hint: str) -> None:
    assert hint in (tail((ERROR, line)).hint() or "")

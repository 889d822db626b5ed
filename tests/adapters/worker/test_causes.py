"""Why a worker ended, in the words of a table and never in those of its output."""

from __future__ import annotations

import pytest

from vestal_adapters.llamacpp.backend import LlamaCppBackend
from vestal_adapters.worker.causes import cause, explain, without_places

CAUSES = (cause("no more", "it got no more memory"), cause("magic", "its model file is not a GGUF"))


def test_the_latest_line_that_is_known_decides() -> None:
    assert explain(CAUSES, ["bad magic", "No more of it", "something else"]) == "it got no more memory"


@pytest.mark.parametrize("lines", [[], ["a prompt of somebody's"]])
def test_what_is_not_known_is_not_quoted(lines: list[str]) -> None:
    assert explain(CAUSES, lines) == ""


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("cannot read /home/ann/models/x.gguf: gone", "cannot read …/x.gguf: gone"),
        ('File "/usr/lib/python3.11/socket.py", line 3', 'File "…/socket.py", line 3'),
        ("~/models/a and ../b/c", "…/a and …/c"),
        ("3 and/or 4, n/a", "3 and/or 4, n/a"),
        ("a", "a"),
    ],
)
def test_a_line_is_shown_without_where_files_lie(line: str, shown: str) -> None:
    assert without_places(line) == shown


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("GGML_ASSERT(n_tokens > 0) failed", "a check in llama.cpp failed"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 99", "it got no more memory"),
        ("CUDA error: PTX JIT compiler library not found", "no code that was built for this GPU"),
        ("CUDA error: no kernel image is available for execution on the device", "no code that was built for this GPU"),
        ("CUDA error: out of memory", "it got no more memory"),
        ("CUDA error: unspecified launch failure", "the GPU or its driver failed"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "it got no more memory"),
    ],
)
def test_llama_cpp_s_last_lines_are_known(line: str, words: str) -> None:
    assert words in explain(LlamaCppBackend.causes, ["noise", line, "ggml-cuda.cu:101: CUDA error"])

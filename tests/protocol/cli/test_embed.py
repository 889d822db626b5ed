"""`vestal embed`: tables for people, JSON lines for programs."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest

from tests.e2e.harness import echo
from tests.protocol.cli.conftest import Begin
from tests.protocol.cli.harness import Vestal
from vestal import messages as m
from vestal.cli.embed import similarity_lines
from vestal.testing import Peer, ScriptedDaemon
from vestal.values import Notice, Usage


def test_json_is_one_line_for_each_text_in_order(served: Vestal) -> None:
    done = served("embed", "--json", "a cat", "a kitten", "a cat")
    assert (done.code, done.err) == (0, "")
    *lines, last = [json.loads(line) for line in done.out.splitlines()]
    assert last["usage"]["input_tokens"] == 6
    assert {name: last[name] for name in ("model", "backend", "parts", "notices")} == {
        "model": "echo", "backend": "echo", "parts": [], "notices": []
    }  # fmt: skip
    assert [line["text_index"] for line in lines] == [0, 1, 2]
    assert lines[0]["embedding"] == lines[2]["embedding"] != lines[1]["embedding"]
    assert math.isclose(math.hypot(*lines[0]["embedding"]), 1.0, rel_tol=1e-6)


def test_lines_of_standard_input_are_texts(served: Vestal) -> None:
    piped = served("embed", "--json", stdin="a cat\na kitten\n")
    assert piped.out == served("embed", "--json", "a cat", "a kitten").out
    assert served("embed", "--json", "-", stdin="a cat\na kitten").out == piped.out


def test_dimensions_are_those_asked_for(served: Vestal) -> None:
    done = served("embed", "--json", "--dimensions", "3", "hello")
    assert len(json.loads(done.out.splitlines()[0])["embedding"]) == 3


def test_the_table_has_each_text_and_the_cosine_of_each_pair(served: Vestal) -> None:
    done = served("embed", "a cat", "a \x1b[31mred cat", "a cat", env={"COLUMNS": "60"})
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "3 texts, 8 dimensions, 7 tokens; echo on echo"
    assert [line.rpartition("…  ")[2] for line in lines[2:5]] == ["a cat", r"a \x1b[31mred cat", "a cat"]
    first, second, third = (line.split() for line in lines[-3:])
    assert first[1] == second[2] == third[3] == first[3] == "1.000"
    assert first[2] == second[1] != "1.000"
    assert max(map(len, lines)) <= 60


def test_one_text_has_no_similarities(served: Vestal) -> None:
    assert "cosine" not in served("embed", "alone").out


def test_no_texts_at_all_are_a_mistake(vestal: Vestal) -> None:
    done = vestal("embed", stdin="")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def test_a_daemon_without_an_embedding_backend_says_what_would_help(vestal: Vestal, begin: Begin) -> None:
    begin(echo())
    done = vestal("embed", "hello")
    assert (done.code, done.out) == (69, "")
    assert "no configured backend can embed" in done.err
    assert "--wait" not in done.err


def test_a_matrix_too_wide_becomes_the_nearest_of_each() -> None:
    rows = [[math.cos(angle), math.sin(angle)] for angle in (0.0, 0.1, 3.0, 3.1, 1.5, 1.6, 4.4, 4.5)]
    lines = similarity_lines(rows, 60)
    assert max(map(len, lines)) <= 60
    assert [line.split()[1] for line in lines[1:]] == ["1", "0", "3", "2", "5", "4", "7", "6"]


@pytest.mark.parametrize("count", [2, 6])
def test_a_matrix_that_fits_is_aligned(count: int) -> None:
    head, *body = similarity_lines([[1.0, 0.5 * index] for index in range(count)], 60)
    assert len({len(line) for line in [head, *body]}) == 1
    assert len(head) <= 60


def test_vectors_of_length_zero_are_similar_to_nothing() -> None:
    assert "0.000" in similarity_lines([[0.0, 0.0], [1.0, 0.0]], 60)[1]


def test_too_many_texts_are_not_compared() -> None:
    assert similarity_lines([[1.0]] * 201, 60) == ["(more than 200 texts: not compared; --json prints the vectors)"]


def test_who_made_how_many_is_told_and_what_was_adjusted_is_a_line_on_stderr(vestal: Vestal) -> None:
    said = "backend 'lost' failed with backend_crashed; 'far' was asked"

    def script(peer: Peer) -> None:
        request = peer.expect(m.Embed)
        fields: dict[str, Any] = {"dimensions": 2, "dtype": "f32le", "data": struct.pack("<6f", *[1] * 6)}
        parts = [m.EmbedPart(backend="near", count=2), m.EmbedPart(backend="far\x1b", count=1)]
        notices = [Notice("retried", said)]
        peer.send(
            m.Embeddings(
                id=request.id,
                count=3,
                usage=Usage(6),
                model="echo",
                backend="near",
                parts=parts,
                notices=notices,
                **fields,
            )
        )

    vestal.runtime_dir.mkdir(mode=0o700)
    with ScriptedDaemon(embed=script, runtime_dir=vestal.runtime_dir):
        done, as_json = vestal("embed", "a", "b", "c"), vestal("embed", "--json", "a", "b", "c")
    last = json.loads(as_json.out.splitlines()[-1])
    assert last["parts"] == [{"backend": "near", "count": 2}, {"backend": "far\x1b", "count": 1}]
    assert last["notices"] == [{"code": "retried", "message": said}]
    assert done.out.splitlines()[0] == r"3 texts, 2 dimensions, 6 tokens; echo on near (2), far\x1b (1)"
    assert done.err == as_json.err == f"vestal: retried: {said}\n"

"""The embed socket: vectors in, in order, in a lane of its own."""

from __future__ import annotations

import math
import struct

import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, echo
from vestal import messages as m
from vestal.values import Usage


def vectors(frame: m.AnyMessage) -> list[tuple[float, ...]]:
    assert isinstance(frame, m.Embeddings), frame
    assert frame.dtype == "f32le"
    rows = list(struct.iter_unpack(f"<{frame.dimensions}f", frame.data))
    assert len(rows) == frame.count
    return rows


def test_one_vector_comes_for_each_text_in_order(shared: Daemon) -> None:
    with shared.embed() as peer:
        peer.send(m.Embed(id=1, input=["a", "b c", "a"]))
        frame = peer.end(1)
        rows = vectors(frame)
        assert isinstance(frame, m.Embeddings)
        assert (frame.backend, frame.model, frame.usage) == ("echo", "echo", Usage(input_tokens=4))
        assert rows[0] == rows[2] != rows[1]
        assert all(math.isclose(math.hypot(*row), 1.0, rel_tol=1e-5) for row in rows)


def test_dimensions_and_normalisation_are_honoured(shared: Daemon) -> None:
    with shared.embed() as peer:
        peer.send(m.Embed(id=1, input=["a"], dimensions=3, normalize=False))
        (row,) = vectors(peer.end(1))
        assert len(row) == 3
        assert not math.isclose(math.hypot(*row), 1.0, rel_tol=1e-3)


def test_both_versions_are_the_same_here(shared: Daemon) -> None:
    with shared.embed(1) as old, shared.embed(2) as new:
        for peer in (old, new):
            peer.send(m.Embed(id=1, input=["same"]))
        assert vectors(old.end(1)) == vectors(new.end(1))


def test_many_requests_on_one_connection_each_get_their_own_vectors(shared: Daemon) -> None:
    with shared.embed() as peer:
        peer.send(*(m.Embed(id=id, input=[str(id)] * (1 + id % 3)) for id in range(50)))
        rows = {id: vectors(peer.end(id)) for id in range(50)}
        assert {len(row) for row in rows.values()} == {1, 2, 3}
        assert len({row[0] for row in rows.values()}) == 50


def test_embedding_does_not_wait_for_generation(start: Start) -> None:
    daemon = start(echo(embed=True, fault="hang"))
    with daemon.infer() as busy, daemon.embed() as peer:
        busy.send(busy.request(1), busy.request(2))
        busy.ping()
        peer.send(m.Embed(id=1, input=["past the queue"]))
        assert len(vectors(peer.end(1))) == 1


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_full_generation_queue_delays_no_embedding_and_a_full_embedding_queue_no_answer(
    start: Start, isolation: str
) -> None:
    daemon = start(
        echo(embed=True, fault="hang", isolation=isolation),
        echo("quick"),
        admission={"queue_depth": 3, "per_caller": 3},
    )
    with daemon.infer() as busy, daemon.embed() as peer, daemon.admin() as admin:
        busy.send(*(busy.request(id, model="echo") for id in range(5)))
        assert busy.error(4).code == "queue_full"
        for id in range(10):
            peer.send(m.Embed(id=id, input=["past the queue"] * 3))
            assert len(vectors(peer.end(id))) == 3
        status = admin.command(m.Status(id=1), m.StatusReport)
        assert (status.running, status.waiting) == (1, 3), "nobody was let out of the other queue for it"
        # One write with more embeddings than may wait: those refused are refused by the bound of their own queue.
        peer.send(*(m.Embed(id=id, input=["x" * 1000] * 64) for id in range(10, 30)))
        ends = [peer.end(id) for id in range(10, 30)]
        refused = [end for end in ends if isinstance(end, m.Error)]
        assert {end.code for end in refused} <= {"queue_full"}
        assert len(ends) - len(refused) >= 4
        busy.send(m.Cancel(id=3))
        assert busy.done(3).stop_reason == "cancelled"
        assert busy.generate(9, "unhindered", model="quick")[0] == "unhindered"


def test_a_cancel_of_an_id_that_is_unknown_has_no_effect(shared: Daemon) -> None:
    with shared.embed() as peer:
        peer.send(m.Cancel(id=3))
        peer.ping()
        assert not peer.untaken


def test_a_backend_that_does_not_embed_is_not_asked(shared: Daemon) -> None:
    with shared.embed() as peer:
        peer.send(m.Embed(id=1, input=["a"], model="v1"))
        error = peer.error(1)
        assert error.code == "unsupported"
        assert error.hint is not None
        assert "echo" in error.hint

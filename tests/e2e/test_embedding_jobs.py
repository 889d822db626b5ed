"""A thousand texts over two backends: the answer is that of one, and a killed worker costs only time."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest

from tests.e2e.conftest import Start
from tests.e2e.harness import Daemon, Table, echo
from vestal import messages as m
from vestal.errors import BackendCrashed

TEXTS = [f"text number {number} of a thousand" for number in range(1000)]


def twins(**options: object) -> tuple[Table, Table]:
    """Two backends of one model, each in a worker of its own."""
    given = {"embed": True, "isolation": "process", **options}
    return echo("left", **given), echo("right", **given)


def parts(frame: m.Embeddings) -> list[tuple[str, int]]:
    return [(part.backend, part.count) for part in frame.parts]


def embedded(daemon: Daemon, model: str) -> m.Embeddings:
    with daemon.embed() as peer:
        peer.send(m.Embed(id=1, input=TEXTS, model=model))
        frame = peer.end(1)
        assert isinstance(frame, m.Embeddings), frame
        return frame


def hold(daemon: Daemon, *names: str) -> dict[str, int]:
    """Stop these workers, so that what they are given stays in them; their pids."""
    pids = {name: daemon.backend(name).pid for name in names}
    held = {name: pid for name, pid in pids.items() if pid is not None}
    for pid in held.values():
        os.kill(pid, signal.SIGSTOP)
    return held


def test_two_backends_answer_as_one_does(start: Start) -> None:
    daemon = start(*twins())
    alone, shared = embedded(daemon, "left"), embedded(daemon, "echo")
    assert (alone.parts, alone.backend) == ([], "left")
    assert (parts(shared), shared.backend) == ([("left", 500), ("right", 500)], "left")
    assert shared.notices == []
    assert (shared.count, shared.data, shared.usage) == (1000, alone.data, alone.usage)


def test_a_worker_that_is_killed_with_its_part_costs_no_more_than_a_notice(start: Start) -> None:
    daemon = start(*twins())
    alone = embedded(daemon, "left")
    with daemon.embed() as peer:
        held = hold(daemon, "right")
        peer.send(m.Embed(id=1, input=TEXTS, model="echo"))
        peer.ping()
        assert daemon.backend("right").running == 1
        os.kill(held["right"], signal.SIGKILL)
        frame = peer.end(1)
        assert isinstance(frame, m.Embeddings), frame
        assert parts(frame) == [("left", 500), ("left", 500)]
        assert frame.data == alone.data
        (notice,) = frame.notices
        assert notice.code == "retried"
        assert all(word in notice.message for word in ("'left'", "'right'", BackendCrashed.code))
        peer.ping()
        assert not peer.untaken


def test_a_worker_that_hangs_and_is_removed_costs_no_more_than_a_notice(start: Start) -> None:
    daemon = start(*twins())
    alone = embedded(daemon, "left")
    with daemon.embed() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        hold(daemon, "right")
        peer.send(m.Embed(id=1, input=TEXTS, model="echo"))
        peer.ping()
        assert daemon.backend("right").running == 1
        admin.command(m.RemoveBackend(id=1, backend="right", deadline_ms=100), m.Acknowledged)
        frame = peer.end(1)
        assert isinstance(frame, m.Embeddings), frame
        assert (parts(frame), frame.data) == ([("left", 500), ("left", 500)], alone.data)
        assert [notice.code for notice in frame.notices] == ["retried"]
        admin.event("backend_removed", backend="right")
        peer.ping()
        assert not peer.untaken


def test_a_part_that_waits_for_a_worker_which_comes_back_without_embedding_goes_to_the_other(start: Start) -> None:
    daemon = start(*twins())
    alone = embedded(daemon, "left")
    with daemon.embed() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=0))
        hold(daemon, "right")
        peer.send(m.Embed(id=1, input=TEXTS, model="right"))
        peer.send(m.Embed(id=2, input=TEXTS, model="echo"))
        peer.ping()
        assert (daemon.backend("right").running, daemon.backend("right").waiting) == (1, 1)
        left, right = twins()
        daemon.rewrite(left, {**right, "embed": False})
        admin.command(m.RestartBackend(id=1, backend="right", deadline_ms=100), m.Acknowledged)
        assert peer.error(1).code == "backend_unavailable"
        frame = peer.end(2)
        assert isinstance(frame, m.Embeddings), frame
        assert (parts(frame), frame.data, frame.notices) == ([("left", 500), ("left", 500)], alone.data, [])


def test_where_both_workers_are_killed_there_is_one_error_and_then_both_are_back(start: Start) -> None:
    daemon = start(*twins(ready_delay="1s"))
    with daemon.embed() as peer, daemon.admin() as admin:
        admin.send(m.Subscribe(id=1))
        held = hold(daemon, "left", "right")
        peer.send(m.Embed(id=1, input=TEXTS, model="echo"))
        peer.ping()
        assert [daemon.backend(name).running for name in held] == [1, 1]
        for pid in held.values():
            os.kill(pid, signal.SIGKILL)
        assert peer.error(1).code in (BackendCrashed.code, "backend_unavailable")
        peer.ping()
        assert not peer.untaken
        for name in held:
            admin.event("backend_state", backend=name, state="ready")
        assert parts(embedded(daemon, "echo")) == [("left", 500), ("right", 500)]


@pytest.mark.model
@pytest.mark.timeout(240)
def test_two_engines_with_the_real_model_answer_as_one_does(start: Start, model_home: Path) -> None:
    vectors: Mapping[str, object] = {"adapter": "llamacpp", "model": "minilm-l6-v2", "threads": 1}
    daemon = start({"name": "left", **vectors}, {"name": "right", **vectors}, environ={"VESTAL_HOME": str(model_home)})
    alone, shared = embedded(daemon, "left"), embedded(daemon, "minilm-l6-v2")
    assert parts(shared) == [("left", 500), ("right", 500)]
    ours, theirs = (
        numpy.frombuffer(frame.data, "<f4").reshape(frame.count, frame.dimensions) for frame in (shared, alone)
    )
    cosines = (ours * theirs).sum(axis=1)  # of length one, all of them
    assert cosines.min() > 0.9999, "in order, up to the rounding of other texts in the same batch"

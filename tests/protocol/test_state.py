"""The tables are whole: every state is reachable, ends are ends, and every frame has its place."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

import pytest

from vestal import messages as m
from vestal import state
from vestal.state import CONNECTION, OPENING, REQUEST, ConnectionState, RequestState, next_state

S = TypeVar("S", bound=Enum)
TERMINAL = {"done", "error", "embeddings", "counted"}


def reachable(table: Mapping[tuple[S, str], S], start: S) -> set[S]:
    seen, fresh = {start}, [start]
    while fresh:
        here = fresh.pop()
        after = {then for (before, _), then in table.items() if before is here} - seen
        seen |= after
        fresh += after
    return seen


def frames_with_an_id() -> set[str]:
    return {
        str(cls.__struct_config__.tag)
        for union in (m.InferReply, m.EmbedReply, m.AdminReply)
        for cls in union.__args__
        if "id" in cls.__struct_fields__
    }


def test_every_connection_state_is_reached_from_the_first() -> None:
    assert reachable(CONNECTION, ConnectionState.HELLO) == set(ConnectionState)


def test_a_connection_ends_from_every_state_and_a_closed_one_stays_closed() -> None:
    assert all(CONNECTION[here, "eof"] is ConnectionState.CLOSED for here in ConnectionState)
    assert {what for (here, what) in CONNECTION if here is ConnectionState.CLOSED} == {"eof"}


def test_nothing_but_the_end_follows_the_last_word() -> None:
    assert {what for (here, what) in CONNECTION if here is ConnectionState.CLOSING} == {"eof"}


def test_every_request_state_is_reached_from_the_message_that_opens_it() -> None:
    reached = set[RequestState]().union(*(reachable(REQUEST, start) for start in OPENING.values()))
    assert reached == set(RequestState)


@pytest.mark.parametrize("here", [here for here in RequestState if here is not RequestState.ENDED])
def test_a_request_can_always_fail(here: RequestState) -> None:
    assert next_state(here, "error") is RequestState.ENDED


def test_an_ended_request_takes_no_frame_at_all() -> None:
    assert not [frame for (here, frame) in REQUEST if here is RequestState.ENDED]


def test_a_terminal_frame_always_ends_and_no_other_frame_of_a_generate_does() -> None:
    for (here, frame), after in REQUEST.items():
        if here is not RequestState.ADMIN:
            assert (frame in TERMINAL) is (after is RequestState.ENDED), (here, frame)


def test_one_frame_ends_an_admin_command() -> None:
    assert {after for (here, _), after in REQUEST.items() if here is RequestState.ADMIN} == {RequestState.ENDED}


def test_every_frame_that_carries_an_id_is_legal_somewhere_and_the_tables_know_no_others() -> None:
    assert {frame for (_, frame) in REQUEST} == frames_with_an_id()


def test_every_message_a_client_sends_opens_a_request_or_is_cancel_or_ping() -> None:
    requests = {
        str(cls.__struct_config__.tag)
        for union in (m.InferRequestV1, m.InferRequestV2, m.EmbedRequest, m.AdminRequest)
        for cls in union.__args__
    }
    assert requests == set(OPENING) | {"cancel", "ping"}


def test_output_never_comes_while_a_request_is_said_to_be_queued() -> None:
    for piece in ("token", "text", "thinking", "tool_use"):
        assert next_state(RequestState.QUEUED, piece) is None


def test_a_request_may_wait_and_start_again_until_something_of_its_answer_has_come() -> None:
    for here in (RequestState.GENERATE, RequestState.QUEUED, RequestState.STARTED):
        assert next_state(here, "queued") is RequestState.QUEUED
        assert next_state(here, "started") is RequestState.STARTED
    assert next_state(RequestState.STREAMING, "queued") is None
    assert next_state(RequestState.STREAMING, "started") is None


def test_every_exported_name_exists() -> None:
    assert all(hasattr(state, name) for name in state.__all__)

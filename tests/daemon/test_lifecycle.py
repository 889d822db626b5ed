"""The two life tables, and the machine that asks them."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal import messages as m
from vestal.values import BackendState, LifecycleState
from vestald.lifecycle import ADMIN_COMMANDS, BACKEND, DAEMON, IllegalTransition, Machine

TABLES = pytest.mark.parametrize(
    ("table", "states"),
    [(DAEMON, get_args(LifecycleState)), (BACKEND, get_args(BackendState))],
    ids=["daemon", "backend"],
)


@TABLES
def test_every_state_of_the_wire_has_its_row_and_leads_only_to_states(
    table: dict[str, frozenset[str]], states: tuple[str, ...]
) -> None:
    assert set(table) == set(states)
    assert frozenset().union(*table.values()) <= set(states)


@TABLES
def test_every_state_can_be_reached_and_from_each_there_is_a_way_to_stopped(
    table: dict[str, frozenset[str]], states: tuple[str, ...]
) -> None:
    def reachable(state: str) -> set[str]:
        seen, todo = {state}, [state]
        while todo:
            todo += (new := table[todo.pop()] - seen)
            seen |= new
        return seen

    assert reachable("starting") == set(states)
    assert all("stopped" in reachable(state) for state in states)


def test_a_stop_is_legal_from_everywhere_but_the_end() -> None:
    for state, after in DAEMON.items():
        assert ("stopping" in after) == (state not in {"stopping", "stopped", "failed"})


def test_a_daemon_that_has_stopped_or_failed_never_serves_again() -> None:
    serving = {"ready", "draining", "loading"}
    for state in ("stopping", "stopped", "failed"):
        assert not DAEMON[state] & serving


@pytest.mark.parametrize("before", get_args(LifecycleState))
@pytest.mark.parametrize("after", get_args(LifecycleState))
def test_a_machine_takes_exactly_the_steps_of_its_table(before: LifecycleState, after: LifecycleState) -> None:
    seen: list[tuple[str, str]] = []
    machine: Machine[LifecycleState] = Machine("daemon", DAEMON, before, lambda a, b: seen.append((a, b)))
    assert machine.may(after) == (after in DAEMON[before])
    if before == after:
        machine.to(after)
        assert (machine.state, seen) == (before, [])
    elif machine.may(after):
        machine.to(after)
        assert (machine.state, seen) == (after, [(before, after)])
    else:
        with pytest.raises(IllegalTransition, match=f"daemon: {before} → {after} is not in the table"):
            machine.to(after)
        assert (machine.state, seen) == (before, [])


@given(st.lists(st.sampled_from(get_args(BackendState))))
def test_a_machine_is_always_where_its_last_legal_step_led(steps: list[BackendState]) -> None:
    machine: Machine[BackendState] = Machine("backend", BACKEND, "starting")
    state: BackendState = "starting"
    for step in steps:
        try:
            machine.to(step)
        except IllegalTransition:
            continue
        assert step == state or step in BACKEND[state]
        state = step
    assert machine.state == state


def test_the_machine_has_moved_when_its_listener_hears_of_it() -> None:
    heard: list[str] = []
    machine: Machine[BackendState] = Machine("b", BACKEND, "starting", lambda _b, _a: heard.append(machine.state))
    machine.to("loading")
    assert heard == ["loading"]


def test_every_admin_message_has_its_row() -> None:
    tags = {str(member.__struct_config__.tag) for member in m.AdminRequest.__args__}
    assert set(ADMIN_COMMANDS) == tags
    assert all(legal <= set(get_args(LifecycleState)) for legal in ADMIN_COMMANDS.values())


def test_looking_and_stopping_are_always_legal() -> None:
    always = {command for command, legal in ADMIN_COMMANDS.items() if legal == frozenset(DAEMON)}
    assert always == {"ping", "status", "subscribe", "backends", "queue", "metrics", "cancel_request", "stop"}


def test_a_machine_prints_its_state() -> None:
    assert repr(Machine("daemon", DAEMON, "loading")) == "<Machine daemon loading>"

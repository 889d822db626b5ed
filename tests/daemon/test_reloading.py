"""What a reload finds different, and that every option which says it is live is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.errors import InvalidRequest
from vestald.config import AdmissionConfig, BackendTable, Config, SocketsConfig, Sources
from vestald.config.table import options_of
from vestald.config.values import to_text
from vestald.house import House
from vestald.reloading import compared, in_order

ECHO = '[[backend]]\nname = "echo"\nadapter = "echo"\n'


def table(name: str, adapter: str = "echo", **options: object) -> BackendTable:
    return BackendTable(name, adapter, options)


def told(old: Config, new: Config) -> tuple[list[str], list[str]]:
    _, applied, kept = compared(old, new)
    return [str(change) for change in applied], [str(change) for change in kept]


def test_what_is_the_same_is_not_told() -> None:
    assert told(Config(backends=(table("a"),)), Config(backends=(table("a"),), source=Path("/x"))) == ([], [])


def test_only_what_is_live_gets_into_the_configuration_that_holds() -> None:
    new = Config(
        admission=AdmissionConfig(queue_depth=5, weights={"7": 2.0}),
        sockets=SocketsConfig(group="users", connections_per_uid=3),
        backends=(table("a"),),
        source=Path("/x"),
    )
    config, applied, kept = compared(Config(), new)
    assert [str(change) for change in applied] == [
        "sockets.connections_per_uid: 256 -> 3",
        "admission.queue_depth: 64 -> 5",
        'admission.weights: {} -> { "7" = 2 }',
    ]
    assert [str(change) for change in kept] == ['sockets.group: - -> "users"', "backend.a: - -> echo"]
    assert (config.admission, config.backends, config.source) == (new.admission, (), new.source)
    assert config.sockets == SocketsConfig(connections_per_uid=3)


def test_backends_are_compared_by_name_and_by_what_counts() -> None:
    old = Config(backends=(table("a", slots=1), table("b", token_delay="1s"), table("c")))
    new = Config(backends=(table("b", token_delay="2s"), table("a"), table("d")))
    assert told(old, new)[0] == ["backend: a, b, c -> b, a, c"]
    assert told(old, new)[1] == [
        'backend.b.token_delay: "1s" -> "2s"',  # slots = 1 is the default of a
        "backend.c: echo -> -",
        "backend.d: - -> echo",
    ]
    turned = Config(backends=tuple(reversed(old.backends)))
    assert told(old, turned) == (["backend: a, b, c -> c, b, a"], [])
    assert [table.name for table in compared(old, turned)[0].backends] == ["c", "b", "a"]
    other = Config(backends=(table("a", "llamacpp", model="x"), *old.backends[1:]))
    assert told(old, other)[1] == ["backend.a: echo -> llamacpp"]


@given(st.permutations("abcdef"), st.permutations("abcdefgh"), st.integers(0, 6), st.integers(0, 8))
def test_what_runs_follows_the_file_and_what_it_has_no_more_stays(
    running: list[str], declared: list[str], runs: int, has: int
) -> None:
    running, declared = running[:runs], declared[:has]
    order = in_order(running, declared)
    assert sorted(order) == sorted(running)
    assert [name for name in order if name in declared] == [name for name in declared if name in running]
    assert all(order[place] == name for place, name in enumerate(running) if name not in declared)
    assert in_order(order, declared) == order


# --- every live option ----------------------------------------------------------------------------------------

PROBES: dict[str, tuple[Any, Callable[[House], object], object]] = {
    "daemon.drain_deadline": ("3s", lambda h: float(h.config.daemon.drain_deadline), 3.0),
    "daemon.ready_timeout": ("3s", lambda h: float(h.config.daemon.ready_timeout), 3.0),
    "daemon.probe_interval": ("3s", lambda h: h.roster.rounds._interval(), 3.0),
    "daemon.log_level": ("error", lambda _: logging.getLogger().level, logging.ERROR),
    "sockets.max_frame": (65536, lambda h: h.offer("infer", "s").limits.frame, 65536),
    "sockets.handshake_timeout": ("3s", lambda h: h.handshake_timeout, 3.0),
    "sockets.connections_per_uid": (3, lambda h: h.offer("infer", "s").limits.connections_per_uid, 3),
    **{
        f"sockets.{socket}.{rule}": ([7], lambda h, s=socket, r=rule: getattr(h.access[s], r), frozenset({7}))  # type: ignore[misc]
        for socket in ("infer", "embed")
        for rule in ("allow_users", "deny_users", "allow_groups", "deny_groups")
    },
    "admission.queue_depth": (3, lambda h: {d.scheduler.queue_depth for d in (h.generating, h.embedding)}, {3}),
    "admission.per_caller": (3, lambda h: {d.scheduler.per_caller for d in (h.generating, h.embedding)}, {3}),
    "admission.requests_per_connection": (3, lambda h: h.requests_per_connection, 3),
    "admission.write_timeout": ("3s", lambda h: h.write_timeout, 3.0),
    "admission.queue_timeout": ("3s", lambda h: h.deadlines.waiting(None), 3.0),
    "admission.max_queue_timeout": ("3s", lambda h: h.deadlines.waiting(None), 3.0),
    "admission.timeout": ("3s", lambda h: h.deadlines.whole(None), 3.0),
    "admission.max_timeout": ("3s", lambda h: h.deadlines.whole(None), 3.0),
    "admission.unavailable_timeout": ("3s", lambda h: h.generating.scheduler.unavailable_timeout, 3.0),
    "admission.tokens_per_minute": (3, lambda h: h.generating.scheduler._quotas._limit_of(7), 3),
    "admission.quotas": ({"7": 3}, lambda h: h.generating.scheduler._quotas._limit_of(7), 3),
    "router.policy": ("least_busy", lambda h: h.routes.policy, "least_busy"),
    "router.retry_before_first_token": (1, lambda h: h.routes.retries, 1),
    "router.breaker_failures": (7, lambda h: h.routes._rules.failures, 7),
    "router.breaker_window": ("7s", lambda h: float(h.routes._rules.window), 7.0),
    "router.breaker_cold": ("7s", lambda h: float(h.routes._rules.cold), 7.0),
    "router.unnamed": ("local", lambda h: h.routes.unnamed, "local"),
    "admission.interactive": (["7"], lambda h: h.rules.interactive(8), False),
    "admission.weights": ({"7": 3.0}, lambda h: h.embedding.scheduler._weight_of(7), 3.0),
}
"""A value for each live option, where the daemon looks it up, and what it finds there after the reload."""


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    """The level of the log as it was."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


def test_every_live_option_is_probed() -> None:
    assert set(PROBES) == {option.key for option in options_of(Config) if option.field.trait.live}


@pytest.mark.parametrize("key", PROBES)
def test_a_live_option_holds_after_the_reload(tmp_path: Path, key: str) -> None:
    value, probe, after = PROBES[key]
    section, _, name = key.rpartition(".")
    file = tmp_path / "v.toml"
    file.write_text(ECHO)

    async def main() -> None:
        sources = Sources(file, environ={})
        house = House(sources.read(), lambda _deadline, _why: None, sources)
        before = probe(house)
        assert before != after
        file.write_text(f"[{section}]\n{name} = {to_text(value)}\n{ECHO}")
        done = house.reload("a test")
        assert [change.key for change in done.applied] == [key]
        assert probe(house) == after
        file.write_text(ECHO)
        assert [change.key for change in house.reload("a test").applied] == [key]
        if key != "daemon.log_level":  # the test's own level was another
            assert probe(house) == before

    asyncio.run(main())


def test_a_daemon_without_sources_says_so() -> None:
    async def main() -> None:
        house = House(Config(backends=(table("echo"),)), lambda _deadline, _why: None)
        with pytest.raises(InvalidRequest, match="no configuration to read again"):
            house.reload("a test")

    asyncio.run(main())


def test_the_events_tell_what_was_done_and_what_was_refused(tmp_path: Path) -> None:
    file = tmp_path / "v.toml"
    file.write_text(ECHO)
    events: list[tuple[str, dict[str, Any]]] = []

    async def main() -> None:
        sources = Sources(file, environ={})
        house = House(sources.read(), lambda _deadline, _why: None, sources)
        house.events.subscribe(lambda _seq, kind, facts: events.append((kind, facts)))
        file.write_text(f"[admission]\nqueue_depth = 3\n[audit]\nfiles = 4\n{ECHO}")
        house.reload("uid 7")
        file.write_text(f"[admission]\nqueue_depth = 4\n{ECHO}slots = 0\n")
        config, rules = house.config, house.rules
        with pytest.raises(InvalidRequest, match="nothing was changed"):
            house.reload("uid 7")
        assert (house.config, house.rules) == (config, rules)

    asyncio.run(main())
    (done, facts), (refused, faults) = events
    assert (done, facts) == (
        "reloaded",
        {"by": "uid 7", "applied": ["admission.queue_depth: 64 -> 3"], "restart_to_apply": ["audit.files: 3 -> 4"]},
    )
    assert refused == "reload_refused"
    assert [fault.rpartition("/")[2] for fault in faults["faults"]] == [
        "v.toml:6: backend echo.slots: expected `int` >= 1, got 0; legal: 1 to 4,096"
    ]
    msgspec.msgpack.encode(faults)

"""Events reach every subscriber in order, and the log, and hold nothing that the log could be misled by."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from vestald.events import EventHub

Heard = list[tuple[int, str, dict[str, Any]]]


def test_every_subscriber_hears_every_event_in_order_from_when_it_subscribed() -> None:
    hub, early, late = EventHub(), Heard(), Heard()
    hub.subscribe(lambda *event: early.append(event))
    hub.emit("one", a=1)
    hub.subscribe(lambda *event: late.append(event))
    hub.emit("two", b="x")
    assert early == [(1, "one", {"a": 1}), (2, "two", {"b": "x"})]
    assert late == early[1:]
    assert hub.seq == 2


def test_who_has_unsubscribed_hears_no_more_and_may_do_so_twice() -> None:
    hub, heard = EventHub(), Heard()
    unsubscribe = hub.subscribe(lambda *event: heard.append(event))
    hub.emit("one")
    unsubscribe()
    unsubscribe()
    hub.emit("two")
    assert [kind for _, kind, _ in heard] == ["one"]


def test_a_subscriber_may_leave_or_join_while_it_hears() -> None:
    hub, heard = EventHub(), list[str]()

    def once(_seq: int, kind: str, _facts: dict[str, Any]) -> None:
        heard.append(kind)
        unsubscribe()
        hub.subscribe(lambda _seq, kind, _facts: heard.append(f"later {kind}"))

    unsubscribe = hub.subscribe(once)
    hub.emit("one")
    hub.emit("two")
    assert heard == ["one", "later two"]


@pytest.mark.parametrize(
    ("level", "number"),
    [("debug", logging.DEBUG), ("info", logging.INFO), ("warning", logging.WARNING), ("error", logging.ERROR)],
)
def test_an_event_is_one_line_of_the_log_at_its_level(
    caplog: pytest.LogCaptureFixture, level: str, number: int
) -> None:
    with caplog.at_level(logging.DEBUG, "vestald"):
        EventHub().emit("backend_state", level=level, backend="chat", state="ready", detail="")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (number, "backend_state backend=chat state=ready detail=")


def test_a_level_that_is_off_still_reaches_the_subscribers(caplog: pytest.LogCaptureFixture) -> None:
    hub, heard = EventHub(), Heard()
    hub.subscribe(lambda *event: heard.append(event))
    with caplog.at_level(logging.WARNING, "vestald"):
        hub.emit("quiet", level="debug")
    assert (caplog.records, len(heard)) == ([], 1)


@pytest.mark.parametrize("value", ["a b", "a\nb", "a\x1b[31mb", "ü", "a\tb", "a\u2028b"])
def test_a_value_cannot_break_or_colour_the_line(caplog: pytest.LogCaptureFixture, value: str) -> None:
    with caplog.at_level(logging.INFO, "vestald"):
        EventHub().emit("kind", detail=value)
    assert caplog.records[0].getMessage() == f"kind detail={value!a}"

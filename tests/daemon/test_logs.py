"""A log line is one line of ASCII JSON, whatever is in it, and never quotes what a fault says."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vestald import logs
from vestald.events import EventHub

CANARY = "canary-5f1d"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def restored() -> Iterator[None]:
    """The root logger as it was before the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(write: Callable[[], object], stream: io.StringIO | None = None) -> list[str]:
    stream = stream or io.StringIO()
    logs.configure("debug", stream)
    write()
    return stream.getvalue().split("\n")[:-1]


def fail(text: str) -> None:
    raise ValueError(text)


def log_a_fault() -> None:
    try:
        fail(CANARY)
    except ValueError:
        logging.getLogger("vestald").exception("a fault")


@pytest.mark.usefixtures("restored")
def test_an_event_is_one_object_with_its_facts() -> None:
    (line,) = lines(lambda: EventHub().emit("backend_state", level="warning", backend="chat", state="failed", n=3))
    fields = json.loads(line)
    assert fields.pop("time").endswith("+00:00")
    assert fields == {"level": "warning", "event": "backend_state", "backend": "chat", "state": "failed", "n": 3}


@pytest.mark.usefixtures("restored")
def test_a_fact_cannot_pass_for_what_the_line_itself_says() -> None:
    facts: dict[str, Any] = {"event": "start", "level_": 1, "time": "never"}
    (line,) = lines(lambda: EventHub().emit("x", **facts))
    assert (json.loads(line)["event"], json.loads(line)["event_"], json.loads(line)["time_"]) == ("x", "start", "never")


@pytest.mark.usefixtures("restored")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.text(alphabet=st.characters()), st.booleans())
def test_whatever_the_text_a_line_stays_one_line_of_ascii(text: str, to_people: bool) -> None:
    for write in (
        lambda: logging.getLogger("vestald").warning("%s", text),
        lambda: EventHub().emit("kind", detail=text),
    ):
        (line,) = lines(write, Terminal() if to_people else None)
        assert line.isascii()
        assert line.isprintable()
        if not to_people:
            json.loads(line)


@pytest.mark.usefixtures("restored")
def test_a_long_text_is_cut_and_says_so() -> None:
    (line,) = lines(lambda: EventHub().emit("kind", detail="x" * 5000))
    assert json.loads(line)["detail"] == "x" * logs.MAX_TEXT + f"...[{5000 - logs.MAX_TEXT} more]"


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("stream", [None, Terminal()])
def test_a_fault_is_told_by_type_and_place_and_not_by_its_words(stream: io.StringIO | None) -> None:
    text = "\n".join(lines(log_a_fault, stream))
    assert "Traceback (most recent call last)" in text or stream is not None
    assert "ValueError" in text
    assert "in fail" in text
    assert CANARY not in text


@pytest.mark.usefixtures("restored")
def test_the_event_loop_quotes_no_exception() -> None:
    async def live() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(logs.report_fault)
        loop.call_soon(fail, CANARY)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    (line,) = lines(lambda: asyncio.run(live()))[-1:]
    fields: dict[str, Any] = json.loads(line)
    assert fields["level"] == "error"
    assert "ValueError" in fields["trace"]
    assert CANARY not in line

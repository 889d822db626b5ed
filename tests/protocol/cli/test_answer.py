"""An answer on its way to the user: pieces, thinking, places in the queue, and the notes at the end."""

from __future__ import annotations

import io
from argparse import Namespace

import pytest

from vestal import messages as m
from vestal.cli.answer import Printer, notes_of, stats_line
from vestal.cli.terminal import Screen
from vestal.results import GenerateEvent, Result
from vestal.values import Notice, StopReason, TextBlock, Timings, Usage


def result(text: str = "yes", stop: StopReason = "end", *notices: Notice, **timings: float) -> Result:
    return Result(
        content=[TextBlock(text)],
        stop_reason=stop,
        usage=Usage(1200, 200, 42),
        backend="chat",
        model="smollm2-135m",
        timings=Timings(**timings),
        notices=list(notices),
    )


def shown(capsys: pytest.CaptureFixture[str], *events: GenerateEvent, quiet: bool = False) -> tuple[str, str]:
    beside = io.StringIO()
    printer = Printer(Screen(beside), quiet=quiet)
    for event in events:
        printer.show(event)
    printer.end()
    return capsys.readouterr().out, beside.getvalue()


def test_pieces_of_both_versions_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    events = m.Token(1, "a"), m.Text(1, "b\x1b"), m.ThinkingDelta(1, "hm"), m.Token(1, "")
    assert shown(capsys, *events) == ("ab\x1b\n", "")


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, m.Token(1, "a"), quiet=True) == ("", "")


def test_no_answer_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, m.Queued(id=1, position=1, depth=1)) == ("", "")


@pytest.mark.parametrize(
    ("stop", "note"),
    [
        ("length", "cut after 42 tokens: --max-tokens allows no more"),
        ("refused", "the model refused to go on"),
        ("tool_use", "the model asks for a tool, and this command has none"),
        ("cancelled", "cancelled by the daemon's operator after 42 tokens"),
    ],
)
def test_an_answer_that_is_not_simply_whole_has_a_note(stop: StopReason, note: str) -> None:
    assert notes_of(result(stop=stop), Namespace(max_tokens=42), interrupted=False) == [note]


def test_a_cut_that_the_user_did_not_ask_for_is_told_apart() -> None:
    (note,) = notes_of(result(stop="length"), Namespace(max_tokens=None), interrupted=False)
    assert note == "cut after 42 tokens: the context or the model's limit is reached"


@pytest.mark.parametrize("stop", ["end", "stop_sequence"])
def test_a_whole_answer_has_none(stop: StopReason) -> None:
    assert notes_of(result(stop=stop), Namespace(max_tokens=None), interrupted=False) == []


def test_what_the_daemon_adjusted_is_told_and_an_empty_answer_too() -> None:
    notes = notes_of(
        result("", "end", Notice("context_shifted", "12 tokens")), Namespace(max_tokens=None), interrupted=False
    )
    assert notes == ["the answer is empty (stop reason: end)", "context_shifted: 12 tokens"]


def test_an_interrupted_answer_was_cancelled_by_the_user() -> None:
    assert notes_of(result("", "cancelled"), Namespace(max_tokens=None), interrupted=True) == [
        "cancelled after 42 tokens"
    ]


def test_stats_count_the_rate_from_the_first_token_on() -> None:
    line = stats_line(result(queue_ms=3.2, first_token_ms=210.4, decode_ms=1000))
    assert line == (
        "42 tokens, 41.0 tok/s, first after 210 ms, queued 3 ms, prompt 1,200 tokens (200 cached); smollm2-135m on chat"
    )


def test_stats_without_time_have_no_rate() -> None:
    assert "tok/s" not in stats_line(result())
